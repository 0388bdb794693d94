//! A moment on both clocks: windows, buckets and leases go by the monotonic one, calendars by the wall's.

use crate::clock::Clock;

/// A moment, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since some origin that stays; never goes back, save for what threads overtake one another.
    pub monotonic_us: u64,
    /// Since 1970, UTC; may step either way.
    pub unix_us: u64,
}

impl Moment {
    /// What this clock shows.
    pub fn now(clock: &Clock) -> Self {
        Self { monotonic_us: clock.monotonic_us(), unix_us: clock.unix_us() }
    }
}
