//! The arithmetic of one counter: at most `capacity` units in any stretch of `length_ms` milliseconds.
//!
//! Time is cut into slices of `width` = ⌈length / 60⌉ ms, aligned to multiples of it, and only the number of units each
//! slice took is kept. An event at millisecond `t` of slice `s` has `s·width ≤ t ≤ (s+1)·width − 1`. A stretch is
//! `length` milliseconds in a row, so it can hold both `t` and `now` exactly while `now − t ≤ length − 1`. The
//! counter doesn't know `t` and assumes the slice's last millisecond, so a slice counts while
//!
//! ```text
//! now < clears(s) = (s+1)·width − 1 + length
//! ```
//!
//! Never too short: from `clears(s)` on, `now − t ≥ length` for every `t` in the slice. Too long by less than one
//! slice: since `t ≥ s·width`, the event has gone by `t + length + width − 1`.
//!
//! The slices that stand at `now` run from ⌊(now − (length − 1)) / width⌋ to ⌊now / width⌋. Because `length ≤
//! 60·width`, they are at most 61: sixty whole ones and the one being filled. Hence a ring of 61.
//!
//! The file assumes a clock that mostly goes forward; one that stands or goes back is held at the latest time seen. It
//! never locks, allocates or asks the time.

use std::num::{NonZeroU32, NonZeroU64};

use thiserror::Error;

/// How many slices make up a window's length.
const SLICES: NonZeroU32 = NonZeroU32::new(60).expect("60 is not zero");
/// How many slices can count at one moment.
const SLOTS: usize = 61;
/// The same number, in the type of a slice's index.
const SLOTS_IN_RING: u64 = 61;

/// One counter: what was admitted within the last `length_ms`, by slice.
///
/// The counts are `u64`. With `u32` the struct would be half as large (272 bytes instead of 512), but a slice could
/// then be full below a capacity that the interface allows, and that needs a rule of its own. This way a sum never
/// passes the capacity, so nothing can overflow, whatever capacity a policy names.
#[derive(Clone, Debug)]
pub struct Window {
    /// Units by slice, at the slice's index modulo 61; zero where no slice stands.
    counts: [u64; SLOTS],
    /// The sum of `counts`, so that admitting doesn't add them up.
    total: u64,
    /// The latest time seen.
    seen_ms: u64,
    length_ms: NonZeroU32,
    width_ms: NonZeroU32,
}

/// The slice in which units were counted; needed to give them back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice(u64);

/// The window has no room for the amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the window has no room for this amount: try again after `retry_after_ms`, or never if there is none")]
pub struct NoRoom {
    /// Milliseconds from the caller's `now_ms` to the first at which the same amount is admitted if nothing else
    /// happens. None: never, the amount is larger than the capacity.
    pub retry_after_ms: Option<u64>,
}

impl Window {
    /// An empty window of this length, for a clock that stands at `now_ms`.
    pub fn new(length_ms: NonZeroU32, now_ms: u64) -> Self {
        Self { counts: [0; SLOTS], total: 0, seen_ms: now_ms, length_ms, width_ms: length_ms.div_ceil(SLICES) }
    }

    /// Moves the window to `now_ms` and forgets what has left it. An earlier time than the latest seen moves nothing.
    pub fn advance(&mut self, now_ms: u64) {
        if now_ms <= self.seen_ms {
            return;
        }
        let (oldest, newest) = (self.oldest(), self.newest());
        self.seen_ms = now_ms;
        if self.total == 0 {
            return;
        }
        for slice in oldest..self.oldest().min(newest.saturating_add(1)) {
            let left = std::mem::take(self.count_mut(slice));
            self.total = self.total.saturating_sub(left);
        }
    }

    /// Tells whether `amount` is admitted at `now_ms`, and counts nothing. An amount of zero always is.
    ///
    /// # Errors
    /// [`NoRoom`] when the units that still count leave no room for `amount` under `capacity`.
    pub fn check(&mut self, now_ms: u64, capacity: u64, amount: u64) -> Result<(), NoRoom> {
        self.advance(now_ms);
        let ceiling = ceiling(capacity, amount)?;
        if amount == 0 || self.total <= ceiling {
            return Ok(());
        }
        Err(NoRoom { retry_after_ms: Some(self.falls_to(ceiling).saturating_sub(now_ms)) })
    }

    /// Counts `amount` at the latest time seen. For an amount that [`check`](Self::check) has just admitted.
    pub fn commit(&mut self, amount: u64) -> Slice {
        let slice = self.newest();
        let count = self.count_mut(slice);
        *count = count.saturating_add(amount);
        self.total = self.total.saturating_add(amount);
        Slice(slice)
    }

    /// Takes back `amount` that was counted in `slice`: nothing once the slice no longer counts, and never more than it
    /// holds.
    pub fn give_back(&mut self, slice: Slice, amount: u64) {
        if (self.oldest()..=self.newest()).contains(&slice.0) {
            let count = self.count_mut(slice.0);
            let taken = amount.min(*count);
            *count -= taken;
            self.total = self.total.saturating_sub(taken);
        }
    }

    /// How many units are free at `now_ms`.
    pub fn remaining(&mut self, now_ms: u64, capacity: u64) -> u64 {
        self.advance(now_ms);
        capacity.saturating_sub(self.total)
    }

    /// Milliseconds from `now_ms` until nothing counts any more if nothing else happens.
    pub fn reset_after_ms(&mut self, now_ms: u64) -> u64 {
        self.advance(now_ms);
        self.clears_at_ms().saturating_sub(now_ms)
    }

    /// The first moment at which nothing counts any more if nothing else happens; 0 when nothing counts now.
    pub fn clears_at_ms(&self) -> u64 {
        self.falls_to(0)
    }

    /// The first moment at which at most `ceiling` units count if nothing else happens; 0 when no more do now.
    ///
    /// The newest slices stay longest. From the newest on, the first slice with which the sum passes the ceiling is the
    /// one that must leave; all older ones have left before it.
    fn falls_to(&self, ceiling: u64) -> u64 {
        let mut stays = 0_u64;
        for slice in (self.oldest()..=self.newest()).rev() {
            stays = stays.saturating_add(self.count(slice));
            if stays > ceiling {
                return self.clears(slice);
            }
        }
        0
    }

    /// The first moment at which this slice no longer counts.
    fn clears(&self, slice: u64) -> u64 {
        slice.saturating_add(1).saturating_mul(u64::from(self.width_ms.get())).saturating_add(self.reach_ms())
    }

    /// The oldest slice that still counts: the smallest `s` with `seen_ms < clears(s)`.
    fn oldest(&self) -> u64 {
        self.seen_ms.saturating_sub(self.reach_ms()) / NonZeroU64::from(self.width_ms)
    }

    /// The slice that is being filled.
    fn newest(&self) -> u64 {
        self.seen_ms / NonZeroU64::from(self.width_ms)
    }

    /// How far apart two milliseconds of one stretch can be.
    fn reach_ms(&self) -> u64 {
        u64::from(self.length_ms.get() - 1)
    }

    fn count(&self, slice: u64) -> u64 {
        self.counts.get(slot(slice)).copied().expect("a slot is below the ring's size")
    }

    fn count_mut(&mut self, slice: u64) -> &mut u64 {
        self.counts.get_mut(slot(slice)).expect("a slot is below the ring's size")
    }
}

/// How many units may count already when `amount` is admitted.
///
/// # Errors
/// [`NoRoom`] for good when `amount` is larger than `capacity`.
pub(super) fn ceiling(capacity: u64, amount: u64) -> Result<u64, NoRoom> {
    capacity.checked_sub(amount).ok_or(NoRoom { retry_after_ms: None })
}

/// Where in the ring a slice is counted. No two slices that count at one moment share a slot.
fn slot(slice: u64) -> usize {
    usize::try_from(slice % SLOTS_IN_RING).expect("a remainder of 61 fits in a usize")
}

#[cfg(test)]
mod tests;
