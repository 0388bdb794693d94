//! The time. The only file that may ask the system for it, so that tests can move it.
//!
//! A [`Clock`] is cheap to clone; all clones of one agree. Monotonic time counts from when the clock was made and never
//! goes back; Unix time is the system's and may step.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Where the time comes from: the system, or a test's hand.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { origin: Instant, ticks_origin: Duration },
    Manual { start_unix_ms: u64, elapsed_us: Arc<AtomicU64> },
}

/// Moves a manual clock.
#[derive(Clone, Debug)]
pub struct Hand(Arc<AtomicU64>);

impl Clock {
    /// The system's clocks.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn system() -> Self {
        Self(Source::System { origin: Instant::now(), ticks_origin: ticks::monotonic() })
    }

    /// A clock that stands at `start_unix_ms` until its hand moves it.
    pub fn manual(start_unix_ms: u64) -> (Self, Hand) {
        let elapsed_us = Arc::new(AtomicU64::new(0));
        let hand = Hand(Arc::clone(&elapsed_us));
        (Self(Source::Manual { start_unix_ms, elapsed_us }), hand)
    }

    /// Time since this clock was made; never goes back.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System { origin, .. } => origin.elapsed(),
            Source::Manual { elapsed_us, .. } => Duration::from_micros(elapsed_us.load(Ordering::Relaxed)),
        }
    }

    /// [`Self::monotonic`] in whole microseconds.
    pub fn monotonic_us(&self) -> u64 {
        saturating_us(self.monotonic())
    }

    /// [`Self::monotonic`] in whole milliseconds.
    pub fn monotonic_ms(&self) -> u64 {
        saturating_ms(self.monotonic())
    }

    /// Microseconds since 1970, UTC.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn unix_us(&self) -> u64 {
        match &self.0 {
            Source::System { .. } => saturating_us(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            Source::Manual { start_unix_ms, elapsed_us } => start_unix_ms * 1000 + elapsed_us.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds since 1970, UTC.
    pub fn unix_ms(&self) -> u64 {
        self.unix_us() / 1000
    }

    /// [`Self::monotonic_ms`] as the system knew it at its last tick, up to 10 ms ago: for what is reckoned in seconds, a quarter
    /// of the price. Never goes back, but may be before a [`Self::monotonic`] that was read earlier.
    pub fn ticked_ms(&self) -> u64 {
        match &self.0 {
            Source::System { ticks_origin, .. } => saturating_ms(ticks::monotonic().saturating_sub(*ticks_origin)),
            Source::Manual { .. } => self.monotonic_ms(),
        }
    }

    /// [`Self::unix_us`] as the system knew it at its last tick, up to 10 ms ago.
    pub fn ticked_unix_us(&self) -> u64 {
        match &self.0 {
            Source::System { .. } => saturating_us(ticks::unix()),
            Source::Manual { .. } => self.unix_us(),
        }
    }
}

impl Hand {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(saturating_us(by), Ordering::Relaxed);
    }
}

/// How long this thread has worked so far.
pub fn thread_cpu() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

fn duration(time: Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What the system notes of the time at each of its ticks. Reading it asks no counter of the processor, which is most of what the
/// time costs.
mod ticks {
    use super::{ClockId, Duration, clock_gettime, duration};

    #[cfg(target_os = "linux")]
    const CLOCKS: (ClockId, ClockId) = (ClockId::MonotonicCoarse, ClockId::RealtimeCoarse);
    #[cfg(not(target_os = "linux"))]
    const CLOCKS: (ClockId, ClockId) = (ClockId::Monotonic, ClockId::Realtime);

    pub(super) fn monotonic() -> Duration {
        duration(clock_gettime(CLOCKS.0))
    }

    pub(super) fn unix() -> Duration {
        duration(clock_gettime(CLOCKS.1))
    }
}

/// A duration in whole milliseconds; u64::MAX when it is longer than that can say.
pub fn saturating_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration in whole microseconds; u64::MAX when it is longer than that can say.
pub fn saturating_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A moment as RFC 3339, to the second.
pub fn moment(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms - ms.rem_euclid(1000)).ok());
    moment.map_or_else(|| unix_ms.to_string(), |moment| moment.to_string())
}

/// The moment after so much time, in Unix milliseconds, if a calendar has it.
pub fn after(now_ms: u64, time: Duration) -> Option<u64> {
    let end = now_ms.saturating_add(saturating_ms(time));
    i64::try_from(end).is_ok_and(|end| Timestamp::from_millisecond(end).is_ok()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_by_hand_only_and_its_clones_agree() {
        let (clock, hand) = Clock::manual(1_000);
        let clone = clock.clone();
        assert_eq!((clock.unix_ms(), clock.monotonic_ms()), (1_000, 0));
        hand.advance(Duration::from_millis(1_500));
        assert_eq!((clone.unix_ms(), clone.monotonic_ms()), (2_500, 1_500));
        hand.advance(Duration::from_micros(7));
        assert_eq!((clone.unix_us(), clone.monotonic_us()), (2_500_007, 1_500_007));
        assert_eq!((clone.ticked_unix_us(), clone.ticked_ms()), (2_500_007, 1_500));
    }

    #[test]
    fn the_last_tick_is_not_long_ago() {
        let clock = Clock::system();
        // Loaded machines may stop a thread between two readings: each is held between two of the other kind.
        let (before, ticked, after) = (clock.monotonic_ms(), clock.ticked_ms(), clock.monotonic_ms());
        assert!((before.saturating_sub(11)..=after + 11).contains(&ticked), "{before} {ticked} {after}");
        let (before, ticked, after) = (clock.unix_us(), clock.ticked_unix_us(), clock.unix_us());
        assert!((before - 11_000..=after).contains(&ticked), "{before} {ticked} {after}");
    }

    #[test]
    fn a_moment_is_told_to_the_second_and_a_calendar_has_an_end() {
        assert_eq!(moment(1_781_092_800_999), "2026-06-10T12:00:00Z");
        assert_eq!(moment(u64::MAX), u64::MAX.to_string());
        assert_eq!(after(1_000, Duration::from_secs(1)), Some(2_000));
        assert_eq!(after(1_000, Duration::from_secs(u64::MAX)), None);
    }

    #[test]
    fn the_system_clock_knows_this_century() {
        assert!(Clock::system().unix_ms() > 1_700_000_000_000);
    }
}
