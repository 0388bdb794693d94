//! `bucket`: `refill` units come back every `every`, up to `burst` of them; rate and burst are stated apart.
//!
//! The counter keeps how full it is in shares of a unit that make both numbers whole: with g = gcd(every µs, refill) a unit
//! is `cost` = every / g shares, and each microsecond `leak` = refill / g shares drain. So nothing is ever rounded.
//!
//! What is given back is credit: at most down to an empty bucket. What is owed fills the bucket above its burst, and
//! drains before anything is admitted again.

use std::num::{NonZeroU32, NonZeroU64};

use super::{
    Moment,
    counter::{Counter, Mark, Wait, ceiling, sum},
};
use crate::policy::MOST_UNITS;

const US_IN_MS: NonZeroU64 = NonZeroU64::new(1_000).expect("1000 is not zero");

/// How fast a bucket drains, in shares of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Shares in one unit.
    cost: NonZeroU64,
    /// Shares that drain in a microsecond.
    leak: NonZeroU64,
}

impl Pace {
    /// The pace of `refill` units every `every_ms`.
    pub fn new(refill: NonZeroU64, every_ms: NonZeroU32) -> Self {
        let every_us = NonZeroU64::from(every_ms).saturating_mul(US_IN_MS);
        let divisor = gcd(every_us, refill);
        let share = |whole: NonZeroU64| {
            NonZeroU64::new(whole.get() / divisor).expect("a common divisor is at most the number it divides")
        };
        Self { cost: share(every_us), leak: share(refill) }
    }

    /// Whether a bucket of this pace can count up to `burst`: its shares must stay below 2⁵³.
    pub fn can_hold(self, burst: u64) -> bool {
        burst.checked_mul(self.cost.get()).is_some_and(|shares| shares <= MOST_UNITS)
    }

    /// Shares in one unit.
    pub(super) fn cost(self) -> u64 {
        self.cost.get()
    }

    /// Shares that drain in a microsecond.
    pub(super) fn leak(self) -> u64 {
        self.leak.get()
    }

    pub(super) fn shares(self, units: u64) -> u64 {
        units.saturating_mul(self.cost.get()).min(MOST_UNITS)
    }

    pub(super) fn drains_in_us(self, shares: u64) -> u64 {
        shares.div_ceil(self.leak.get())
    }
}

fn gcd(one: NonZeroU64, other: NonZeroU64) -> u64 {
    let (mut one, mut other) = (one.get(), other.get());
    while let Some(rest) = one.checked_rem(other) {
        (one, other) = (other, rest);
    }
    one
}

/// One counter: how full the bucket is.
#[derive(Clone, Debug)]
pub struct Bucket {
    pace: Pace,
    /// Shares in it at `seen_us`.
    level: u64,
    /// The latest time seen.
    seen_us: u64,
}

impl Bucket {
    /// An empty bucket of this pace, for a clock that stands at `now_us`.
    pub fn new(pace: Pace, now_us: u64) -> Self {
        Self { pace, level: 0, seen_us: now_us }
    }

    /// An earlier time than the latest seen moves nothing.
    fn move_to(&mut self, now_us: u64) {
        if let Some(elapsed) = now_us.checked_sub(self.seen_us) {
            self.level = self.level.saturating_sub(elapsed.saturating_mul(self.pace.leak.get()));
            self.seen_us = now_us;
        }
    }

    /// Microseconds from `now_us` until so many shares have drained.
    fn wait_us(&self, now_us: u64, shares: u64) -> u64 {
        self.seen_us.saturating_add(self.pace.drains_in_us(shares)).saturating_sub(now_us)
    }
}

impl Counter for Bucket {
    fn advance(&mut self, at: Moment) {
        self.move_to(at.monotonic_us);
    }

    fn check(&mut self, at: Moment, capacity: u64, amount: u64) -> Result<(), Wait> {
        self.move_to(at.monotonic_us);
        let ceiling = self.pace.shares(ceiling(capacity, amount)?);
        match self.level.checked_sub(ceiling) {
            Some(above) if above > 0 && amount > 0 => Err(Wait::Micros(self.wait_us(at.monotonic_us, above))),
            _ => Ok(()),
        }
    }

    fn take(&mut self, amount: u64) -> Mark {
        self.level = sum(self.level, self.pace.shares(amount));
        Mark(self.seen_us)
    }

    /// What has drained since it was poured in can't be taken out again: others have poured in their own instead. As long as
    /// the bucket would have held what was used, the rest drained no sooner than that, so this much is still there:
    /// `min(reserved - used, reserved - leak * (now - mark))`.
    fn settle(&mut self, at: Moment, mark: Mark, reserved: u64, used: u64) {
        self.move_to(at.monotonic_us);
        if used < reserved {
            let drained = self.seen_us.saturating_sub(mark.0).saturating_mul(self.pace.leak.get());
            let left = self.pace.shares(reserved).saturating_sub(drained);
            self.level = self.level.saturating_sub(left.min(self.pace.shares(reserved - used)));
        } else {
            self.level = sum(self.level, self.pace.shares(used - reserved));
        }
    }

    fn used(&self) -> u64 {
        self.level.div_ceil(self.pace.cost.get())
    }

    fn reset_after_us(&self, at: Moment) -> Option<u64> {
        Some(self.wait_us(at.monotonic_us, self.level))
    }

    fn window_us(&self, capacity: u64) -> Option<u64> {
        Some(self.pace.drains_in_us(self.pace.shares(capacity)))
    }

    fn clears_at_us(&self, _now: Moment) -> u64 {
        if self.level == 0 { 0 } else { self.seen_us.saturating_add(self.pace.drains_in_us(self.level)) }
    }
}

#[cfg(test)]
mod tests;
