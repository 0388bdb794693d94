//! `concurrent`: at most so many calls at the same time. A call counts while its reservation is open.

use super::{
    Moment,
    counter::{Counter, Mark, Wait, ceiling, sum},
};

/// One counter: how many calls are running.
#[derive(Clone, Debug, Default)]
pub struct Concurrent {
    running: u64,
}

impl Counter for Concurrent {
    fn advance(&mut self, _at: Moment) {}

    fn check(&mut self, _at: Moment, capacity: u64, amount: u64) -> Result<(), Wait> {
        let ceiling = ceiling(capacity, amount)?;
        if amount == 0 || self.running <= ceiling { Ok(()) } else { Err(Wait::UntilACallEnds) }
    }

    fn take(&mut self, amount: u64) -> Mark {
        self.running = sum(self.running, amount);
        Mark(0)
    }

    fn settle(&mut self, _at: Moment, _mark: Mark, reserved: u64, used: u64) {
        self.running = self.running.saturating_sub(reserved.saturating_sub(used));
    }

    fn used(&self) -> u64 {
        self.running
    }

    fn reset_after_us(&self, _at: Moment) -> Option<u64> {
        None
    }

    fn window_us(&self, _capacity: u64) -> Option<u64> {
        None
    }

    fn clears_at_us(&self, _now: Moment) -> u64 {
        if self.running == 0 { 0 } else { u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_until_it_is_settled_whatever_the_clock_says() {
        let mut calls = Concurrent::default();
        let late = Moment { monotonic_us: u64::MAX, unix_us: u64::MAX };
        assert_eq!(calls.check(Moment::default(), 2, 1), Ok(()));
        let marks = [calls.take(1), calls.take(1)];
        assert_eq!(calls.check(late, 2, 1), Err(Wait::UntilACallEnds));
        assert_eq!(calls.check(late, 3, 1), Ok(()), "another capacity keeps who is running");
        assert_eq!((calls.used(), calls.clears_at_us(late), calls.reset_after_us(late)), (2, u64::MAX, None));
        calls.settle(late, marks[0], 1, 0);
        assert_eq!((calls.check(late, 2, 1), calls.used()), (Ok(()), 1));
        for _ in 0..2 {
            calls.settle(late, marks[1], 1, 0);
        }
        assert_eq!((calls.used(), calls.clears_at_us(late)), (0, 0), "never below nothing");
    }

    #[test]
    fn none_at_a_time_is_none_for_good() {
        assert_eq!(Concurrent::default().check(Moment::default(), 0, 1), Err(Wait::Forever));
    }
}
