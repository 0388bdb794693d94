//! `calendar`: at most `capacity` units in each hour, day, week or month of UTC.
//!
//! The counter keeps the end of its period. A clock that goes forward past that end begins a new period; one that goes back
//! stays in the period it was in, so it brings no second budget. A clock that was set far ahead and then back therefore
//! holds the budgets that were used meanwhile until their far periods end, or the gate starts anew.
//!
//! What is owed counts in the period in which it was reserved; once that is over, it is forgotten with it.

mod period;

pub(super) use self::period::{end_of, length_before};

use super::{
    Moment,
    counter::{Counter, Mark, Wait, ceiling, sum},
};
use crate::policy::{MOST_UNITS, Period};

/// One counter: what was used of one period.
#[derive(Clone, Debug)]
pub struct Calendar {
    used: u64,
    /// Where the period ends: the first microsecond after it.
    end_us: u64,
    period: Period,
}

impl Calendar {
    /// A budget of which nothing is used, for a wall clock that stands at `unix_us`.
    pub fn new(period: Period, unix_us: u64) -> Self {
        Self { used: 0, end_us: end_of(period, unix_us), period }
    }

    /// A budget of which this much was used in a period that ends there.
    pub(super) fn restored(period: Period, end_us: u64, used: u64) -> Self {
        Self { used: used.min(MOST_UNITS), end_us, period }
    }

    fn move_to(&mut self, unix_us: u64) {
        if unix_us >= self.end_us {
            (self.used, self.end_us) = (0, end_of(self.period, unix_us));
        }
    }
}

impl Counter for Calendar {
    fn advance(&mut self, at: Moment) {
        self.move_to(at.unix_us);
    }

    fn check(&mut self, at: Moment, capacity: u64, amount: u64) -> Result<(), Wait> {
        self.move_to(at.unix_us);
        let ceiling = ceiling(capacity, amount)?;
        if amount == 0 || self.used <= ceiling {
            return Ok(());
        }
        Err(Wait::Micros(self.end_us.saturating_sub(at.unix_us)))
    }

    fn take(&mut self, amount: u64) -> Mark {
        self.used = sum(self.used, amount);
        Mark(self.end_us)
    }

    fn settle(&mut self, at: Moment, mark: Mark, reserved: u64, used: u64) {
        self.move_to(at.unix_us);
        if mark.0 != self.end_us {
            return;
        }
        if used < reserved {
            self.used = self.used.saturating_sub(reserved - used);
        } else {
            self.used = sum(self.used, used - reserved);
        }
    }

    fn used(&self) -> u64 {
        self.used
    }

    fn reset_after_us(&self, at: Moment) -> Option<u64> {
        Some(self.end_us.saturating_sub(at.unix_us))
    }

    fn window_us(&self, _capacity: u64) -> Option<u64> {
        Some(length_before(self.period, self.end_us))
    }

    fn clears_at_us(&self, now: Moment) -> u64 {
        if self.used == 0 || now.unix_us >= self.end_us {
            return 0;
        }
        now.monotonic_us.saturating_add(self.end_us - now.unix_us)
    }

    /// A period of which something was used must not begin again; nor one before it, of which nothing is known any more.
    fn floor(&self) -> Option<(Period, u64)> {
        Some((self.period, if self.used == 0 { self.end_us.saturating_sub(1) } else { self.end_us }))
    }
}

/// Wall times before which no new counter may begin, by period: what is left of counters that were dropped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Floors {
    hour: u64,
    day: u64,
    week: u64,
    month: u64,
}

impl Floors {
    /// When a new counter begins at this wall time.
    pub(super) fn start(&self, period: Period, unix_us: u64) -> u64 {
        let floor = match period {
            Period::Hour => self.hour,
            Period::Day => self.day,
            Period::Week => self.week,
            Period::Month => self.month,
        };
        floor.max(unix_us)
    }

    /// No new counter of this period begins earlier.
    pub(super) fn raise(&mut self, period: Period, unix_us: u64) {
        let floor = match period {
            Period::Hour => &mut self.hour,
            Period::Day => &mut self.day,
            Period::Week => &mut self.week,
            Period::Month => &mut self.month,
        };
        *floor = unix_us.max(*floor);
    }
}

#[cfg(test)]
mod tests;
