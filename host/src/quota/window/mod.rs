//! `window`: at most `capacity` units in any stretch of `length` microseconds.
//!
//! Time is cut into slices of `width` = ⌈length / 60⌉ µs, aligned to multiples of it, and only the number of units each
//! slice took is kept. An event at microsecond `t` of slice `s` has `s·width ≤ t ≤ (s+1)·width − 1`. A stretch is
//! `length` microseconds in a row, so it can hold both `t` and `now` exactly while `now − t ≤ length − 1`. The
//! counter doesn't know `t` and assumes the slice's last microsecond, so a slice counts while
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
//! What is owed counts in the slice in which it was settled, so it is paid by the calls of the next `length`.

mod ring;

use std::num::{NonZeroU32, NonZeroU64};

use self::ring::Ring;
use super::{
    Moment,
    counter::{Counter, Mark, Wait, ceiling},
};
use crate::policy::MOST_UNITS;

/// How many slices make up a window's length.
const SLICES: NonZeroU64 = NonZeroU64::new(60).expect("60 is not zero");
const US_IN_MS: NonZeroU64 = NonZeroU64::new(1_000).expect("1000 is not zero");

/// One counter: what was admitted within the last `length`, by slice.
#[derive(Clone, Debug)]
pub struct Window {
    counts: Ring,
    /// The sum of `counts`, so that admitting doesn't add them up; at most [`MOST_UNITS`].
    total: u64,
    /// The latest time seen.
    seen_us: u64,
    /// The slice that is filled then: a division takes its time.
    newest: u64,
    length_us: NonZeroU64,
    width_us: NonZeroU64,
}

/// How long a window of this length is, and a slice of it, in microseconds.
pub(super) fn measures(length_ms: NonZeroU32) -> (NonZeroU64, NonZeroU64) {
    let length_us = NonZeroU64::from(length_ms).saturating_mul(US_IN_MS);
    (length_us, length_us.div_ceil(SLICES))
}

impl Window {
    /// An empty window of this length, for a clock that stands at `now_us`.
    pub fn new(length_ms: NonZeroU32, now_us: u64) -> Self {
        let (length_us, width_us) = measures(length_ms);
        let newest = now_us / width_us;
        Self { counts: Ring::new(), total: 0, seen_us: now_us, newest, length_us, width_us }
    }

    /// An earlier time than the latest seen moves nothing.
    fn move_to(&mut self, now_us: u64) {
        if now_us <= self.seen_us {
            return;
        }
        let (seen_us, newest) = (self.seen_us, self.newest);
        (self.seen_us, self.newest) = (now_us, now_us / self.width_us);
        if self.total == 0 {
            return;
        }
        for slice in self.oldest_at(seen_us)..self.oldest().min(newest.saturating_add(1)) {
            self.put(slice, 0);
        }
    }

    fn add(&mut self, amount: u64) {
        let slice = self.newest();
        // All slices together count no further than one counter can.
        let amount = amount.min(MOST_UNITS.saturating_sub(self.total));
        self.put(slice, self.counts.units(slice).saturating_add(amount));
    }

    /// Takes back what was counted in `slice`: nothing once the slice no longer counts, and never more than it holds.
    fn give_back(&mut self, slice: u64, amount: u64) {
        if (self.oldest()..=self.newest()).contains(&slice) {
            self.put(slice, self.counts.units(slice).saturating_sub(amount));
        }
    }

    fn put(&mut self, slice: u64, units: u64) {
        let before = self.counts.units(slice);
        if units != before {
            self.counts.set(slice, units);
            self.total = self.total.saturating_sub(before).saturating_add(units);
        }
    }

    /// The first moment at which at most `ceiling` units count if nothing else happens; 0 when no more do now.
    ///
    /// The newest slices stay longest. From the newest on, the first slice with which the sum passes the ceiling is the
    /// one that must leave; all older ones have left before it.
    fn falls_to(&self, ceiling: u64) -> u64 {
        let mut stays = 0_u64;
        for slice in (self.oldest()..=self.newest()).rev() {
            stays = stays.saturating_add(self.counts.units(slice));
            if stays > ceiling {
                return self.clears(slice);
            }
        }
        0
    }

    /// The first moment at which this slice no longer counts.
    fn clears(&self, slice: u64) -> u64 {
        slice.saturating_add(1).saturating_mul(self.width_us.get()).saturating_add(self.reach_us())
    }

    /// The oldest slice that still counts: the smallest `s` with `seen < clears(s)`.
    fn oldest(&self) -> u64 {
        self.oldest_at(self.seen_us)
    }

    fn oldest_at(&self, seen_us: u64) -> u64 {
        seen_us.saturating_sub(self.reach_us()) / self.width_us
    }

    /// The slice that is being filled.
    fn newest(&self) -> u64 {
        self.newest
    }

    /// How far apart two microseconds of one stretch can be.
    fn reach_us(&self) -> u64 {
        self.length_us.get() - 1
    }
}

impl Counter for Window {
    fn advance(&mut self, at: Moment) {
        self.move_to(at.monotonic_us);
    }

    fn check(&mut self, at: Moment, capacity: u64, amount: u64) -> Result<(), Wait> {
        self.move_to(at.monotonic_us);
        let ceiling = ceiling(capacity, amount)?;
        if amount == 0 || self.total <= ceiling {
            return Ok(());
        }
        Err(Wait::Micros(self.falls_to(ceiling).saturating_sub(at.monotonic_us)))
    }

    fn take(&mut self, amount: u64) -> Mark {
        self.add(amount);
        Mark(self.newest())
    }

    fn settle(&mut self, at: Moment, mark: Mark, reserved: u64, used: u64) {
        self.move_to(at.monotonic_us);
        if used < reserved {
            self.give_back(mark.0, reserved - used);
        } else {
            self.add(used - reserved);
        }
    }

    fn used(&self) -> u64 {
        self.total
    }

    fn reset_after_us(&self, at: Moment) -> Option<u64> {
        Some(self.falls_to(0).saturating_sub(at.monotonic_us))
    }

    fn window_us(&self, _capacity: u64) -> Option<u64> {
        Some(self.length_us.get())
    }

    fn clears_at_us(&self, _now: Moment) -> u64 {
        self.falls_to(0)
    }
}

#[cfg(test)]
mod tests;
