//! What the script has to do, in few lines: every event is kept and added up in 128 bits; periods end where jiff says.
//!
//! Of one counter each. It knows nothing of Redis.

use std::collections::{BTreeMap, HashMap};

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};

use crate::policy::MOST_UNITS;
use crate::quota::Wait;
use crate::quota::shared::counter::{Counter, Kind};
use crate::quota::shared::script::Reading;

const MOST: u128 = MOST_UNITS as u128;

/// One counter of the reference.
#[derive(Clone, Debug, Default)]
pub(super) struct Reference {
    /// Window: units by slice. Calendar: by end of the period.
    units: BTreeMap<u64, u128>,
    /// Window and bucket: the latest time at which anything was written.
    seen: u64,
    /// Bucket: what is in it.
    level: u128,
    /// Leases: their ends.
    pub(super) ends: HashMap<usize, u64>,
}

impl Reference {
    /// When a slice of this window no longer counts.
    fn clears(counter: &Counter, slice: u64) -> u64 {
        (slice + 1) * counter.numbers.second + counter.numbers.first - 1
    }

    fn total(&self, counter: &Counter, now: u64) -> u128 {
        let at = now.max(self.seen);
        match counter.numbers.kind {
            Kind::Window => {
                self.units.iter().filter(|(slice, _)| at < Self::clears(counter, **slice)).map(|(_, units)| units).sum()
            }
            Kind::Bucket => {
                self.level.saturating_sub(u128::from(at - self.seen.min(at)) * u128::from(counter.numbers.second))
            }
            Kind::Calendar => self.period(now).map_or(0, |(_, used)| used),
            Kind::Leases => self.ends.values().filter(|end| **end > now).count() as u128,
        }
    }

    /// What one unit adds to the total.
    fn cost(counter: &Counter) -> u128 {
        if counter.numbers.kind == Kind::Bucket { u128::from(counter.numbers.first) } else { 1 }
    }

    fn border(&self, counter: &Counter, now: u64) -> u64 {
        self.period(now).map_or_else(|| period_end(counter.numbers.first, now), |(end, _)| end)
    }

    /// The latest period that there ever was, while it lasts: a clock that goes back brings no earlier one.
    fn period(&self, now: u64) -> Option<(u64, u128)> {
        self.units.last_key_value().filter(|(end, _)| **end > now).map(|(end, used)| (*end, *used))
    }

    /// When the total is at most so much if nothing else happens.
    fn falls_to(&self, counter: &Counter, now: u64, ceiling: u128) -> u64 {
        let at = now.max(self.seen);
        match counter.numbers.kind {
            Kind::Window => {
                let ends = self.units.keys().map(|slice| Self::clears(counter, *slice)).filter(|end| *end > at);
                std::iter::once(now).chain(ends).find(|end| self.total(counter, *end) <= ceiling).unwrap()
            }
            Kind::Bucket => {
                let drop = self.total(counter, now).saturating_sub(ceiling);
                if drop == 0 {
                    now
                } else {
                    at + u64::try_from(drop.div_ceil(u128::from(counter.numbers.second))).unwrap()
                }
            }
            Kind::Calendar if self.total(counter, now) <= ceiling => now,
            Kind::Calendar => self.border(counter, now),
            Kind::Leases => now,
        }
    }

    pub(super) fn reading(&self, counter: &Counter, now: u64, fits: bool) -> Reading {
        let (bound, cost) = (u128::from(counter.numbers.bound), Self::cost(counter));
        let asked = u128::from(counter.amount) * cost;
        let total = self.total(counter, now);
        let wait = match (fits, bound.checked_sub(asked)) {
            (true, _) => None,
            (false, None) => Some(Wait::Forever),
            (false, Some(_)) if counter.numbers.kind == Kind::Leases => Some(Wait::UntilACallEnds),
            (false, Some(ceiling)) => Some(Wait::Micros((self.falls_to(counter, now, ceiling) - now).min(MOST_UNITS))),
        };
        let remaining = u64::try_from(bound.saturating_sub(total) / cost).unwrap();
        let reset_after_us = match counter.numbers.kind {
            Kind::Leases => 0,
            Kind::Calendar => self.border(counter, now) - now,
            Kind::Window | Kind::Bucket => (self.falls_to(counter, now, 0) - now).min(MOST_UNITS),
        };
        Reading { remaining, reset_after_us, wait }
    }

    pub(super) fn fits(&self, counter: &Counter, now: u64) -> bool {
        let asked = u128::from(counter.amount) * Self::cost(counter);
        counter.amount == 0 || self.total(counter, now) + asked <= u128::from(counter.numbers.bound)
    }

    /// Units beyond the bound.
    pub(super) fn over(&self, counter: &Counter, now: u64) -> u64 {
        let over = self.total(counter, now).saturating_sub(u128::from(counter.numbers.bound));
        u64::try_from(over.div_ceil(Self::cost(counter))).unwrap()
    }

    /// Adds units; the mark is where they can be given back.
    pub(super) fn add(&mut self, counter: &Counter, now: u64, units: u64, mark: Option<u64>) -> u64 {
        let total = self.total(counter, now);
        let added = (u128::from(units) * Self::cost(counter)).min(MOST - total);
        let at = now.max(self.seen);
        match counter.numbers.kind {
            Kind::Window => {
                self.seen = at;
                *self.units.entry(at / counter.numbers.second).or_default() += added;
                at / counter.numbers.second
            }
            Kind::Bucket => {
                (self.seen, self.level) = (at, total + added);
                at
            }
            Kind::Calendar => {
                let border = self.border(counter, now);
                let used = self.units.entry(border).or_default();
                if mark.is_none_or(|mark| mark == border) {
                    *used += added;
                }
                border
            }
            Kind::Leases => 0,
        }
    }

    pub(super) fn give_back(&mut self, counter: &Counter, now: u64, units: u64, mark: u64) {
        let total = self.total(counter, now);
        match counter.numbers.kind {
            Kind::Window => {
                self.seen = now.max(self.seen);
                let live = self.seen < Self::clears(counter, mark);
                if let Some(held) = self.units.get_mut(&mark).filter(|_| live) {
                    *held = held.saturating_sub(u128::from(units));
                }
            }
            Kind::Bucket => {
                self.seen = now.max(self.seen);
                // What was reserved and has not drained since.
                let drained = u128::from(self.seen - mark) * u128::from(counter.numbers.second);
                let left = (u128::from(counter.amount) * Self::cost(counter)).saturating_sub(drained);
                self.level = total.saturating_sub(left.min(u128::from(units) * Self::cost(counter)));
            }
            Kind::Calendar => {
                let border = self.border(counter, now);
                let used = self.units.entry(border).or_default();
                if mark == border {
                    *used = used.saturating_sub(u128::from(units));
                }
            }
            Kind::Leases => {}
        }
    }
}

/// Where jiff says that a period ends.
pub(super) fn period_end(period: u64, now: u64) -> u64 {
    let at = Timestamp::from_microsecond(i64::try_from(now).unwrap()).unwrap().to_zoned(TimeZone::UTC);
    let day = at.start_of_day().unwrap();
    let end = match period {
        1 => {
            at.round(jiff::ZonedRound::new().smallest(jiff::Unit::Hour).mode(jiff::RoundMode::Trunc)).unwrap()
                + 1.hour()
        }
        2 => day + 1.day(),
        3 => &day + (7 - i64::from(day.weekday().to_monday_zero_offset())).days(),
        _ => day.first_of_month().unwrap() + 1.month(),
    };
    u64::try_from(end.timestamp().as_microsecond()).unwrap()
}
