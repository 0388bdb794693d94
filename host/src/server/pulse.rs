//! What a connection is doing, as far as its deadlines care: a call runs, a head is coming, or nothing happens.
//!
//! Written by the socket and by the calls, read by a timer that looks now and then: a timer set anew for every request
//! would cost more than what it watches.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use crate::{clock::Clock, usage::bound::Bound};

/// How long each state may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a head to be complete.
    pub(super) head: Duration,
    /// For a connection without a call.
    pub(super) keep_alive: Duration,
}

impl Patience {
    /// How long nobody need look: no deadline that begins meanwhile is over by then, save those shorter than [`SELDOM`].
    pub(super) fn until_first_look(&self) -> Duration {
        self.head.min(self.keep_alive).max(SELDOM)
    }
}

/// What looks more often than this costs more than what it watches.
const SELDOM: Duration = Duration::from_millis(20);

/// What the timer found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing is over; look again after this time.
    Again(Duration),
    /// This bound is reached.
    Over(Bound),
}

/// In the lowest bit of the mark: a head is coming. The rest are milliseconds of the clock.
const HEAD: u64 = 1;

/// One connection's state.
#[derive(Debug)]
pub(super) struct Pulse {
    clock: Clock,
    calls: AtomicU32,
    /// Since when no call runs, and whether bytes have come since.
    mark: AtomicU64,
    bytes_begin_a_head: bool,
}

impl Pulse {
    /// A connection of which the first head is due. On HTTP/2 bytes without a call may be answers to pings, so only
    /// HTTP/1.1 counts them as the beginning of a head.
    pub(super) fn new(clock: Clock, bytes_begin_a_head: bool) -> Self {
        let mark = AtomicU64::new(clock.ticked_ms() << 1 | HEAD);
        Self { clock, calls: AtomicU32::new(0), mark, bytes_begin_a_head }
    }

    /// The caller has sent something.
    pub(super) fn bytes_came(&self) {
        let is_idle = self.mark.load(Ordering::Relaxed) & HEAD == 0;
        if is_idle && self.bytes_begin_a_head && !self.has_calls() {
            self.mark.store(self.clock.ticked_ms() << 1 | HEAD, Ordering::Relaxed);
        }
    }

    /// Whether a call runs.
    pub(super) fn has_calls(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }

    pub(super) fn call_begins(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_ends(&self) {
        // In this order: the mark is looked at only when no call runs, and must be this one's then.
        self.mark.store(self.clock.ticked_ms() << 1, Ordering::Relaxed);
        self.calls.fetch_sub(1, Ordering::Release);
    }

    /// Is a deadline over? If not, when to look again: never later than a head that begins now, or an idle time that does,
    /// would be over.
    pub(super) fn look(&self, patience: &Patience) -> Look {
        if self.has_calls() {
            return Look::Again(patience.until_first_look());
        }
        let mark = self.mark.load(Ordering::Relaxed);
        let lasted = Duration::from_millis(self.clock.ticked_ms().saturating_sub(mark >> 1));
        let (limit, bound) = if mark & HEAD == HEAD {
            (patience.head, Bound::HeadTime)
        } else {
            (patience.keep_alive, Bound::KeepAlive)
        };
        match limit.checked_sub(lasted) {
            None | Some(Duration::ZERO) => Look::Over(bound),
            Some(left) => Look::Again(left.min(patience.head)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_secs(10), keep_alive: Duration::from_secs(75) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_head_is_due_from_the_beginning() {
        let (clock, hand) = Clock::manual(0);
        let pulse = Pulse::new(clock, true);
        hand.advance(seconds(4));
        pulse.bytes_came();
        assert_eq!(pulse.look(&PATIENCE), Look::Again(seconds(6)), "a byte now and then buys no time");
        hand.advance(seconds(6));
        assert_eq!(pulse.look(&PATIENCE), Look::Over(Bound::HeadTime));
    }

    #[test]
    fn a_running_call_has_all_the_time_and_silence_after_it_has_its_own() {
        let (clock, hand) = Clock::manual(0);
        let pulse = Pulse::new(clock, true);
        pulse.call_begins();
        hand.advance(seconds(1000));
        assert_eq!(pulse.look(&PATIENCE), Look::Again(seconds(10)));
        pulse.call_ends();
        hand.advance(seconds(74));
        assert_eq!(pulse.look(&PATIENCE), Look::Again(seconds(1)));
        hand.advance(seconds(1));
        assert_eq!(pulse.look(&PATIENCE), Look::Over(Bound::KeepAlive));
    }

    #[test]
    fn the_next_head_is_due_from_its_first_byte() {
        let (clock, hand) = Clock::manual(0);
        let pulse = Pulse::new(clock, true);
        pulse.call_begins();
        pulse.call_ends();
        hand.advance(seconds(60));
        assert_eq!(pulse.look(&PATIENCE), Look::Again(seconds(10)), "a head that begins now must not be overslept");
        pulse.bytes_came();
        hand.advance(seconds(9));
        pulse.bytes_came();
        assert_eq!(pulse.look(&PATIENCE), Look::Again(seconds(1)));
        hand.advance(seconds(1));
        assert_eq!(pulse.look(&PATIENCE), Look::Over(Bound::HeadTime));
    }

    #[test]
    fn an_idle_time_shorter_than_that_of_a_head_is_not_overslept() {
        let (clock, hand) = Clock::manual(0);
        let patience = Patience { head: seconds(10), keep_alive: seconds(2) };
        let pulse = Pulse::new(clock, true);
        assert_eq!(patience.until_first_look(), seconds(2), "the first call may be over soon");
        pulse.call_begins();
        assert_eq!(pulse.look(&patience), Look::Again(seconds(2)));
        pulse.call_ends();
        hand.advance(seconds(1));
        assert_eq!(pulse.look(&patience), Look::Again(seconds(1)));
        hand.advance(seconds(1));
        assert_eq!(pulse.look(&patience), Look::Over(Bound::KeepAlive));
        let tiny = Patience { head: seconds(10), keep_alive: Duration::from_millis(1) };
        assert_eq!(tiny.until_first_look(), SELDOM);
    }

    #[test]
    fn on_http2_answers_to_pings_neither_shorten_nor_lengthen_the_idle_time() {
        let (clock, hand) = Clock::manual(0);
        let pulse = Pulse::new(clock, false);
        pulse.call_begins();
        pulse.call_begins();
        pulse.call_ends();
        hand.advance(seconds(500));
        assert_eq!(pulse.look(&PATIENCE), Look::Again(seconds(10)), "one call still runs");
        pulse.call_ends();
        hand.advance(seconds(70));
        pulse.bytes_came();
        assert_eq!(pulse.look(&PATIENCE), Look::Again(seconds(5)));
        hand.advance(seconds(5));
        assert_eq!(pulse.look(&PATIENCE), Look::Over(Bound::KeepAlive));
    }
}
