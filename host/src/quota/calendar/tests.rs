//! The calendar against one that others made, and against clocks that step.

use jiff::{Timestamp, ToSpan, civil::DateTime, tz::TimeZone};
use proptest::prelude::{ProptestConfig, prop, proptest};
use proptest::prop_assert;

use super::*;
use crate::policy::MOST_UNITS;

const PERIODS: [Period; 4] = [Period::Hour, Period::Day, Period::Week, Period::Month];
const DAY_US: u64 = 86_400_000_000;

fn at(unix_us: u64) -> Moment {
    Moment { monotonic_us: 0, unix_us }
}

fn us(text: &str) -> u64 {
    let civil: DateTime = text.parse().expect("a date and a time");
    let timestamp = civil.to_zoned(TimeZone::UTC).expect("a time of UTC").timestamp();
    u64::try_from(timestamp.as_microsecond()).expect("after 1970")
}

/// Where the period begins and ends that holds this moment, as jiff says.
fn bounds(period: Period, unix_us: u64) -> (u64, u64) {
    let timestamp = Timestamp::from_microsecond(i64::try_from(unix_us).expect("a near time")).expect("a near time");
    let now = timestamp.to_zoned(TimeZone::UTC);
    let day = now.start_of_day().expect("UTC has all days");
    let (start, length) = match period {
        Period::Hour => (day.checked_add(i64::from(now.hour()).hours()), 1.hour()),
        Period::Day => (Ok(day), 1.day()),
        Period::Week => (day.checked_sub(i64::from(now.weekday().to_monday_zero_offset()).days()), 1.week()),
        Period::Month => (day.first_of_month(), 1.month()),
    };
    let start = start.expect("a near time");
    let end = start.checked_add(length).expect("a near time");
    let us = |time: jiff::Zoned| u64::try_from(time.timestamp().as_microsecond()).unwrap_or(0);
    (us(start), us(end))
}

#[track_caller]
fn check(period: Period, unix_us: u64) {
    let (start, end) = bounds(period, unix_us);
    assert_eq!(end_of(period, unix_us), end, "{period:?} at {unix_us}");
    // The first week began before there were numbers for it.
    if unix_us >= 7 * DAY_US {
        assert_eq!(length_before(period, end), end - start, "{period:?} at {unix_us}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn periods_end_where_they_should(unix_us in 0_u64..200_000_000_000_000_000) {
        for period in PERIODS {
            check(period, unix_us);
        }
    }
}

#[test]
fn every_day_of_four_centuries_lies_in_its_month_and_week() {
    for day in 0..146_097 + 366 {
        for period in [Period::Day, Period::Week, Period::Month] {
            check(period, day * DAY_US);
            check(period, (day + 1) * DAY_US - 1);
        }
    }
}

#[test]
fn the_ends_that_people_get_wrong() {
    for (period, now, end) in [
        (Period::Month, "2024-02-29T23:59:59.999999", "2024-03-01T00:00"),
        (Period::Month, "2023-02-28T00:00", "2023-03-01T00:00"),
        (Period::Month, "2000-02-29T12:00", "2000-03-01T00:00"),
        (Period::Month, "2100-02-28T12:00", "2100-03-01T00:00"),
        (Period::Month, "2100-03-01T00:00", "2100-04-01T00:00"),
        (Period::Month, "2026-12-31T23:59:59", "2027-01-01T00:00"),
        (Period::Week, "2026-06-08T00:00", "2026-06-15T00:00"),
        (Period::Week, "2026-06-14T23:59:59.999999", "2026-06-15T00:00"),
        (Period::Week, "2024-12-31T10:00", "2025-01-06T00:00"),
        (Period::Day, "2026-10-25T02:30", "2026-10-26T00:00"),
        (Period::Hour, "2026-10-25T02:00", "2026-10-25T03:00"),
    ] {
        assert_eq!(end_of(period, us(now)), us(end), "{period:?} {now}");
    }
}

#[test]
fn a_budget_is_spent_until_its_period_ends() {
    let noon = us("2026-06-10T12:00");
    let mut day = Calendar::new(Period::Day, noon);
    assert_eq!(day.check(at(noon), 10, 10), Ok(()));
    day.take(10);
    assert_eq!(day.check(at(noon), 10, 1), Err(Wait::Micros(12 * 3_600_000_000)));
    assert_eq!(day.check(at(noon), 10, 11), Err(Wait::Forever));
    assert_eq!(day.check(at(noon), 11, 1), Ok(()), "a changed capacity keeps what was used");
    assert_eq!((day.reset_after_us(at(noon)), day.window_us(10)), (Some(12 * 3_600_000_000), Some(DAY_US)));
    let midnight = us("2026-06-11T00:00");
    assert_eq!(day.check(at(midnight - 1), 10, 1), Err(Wait::Micros(1)));
    assert_eq!(day.check(at(midnight), 10, 10), Ok(()));
}

#[test]
fn what_is_settled_counts_in_its_own_period_only() {
    let noon = us("2026-06-10T12:00");
    let mut day = Calendar::new(Period::Day, noon);
    let (more, less) = (day.take(4), day.take(5));
    day.settle(at(noon), more, 4, 30);
    assert_eq!(day.used(), 35, "a debt passes the capacity");
    assert!(day.check(at(noon), 20, 1).is_err());
    day.settle(at(noon), less, 5, 1);
    assert_eq!(day.used(), 31);
    let (late, later) = (day.take(2), day.take(2));
    let tomorrow = us("2026-06-11T00:00");
    day.settle(at(tomorrow), late, 2, 100);
    assert_eq!(day.used(), 0, "the debt of a period that is over is forgotten with it");
    day.take(3);
    day.settle(at(tomorrow), later, 2, 0);
    assert_eq!(day.used(), 3, "and nothing of it is given back to the next");
}

#[test]
fn a_clock_that_goes_back_brings_no_second_budget() {
    let (today, tomorrow) = (us("2026-06-10T23:59"), us("2026-06-11T00:01"));
    let mut day = Calendar::new(Period::Day, tomorrow);
    day.take(10);
    assert_eq!(day.check(at(today), 10, 1), Err(Wait::Micros(DAY_US + 60_000_000)));
    assert_eq!(day.check(at(tomorrow), 10, 1), Err(Wait::Micros(DAY_US - 60_000_000)));
}

#[test]
fn periods_of_one_length_have_one_floor() {
    let mut floors = Floors::default();
    for (n, period) in (1..).zip(PERIODS) {
        floors.raise(period, n * 10);
        floors.raise(period, n);
    }
    for (n, period) in (1..).zip(PERIODS) {
        assert_eq!((floors.start(period, 0), floors.start(period, 1_000)), (n * 10, 1_000));
    }
}

proptest! {
    #[test]
    fn whatever_the_clock_does_a_period_gives_its_capacity_once(
        capacity in 1_u64..20, steps in prop::collection::vec((-400_i64..500, 1_u64..6), 1..300),
    ) {
        // In steps of an hour, back and forth.
        let mut now = us("2026-02-27T00:00");
        let mut day = Calendar::new(Period::Day, now);
        let (mut used, mut ends): (std::collections::HashMap<u64, u64>, u64) = Default::default();
        for (hours, amount) in steps {
            now = now.saturating_add_signed(hours / 10 * 3_600_000_000);
            if day.check(at(now), capacity, amount).is_ok() {
                let Mark(end) = day.take(amount);
                prop_assert!(end >= ends && end > now);
                ends = end;
                *used.entry(end).or_default() += amount;
            }
        }
        prop_assert!(used.values().all(|used| *used <= capacity));
    }
}

#[test]
fn the_ends_of_the_number_range_are_harmless() {
    for period in PERIODS {
        let mut calendar = Calendar::new(period, u64::MAX);
        let mark = calendar.take(u64::MAX);
        calendar.settle(at(0), mark, 0, u64::MAX);
        assert_eq!(calendar.used(), MOST_UNITS, "{period:?}");
        calendar.settle(at(0), mark, u64::MAX, 0);
        assert_eq!(calendar.used(), 0, "{period:?}");
        calendar.advance(at(u64::MAX));
    }
}
