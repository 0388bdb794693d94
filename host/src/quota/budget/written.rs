//! A calendar whose count must outlive this process: the counter, and what is to be written of it.

use super::Budget;
use crate::{
    policy::Period,
    quota::{
        Moment,
        calendar::Calendar,
        counter::{Counter, Mark, Wait},
    },
};

/// A calendar's counter with its budget. Whoever counts notes in the budget what moved.
#[derive(Debug)]
pub(in crate::quota) struct Written {
    pub(in crate::quota) calendar: Calendar,
    pub(in crate::quota) budget: Budget,
}

impl Counter for Written {
    fn advance(&mut self, at: Moment) {
        self.calendar.advance(at);
    }

    fn check(&mut self, at: Moment, capacity: u64, amount: u64) -> Result<(), Wait> {
        self.calendar.check(at, capacity, amount)
    }

    fn take(&mut self, amount: u64) -> Mark {
        self.calendar.take(amount)
    }

    fn settle(&mut self, at: Moment, mark: Mark, reserved: u64, used: u64) {
        self.calendar.settle(at, mark, reserved, used);
    }

    fn used(&self) -> u64 {
        self.calendar.used()
    }

    fn reset_after_us(&self, at: Moment) -> Option<u64> {
        self.calendar.reset_after_us(at)
    }

    fn window_us(&self, capacity: u64) -> Option<u64> {
        self.calendar.window_us(capacity)
    }

    fn clears_at_us(&self, now: Moment) -> u64 {
        self.calendar.clears_at_us(now)
    }

    fn floor(&self) -> Option<(Period, u64)> {
        self.calendar.floor()
    }

    fn budget(&mut self) -> Option<&mut Budget> {
        Some(&mut self.budget)
    }
}
