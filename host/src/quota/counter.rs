//! What the four shapes have in common: one counter admits, counts and settles.
//!
//! A counter is pure arithmetic: it never locks, allocates on the way or asks the time. It assumes moments that mostly go
//! forward; on a clock that stands or goes back it stays at the latest moment seen.

use std::fmt::Debug;

use super::{Moment, budget::Budget};
use crate::policy::{MOST_UNITS, Period};

/// How long until the same amount is admitted if nothing else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// Until a running call ends; nobody knows when. The shortest, so that a limit that can tell goes before it.
    UntilACallEnds,
    /// So many microseconds, exactly.
    Micros(u64),
    /// For good: the amount is larger than the capacity.
    Forever,
}

/// Where in a counter's time units were counted; needed to settle them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark(pub(super) u64);

/// One counter of any shape. Its capacity comes with each question, for it may change while what was counted stays.
pub trait Counter: Debug + Send {
    /// Moves to this moment and forgets what has left.
    fn advance(&mut self, at: Moment);

    /// Tells whether `amount` is admitted, and counts nothing. An amount of zero always is.
    ///
    /// # Errors
    /// How long to wait from `at`, when there is no room for `amount` under `capacity`.
    fn check(&mut self, at: Moment, capacity: u64, amount: u64) -> Result<(), Wait>;

    /// Counts `amount` at the latest moment seen. For what [`check`](Self::check) has just admitted.
    fn take(&mut self, amount: u64) -> Mark;

    /// Corrects what was counted at `mark` from `reserved` to `used`. Less than reserved is given back, as far as it still
    /// counts. More is owed: it counts from `at` on, above the capacity if need be.
    fn settle(&mut self, at: Moment, mark: Mark, reserved: u64, used: u64);

    /// Units that count at the latest moment seen, rounded up.
    fn used(&self) -> u64;

    /// Microseconds from `at` until all of the capacity is free if nothing else happens; none where nobody knows.
    fn reset_after_us(&self, at: Moment) -> Option<u64>;

    /// Over how many microseconds the capacity holds; none where time has no part in it.
    fn window_us(&self, capacity: u64) -> Option<u64>;

    /// The first monotonic moment at which nothing counts any more if nothing else happens; 0 when nothing counts now.
    fn clears_at_us(&self, now: Moment) -> u64;

    /// What must outlive a counter that is dropped: a period, and a wall time before which no new counter of that period
    /// may begin.
    fn floor(&self) -> Option<(Period, u64)> {
        None
    }

    /// What must outlive the process; none of a counter that is worth nothing after a restart.
    fn budget(&mut self) -> Option<&mut Budget> {
        None
    }
}

/// How many units may count already when `amount` is admitted.
///
/// # Errors
/// [`Wait::Forever`] when `amount` is larger than `capacity`.
pub(super) fn ceiling(capacity: u64, amount: u64) -> Result<u64, Wait> {
    capacity.checked_sub(amount).ok_or(Wait::Forever)
}

/// A sum of units; no counter counts further than [`MOST_UNITS`].
pub(super) fn sum(one: u64, other: u64) -> u64 {
    one.saturating_add(other).min(MOST_UNITS)
}
