//! A moment on both clocks: windows, buckets and leases go by the monotonic one, calendars by the wall's.

use std::time::Duration;

use crate::clock::{Clock, saturating_us};

/// A moment, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since some origin that stays; never goes back, save for what threads overtake one another.
    pub monotonic_us: u64,
    /// Since 1970, UTC; may step either way.
    pub unix_us: u64,
}

impl Moment {
    /// What this clock shows; a calendar may lag behind by a tick of the system.
    pub fn now(clock: &Clock) -> Self {
        Self::at(clock.monotonic(), clock)
    }

    /// As [`Self::now`], for a monotonic time that was just read.
    pub fn at(monotonic: Duration, clock: &Clock) -> Self {
        Self { monotonic_us: saturating_us(monotonic), unix_us: clock.ticked_unix_us() }
    }
}
