//! The CPU budget of one call. A guest is cut when its own thread has worked too long, not when the machine is busy.
//!
//! The engine's ticks are cheap to count and say little: on a busy machine many pass while the guest waits for a core. So a
//! tick only makes the thread's CPU clock be read, and only that clock ends a call before the wall cap. The budget counts
//! from the first tick within a call: a call that ends before it pays for no clock at all.
//!
//! Where no caller waits for the answer, as when a policy is loaded, there is no wall cap: the loader takes what others leave of
//! the processors, and that may be little for long.

use std::{sync::Arc, time::Duration};

use wasmtime::{Result, UpdateDeadline};

use super::pace::Pace;
use crate::clock::thread_cpu;

/// A call ends after this many ticks (of 1 ms) whatever its thread did: it blocks a caller.
pub(super) const WALL_CAP_TICKS: u32 = 100;

/// Only CPU time ends a call: no caller waits for it.
pub(super) const NO_WALL_CAP: u32 = u32::MAX;

/// Counts one call's time.
#[derive(Debug)]
pub(super) struct Budget {
    cpu: Duration,
    wall_ticks: u32,
    since: Option<Duration>,
    ticks: u32,
    pace: Arc<Pace>,
}

impl Budget {
    /// So much CPU time, within so many ticks.
    pub(super) fn new(cpu: Duration, wall_ticks: u32, pace: Arc<Pace>) -> Self {
        Self { cpu, wall_ticks, since: None, ticks: 0, pace }
    }

    /// Other bounds for later calls.
    pub(super) fn set(&mut self, cpu: Duration, wall_ticks: u32) {
        (self.cpu, self.wall_ticks) = (cpu, wall_ticks);
    }

    /// A new call starts.
    pub(super) fn restart(&mut self) {
        self.pace.wanted();
        self.since = None;
        self.ticks = 0;
    }

    /// A tick has passed while the guest ran: may it go on?
    pub(super) fn tick(&mut self) -> Result<UpdateDeadline> {
        self.pace.wanted();
        let now = thread_cpu();
        let since = *self.since.get_or_insert(now);
        self.ticks = self.ticks.saturating_add(1);
        let spent = now.saturating_sub(since) >= self.cpu || self.ticks > self.wall_ticks;
        Ok(if spent { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    fn work(for_cpu: Duration) {
        let start = thread_cpu();
        while thread_cpu().saturating_sub(start) < for_cpu {
            black_box(0);
        }
    }

    #[test]
    fn a_thread_that_waits_keeps_its_budget_and_one_that_works_loses_it() {
        let mut budget = Budget::new(Duration::from_millis(5), WALL_CAP_TICKS, Arc::default());
        for _ in 0..10 {
            assert!(matches!(budget.tick(), Ok(UpdateDeadline::Continue(1))), "no CPU time has passed");
        }
        work(Duration::from_millis(6));
        assert!(matches!(budget.tick(), Ok(UpdateDeadline::Interrupt)));
        budget.restart();
        assert!(matches!(budget.tick(), Ok(UpdateDeadline::Continue(1))));
    }

    #[test]
    fn a_call_that_never_gets_a_core_ends_at_the_wall_cap() {
        let mut budget = Budget::new(Duration::from_secs(3600), WALL_CAP_TICKS, Arc::default());
        let went_on = (0..).take_while(|_| matches!(budget.tick(), Ok(UpdateDeadline::Continue(_)))).count();
        assert_eq!(went_on, 100);
    }

    #[test]
    fn where_nobody_waits_only_cpu_time_ends_a_call() {
        let mut budget = Budget::new(Duration::from_millis(5), NO_WALL_CAP, Arc::default());
        budget.ticks = u32::MAX - 1;
        for _ in 0..10 {
            assert!(matches!(budget.tick(), Ok(UpdateDeadline::Continue(1))), "no CPU time has passed");
        }
        work(Duration::from_millis(6));
        assert!(matches!(budget.tick(), Ok(UpdateDeadline::Interrupt)));
    }
}
