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
/// After so many good calls it is looked whether the faults that they are counted against are too old.
const GOOD_A_LOOK: u32 = 1_024;
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

/// What came of a call that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The policy answered.
    Good,
    /// It failed.
    Fault,
    /// Nothing that says anything of it.
    Neither,
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
    /// A try closed it, and what came of that may yet be taken back.
    is_on_trial: bool,
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
    pub fn leave(&self, pass: Pass, outcome: Outcome, now_ms: impl FnOnce() -> u64) -> Option<Change> {
        match (pass, outcome) {
            (Pass::Stopped, _) | (Pass::Free, Outcome::Neither) => None,
            (Pass::Free, Outcome::Good) => {
                // Nothing is written while nothing fails: a counter that all threads write would cost more than it tells.
                if self.is_watching.load(Ordering::Relaxed)
                    && self.good.fetch_add(1, Ordering::Relaxed) % GOOD_A_LOOK == GOOD_A_LOOK - 1
                {
                    self.forget_the_old(now_ms());
                }
                None
            }
            (Pass::Free, Outcome::Fault) => self.failed(&mut self.tally(), now_ms()),
            (Pass::Trial, Outcome::Fault) => {
                let mut tally = self.tally();
                Some(self.open(&mut tally, now_ms()))
            }
            (Pass::Trial, Outcome::Neither) => {
                // The next call tries.
                let _tally = self.tally();
                if self.state() == BreakerState::Open {
                    self.until_ms.store(PAUSE_IS_OVER, Ordering::Release);
                }
                None
            }
            (Pass::Trial, Outcome::Good) => {
                let mut tally = self.tally();
                let now = now_ms();
                *tally = Tally {
                    openings: tally.openings,
                    since_ms: now,
                    closed_ms: now,
                    is_on_trial: true,
                    ..Tally::default()
                };
                self.good.store(0, Ordering::Relaxed);
                self.is_watching.store(true, Ordering::Relaxed);
                self.until_ms.store(CLOSED, Ordering::Release);
                Some(Change::Closed)
            }
        }
    }

    /// A call that had counted as good was none after all. If it is the try that closed the breaker, the try has failed.
    pub fn retract(&self, now_ms: impl FnOnce() -> u64) -> Option<Change> {
        let mut tally = self.tally();
        let good = self.good.load(Ordering::Relaxed);
        self.good.store(good.saturating_sub(1), Ordering::Relaxed);
        let is_the_try = tally.is_on_trial && good == 0 && self.state() == BreakerState::Closed;
        if is_the_try { Some(self.open(&mut tally, now_ms())) } else { self.failed(&mut tally, now_ms()) }
    }

    /// Stops to count good calls once the faults that they are counted against no longer count.
    fn forget_the_old(&self, now: u64) {
        let mut tally = self.tally();
        if now.saturating_sub(tally.since_ms) > saturating_ms(self.rules.window) {
            (tally.faults, tally.is_on_trial) = (0, false);
            self.is_watching.store(false, Ordering::Relaxed);
        }
    }

    fn failed(&self, tally: &mut Tally, now: u64) -> Option<Change> {
        // One that began before it opened tells nothing new.
        if self.rules.faults == 0 || self.until_ms.load(Ordering::Acquire) != CLOSED {
            return None;
        }
        tally.is_on_trial = false;
        if tally.faults == 0 || now.saturating_sub(tally.since_ms) > saturating_ms(self.rules.window) {
            (tally.faults, tally.since_ms) = (0, now);
            self.good.store(0, Ordering::Relaxed);
            self.is_watching.store(true, Ordering::Relaxed);
        }
        tally.faults = tally.faults.saturating_add(1);
        let (faults, good) = (u64::from(tally.faults), u64::from(self.good.load(Ordering::Relaxed)));
        let is_share = faults * 100 >= (faults + good) * u64::from(self.rules.percent);
        (tally.faults >= self.rules.faults && is_share).then(|| self.open(tally, now))
    }

    fn open(&self, tally: &mut Tally, now: u64) -> Change {
        let longest = saturating_ms(self.rules.max_pause);
        if now.saturating_sub(tally.closed_ms) >= longest && self.until_ms.load(Ordering::Acquire) == CLOSED {
            tally.openings = 0;
        }
        let doublings = tally.openings.min(32);
        tally.openings = tally.openings.saturating_add(1);
        (tally.faults, tally.is_on_trial) = (0, false);
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
        let outcome = if is_fault { Outcome::Fault } else { Outcome::Good };
        (pass, breaker.leave(pass, outcome, || now))
    }

    #[test]
    fn a_try_whose_answer_is_taken_back_has_failed() {
        let breaker = breaker();
        fail(&breaker, 3, 0);
        assert_eq!(call(&breaker, 1_000, false), (Pass::Trial, Some(Change::Closed)));
        assert_eq!(breaker.retract(|| 1_001), opened(2));
        assert_eq!(call(&breaker, 3_001, false), (Pass::Trial, Some(Change::Closed)));
        assert_eq!(call(&breaker, 3_002, false), (Pass::Free, None), "another goes well meanwhile");
        assert_eq!(breaker.retract(|| 3_003), None, "which of the two it was isn't known: a fault like others");
    }

    #[test]
    fn what_is_taken_back_counts_as_failed_and_not_as_good() {
        let breaker = breaker();
        call(&breaker, 0, true);
        for now in 1..=2 {
            assert_eq!(call(&breaker, now, false), (Pass::Free, None));
            assert_eq!(breaker.retract(|| now), if now == 2 { opened(1) } else { None }, "{now}");
        }
    }

    #[test]
    fn a_try_that_says_nothing_leaves_the_next_call_to_try() {
        let breaker = breaker();
        fail(&breaker, 3, 0);
        let pass = breaker.enter(|| 1_000);
        assert_eq!((pass, breaker.leave(pass, Outcome::Neither, || 1_000)), (Pass::Trial, None));
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(
            call(&breaker, 1_000, true),
            (Pass::Trial, opened(2)),
            "at once, and its pause is as if none had been"
        );
    }

    #[test]
    fn good_calls_are_no_longer_counted_once_the_faults_before_them_are_too_old() {
        let breaker = breaker();
        call(&breaker, 0, true);
        let is_watching = || breaker.is_watching.load(Ordering::Relaxed);
        for (now, counts) in [(10_000, true), (10_001, false)] {
            (0..GOOD_A_LOOK).for_each(|_| assert_eq!(call(&breaker, now, false), (Pass::Free, None)));
            assert_eq!(is_watching(), counts, "{now}");
        }
        fail(&breaker, 2, 10_002);
        assert_eq!(call(&breaker, 10_002, true).1, opened(1), "what went well before doesn't count for it");
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
        assert_eq!(breaker.leave(Pass::Trial, Outcome::Fault, || 1_002), opened(2));
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
