//! A breaker: stops asking a policy that keeps failing, tries it again after a while, and in the end leaves it alone.
//!
//! A policy that works pays for one load of an atomic. Time comes in as monotonic milliseconds.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::clock::saturating_ms;

/// Closed.
const CLOSED: u64 = 0;
/// Open, and the next call tries.
const PAUSE_IS_OVER: u64 = 1;
/// Open for good.
const QUARANTINED: u64 = u64::MAX;
/// A try that doesn't come back is given up after this long, and the next call tries: longer than any call may take.
const TRIAL_MS: u64 = 5_000;

/// When a breaker opens, and what happens then. The configuration says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    /// Faults within `window` that open it; 0: it never opens.
    pub faults: u32,
    /// How long a fault counts.
    pub window: Duration,
    /// Share of the calls since the first of these faults that must have failed, in percent.
    pub percent: u32,
    /// Time until the first try.
    pub pause: Duration,
    /// The longest time between two tries.
    pub max_pause: Duration,
    /// Openings in a row after which it is not tried any more.
    pub quarantine_after: u32,
}

/// Whether a call may ask the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It may.
    Free,
    /// It may, and what comes of it decides whether others may.
    Trial,
    /// It may not.
    Stopped,
}

/// What a call's end changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The policy isn't asked for this long.
    Opened(Duration),
    /// It isn't asked any more.
    Quarantined,
    /// It is asked again.
    Closed,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// The policy is asked.
    Closed,
    /// It is asked once its pause is over.
    Open,
    /// It isn't asked any more.
    Quarantined,
}

impl BreakerState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One policy's breaker.
#[derive(Debug)]
pub struct Breaker {
    rules: BreakerRules,
    until_ms: AtomicU64,
    is_watching: AtomicBool,
    /// Calls that went well since the first fault that counts.
    good: AtomicU32,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    since_ms: u64,
    faults: u32,
    /// Openings without a long enough time of good calls between them.
    openings: u32,
    closed_ms: u64,
}

impl Breaker {
    /// A closed one.
    pub fn new(rules: BreakerRules) -> Self {
        Self {
            rules,
            until_ms: AtomicU64::new(CLOSED),
            is_watching: AtomicBool::new(false),
            good: AtomicU32::new(0),
            tally: Mutex::default(),
        }
    }

    /// A call wants to ask the policy. `now_ms` is asked for the time only while the breaker is open.
    pub fn enter(&self, now_ms: impl FnOnce() -> u64) -> Pass {
        let until = self.until_ms.load(Ordering::Acquire);
        if until == CLOSED {
            return Pass::Free;
        }
        if until == QUARANTINED {
            return Pass::Stopped;
        }
        let now = now_ms();
        if now < until {
            return Pass::Stopped;
        }
        // One of those who come now tries; for the others it stays open.
        let next = now.saturating_add(TRIAL_MS);
        match self.until_ms.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Pass::Trial,
            Err(_) => Pass::Stopped,
        }
    }

    /// What came of a call that was let in.
    pub fn leave(&self, pass: Pass, is_fault: bool, now_ms: impl FnOnce() -> u64) -> Option<Change> {
        match (pass, is_fault) {
            (Pass::Stopped, _) => None,
            (Pass::Free, false) => {
                // Nothing is written while nothing fails: a counter that all threads write would cost more than it tells.
                if self.is_watching.load(Ordering::Relaxed) {
                    self.good.fetch_add(1, Ordering::Relaxed);
                }
                None
            }
            (Pass::Free, true) => self.failed(now_ms()),
            (Pass::Trial, true) => {
                let mut tally = self.tally();
                Some(self.open(&mut tally, now_ms()))
            }
            (Pass::Trial, false) => {
                let mut tally = self.tally();
                *tally = Tally { openings: tally.openings, closed_ms: now_ms(), ..Tally::default() };
                self.is_watching.store(false, Ordering::Relaxed);
                self.until_ms.store(CLOSED, Ordering::Release);
                Some(Change::Closed)
            }
        }
    }

    fn failed(&self, now: u64) -> Option<Change> {
        if self.rules.faults == 0 {
            return None;
        }
        let mut tally = self.tally();
        // One that began before it opened tells nothing new.
        if self.until_ms.load(Ordering::Acquire) != CLOSED {
            return None;
        }
        if tally.faults == 0 || now.saturating_sub(tally.since_ms) > saturating_ms(self.rules.window) {
            (tally.faults, tally.since_ms) = (0, now);
            self.good.store(0, Ordering::Relaxed);
            self.is_watching.store(true, Ordering::Relaxed);
        }
        tally.faults = tally.faults.saturating_add(1);
        let (faults, good) = (u64::from(tally.faults), u64::from(self.good.load(Ordering::Relaxed)));
        let is_share = faults * 100 >= (faults + good) * u64::from(self.rules.percent);
        (tally.faults >= self.rules.faults && is_share).then(|| self.open(&mut tally, now))
    }

    fn open(&self, tally: &mut Tally, now: u64) -> Change {
        let longest = saturating_ms(self.rules.max_pause);
        if now.saturating_sub(tally.closed_ms) >= longest && self.until_ms.load(Ordering::Acquire) == CLOSED {
            tally.openings = 0;
        }
        let doublings = tally.openings.min(32);
        tally.openings = tally.openings.saturating_add(1);
        tally.faults = 0;
        self.is_watching.store(false, Ordering::Relaxed);
        if tally.openings >= self.rules.quarantine_after {
            self.until_ms.store(QUARANTINED, Ordering::Release);
            return Change::Quarantined;
        }
        let pause = saturating_ms(self.rules.pause).saturating_mul(1 << doublings).min(longest);
        self.until_ms.store(now.saturating_add(pause).max(1), Ordering::Release);
        Change::Opened(Duration::from_millis(pause))
    }

    /// Somebody asks for another try of a policy that isn't tried any more: the next call tries it, and it has all its openings
    /// before it again. True if it was in quarantine.
    pub fn lift_quarantine(&self) -> bool {
        let mut tally = self.tally();
        if self.until_ms.load(Ordering::Acquire) != QUARANTINED {
            return false;
        }
        *tally = Tally::default();
        self.until_ms.store(PAUSE_IS_OVER, Ordering::Release);
        true
    }

    /// How it stands.
    pub fn state(&self) -> BreakerState {
        match self.until_ms.load(Ordering::Acquire) {
            CLOSED => BreakerState::Closed,
            QUARANTINED => BreakerState::Quarantined,
            _ => BreakerState::Open,
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerRules {
            faults: 3,
            window: Duration::from_secs(10),
            percent: 50,
            pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(3),
            quarantine_after: 5,
        })
    }

    /// One call at this time: whether it was let in, and what it changed.
    fn call(breaker: &Breaker, now: u64, is_fault: bool) -> (Pass, Option<Change>) {
        let pass = breaker.enter(|| now);
        (pass, breaker.leave(pass, is_fault, || now))
    }

    #[test]
    fn a_quarantine_that_is_lifted_is_a_try_and_its_openings_count_anew() {
        let breaker = Breaker::new(BreakerRules { quarantine_after: 2, ..breaker().rules });
        assert!(!breaker.lift_quarantine(), "there is none");
        fail(&breaker, 3, 1_000);
        assert!(!breaker.lift_quarantine(), "it is tried anyway");
        assert_eq!(call(&breaker, 2_000, true), (Pass::Trial, Some(Change::Quarantined)));
        assert_eq!(call(&breaker, 1_000_000, true), (Pass::Stopped, None));
        assert!(breaker.lift_quarantine());
        assert_eq!(breaker.state(), BreakerState::Open, "nothing is known yet");
        let opened = Change::Opened(Duration::from_secs(1));
        assert_eq!(call(&breaker, 1_000_000, true), (Pass::Trial, Some(opened)));
        assert_eq!(call(&breaker, 1_001_000, true), (Pass::Trial, Some(Change::Quarantined)));
        assert!(breaker.lift_quarantine());
        assert_eq!(call(&breaker, 2_000_000, false), (Pass::Trial, Some(Change::Closed)));
    }

    fn fail(breaker: &Breaker, times: u32, now: u64) {
        for _ in 0..times {
            call(breaker, now, true);
        }
    }

    fn opened(seconds: u64) -> Option<Change> {
        Some(Change::Opened(Duration::from_secs(seconds)))
    }

    #[test]
    fn it_opens_after_so_many_faults_in_its_window_and_not_for_older_ones() {
        let breaker = breaker();
        for now in [0, 10_000, 10_001, 20_000] {
            assert_eq!(call(&breaker, now, true), (Pass::Free, None), "{now}");
        }
        assert_eq!(call(&breaker, 20_001, true), (Pass::Free, opened(1)));
        assert_eq!(call(&breaker, 21_000, true), (Pass::Stopped, None));
    }

    #[test]
    fn faults_that_are_few_among_the_calls_open_nothing() {
        let breaker = breaker();
        for now in 0..300 {
            assert_eq!(call(&breaker, now, now % 3 == 0).1, None, "{now}");
        }
        let until_open = (300..).take_while(|now| call(&breaker, *now, true).1.is_none()).count();
        assert_eq!(until_open, 99, "until as many have failed as not");
    }

    #[test]
    fn one_call_tries_and_the_pause_doubles_up_to_the_longest() {
        let breaker = breaker();
        fail(&breaker, 3, 0);
        assert_eq!(breaker.enter(|| 999), Pass::Stopped);
        assert_eq!(breaker.enter(|| 1_000), Pass::Trial);
        assert_eq!(breaker.enter(|| 1_001), Pass::Stopped, "one tries at a time");
        assert_eq!(breaker.leave(Pass::Trial, true, || 1_002), opened(2));
        assert_eq!(call(&breaker, 3_002, true), (Pass::Trial, opened(3)));
        assert_eq!(call(&breaker, 6_002, true), (Pass::Trial, opened(3)));
        assert_eq!(call(&breaker, 9_002, true), (Pass::Trial, Some(Change::Quarantined)));
        assert_eq!(call(&breaker, u64::MAX - 1, true), (Pass::Stopped, None));
        assert_eq!(breaker.state(), BreakerState::Quarantined);
    }

    #[test]
    fn a_try_that_goes_well_closes_it_and_good_time_makes_it_new() {
        let breaker = breaker();
        fail(&breaker, 3, 0);
        assert_eq!(call(&breaker, 1_000, false), (Pass::Trial, Some(Change::Closed)));
        (0..2).for_each(|_| assert_eq!(call(&breaker, 1_001, true), (Pass::Free, None)));
        assert_eq!(call(&breaker, 1_001, true).1, opened(2), "so soon again, the pause is longer");
        assert_eq!(call(&breaker, 3_001, false).1, Some(Change::Closed));
        fail(&breaker, 2, 6_001);
        assert_eq!(call(&breaker, 6_001, true).1, opened(1), "after a good time it begins anew");
    }

    #[test]
    fn a_try_that_never_ends_is_followed_by_another() {
        let breaker = breaker();
        fail(&breaker, 3, 0);
        assert_eq!(breaker.enter(|| 1_000), Pass::Trial);
        assert_eq!(breaker.enter(|| 5_999), Pass::Stopped);
        assert_eq!(breaker.enter(|| 6_000), Pass::Trial);
    }

    #[test]
    fn with_no_number_of_faults_it_never_opens() {
        let breaker = Breaker::new(BreakerRules { faults: 0, ..breaker().rules });
        assert!((0..10_000).all(|now| call(&breaker, now, true) == (Pass::Free, None)));
    }
}
