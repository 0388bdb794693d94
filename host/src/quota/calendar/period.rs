//! Where the calendar's periods end: UTC, the Gregorian calendar, weeks from Monday. Whole numbers only, and the same few
//! steps that a script in a database can take.

use crate::policy::Period;

const HOUR_US: u64 = 3_600_000_000;
const DAY_US: u64 = 24 * HOUR_US;

/// The first microsecond after the period in which this one lies.
pub(in crate::quota) fn end_of(period: Period, unix_us: u64) -> u64 {
    match period {
        Period::Hour => next_multiple(unix_us, HOUR_US),
        Period::Day => next_multiple(unix_us, DAY_US),
        Period::Week => week_end(unix_us / DAY_US).saturating_mul(DAY_US),
        Period::Month => month(unix_us / DAY_US).1.saturating_mul(DAY_US),
    }
}

/// How long the period is that ends there.
pub(in crate::quota) fn length_before(period: Period, end_us: u64) -> u64 {
    match period {
        Period::Hour => HOUR_US,
        Period::Day => DAY_US,
        Period::Week => 7 * DAY_US,
        Period::Month => end_us.saturating_sub(month(end_us.saturating_sub(1) / DAY_US).0.saturating_mul(DAY_US)),
    }
}

fn next_multiple(unix_us: u64, of: u64) -> u64 {
    (unix_us / of).saturating_add(1).saturating_mul(of)
}

/// The Monday after this day; days count from 1970-01-01, a Thursday.
fn week_end(day: u64) -> u64 {
    day + 7 - (day + 3) % 7
}

/// The month in which this day lies: its first day, and the first one after it.
///
/// Years are taken to begin in March, so that the day which comes and goes is their last one. 400 of them have 146,097
/// days, 719,468 lie between the year 0 and 1970, and five months from March on have 153.
fn month(day: u64) -> (u64, u64) {
    let of_era = (day + 719_468) % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let year_began = 365 * year + year / 4 - year / 100;
    let of_year = of_era - year_began;
    let month = (5 * of_year + 2) / 153;
    let first = |month: u64| (153 * month + 2) / 5;
    // February is the last month of such a year: it ends with it.
    let next = year + 1;
    let next_year = 365 * next + next / 4 - next / 100 + next / 400 - year_began;
    let after = if month == 11 { next_year } else { first(month + 1) };
    (day - (of_year - first(month)), day + (after - of_year))
}
