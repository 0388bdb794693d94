//! What stands between a chain and one policy: its breaker, and what its faults do.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Fault, FaultKind, Hook,
    breaker::{Breaker, BreakerRules, BreakerState, Change, Outcome, Pass},
};
use crate::clock::Clock;

/// Told when a breaker changed.
pub type OnChange = Arc<dyn Fn() + Send + Sync>;

/// What a guard is made for.
#[derive(Clone)]
pub struct GuardTerms {
    /// When its breakers open.
    pub rules: BreakerRules,
    /// Whether a fault at `route` is no opinion.
    pub abstains_at_route: bool,
    /// Counts how often they opened.
    pub openings: Arc<AtomicU64>,
    /// Called when one of them changed.
    pub on_change: OnChange,
}

/// The guard of one version of a policy.
pub struct Guard {
    policy: Arc<str>,
    clock: Clock,
    /// One for each hook, in the order of [`Hook::ALL`]: that the others work says nothing of this one, and a fault of `settle`
    /// must never refuse a call.
    breakers: [Breaker; Hook::ALL.len()],
    terms: GuardTerms,
}

impl Guard {
    /// A guard whose breakers are closed.
    pub fn new(policy: Arc<str>, clock: Clock, terms: GuardTerms) -> Self {
        let breakers = Hook::ALL.map(|_| Breaker::new(terms.rules));
        Self { policy, clock, breakers, terms }
    }

    fn breaker(&self, hook: Hook) -> &Breaker {
        let [authenticate, admit, route, settle] = &self.breakers;
        match hook {
            Hook::Authenticate => authenticate,
            Hook::Admit => admit,
            Hook::Route => route,
            Hook::Settle => settle,
        }
    }

    /// Whether a fault at this hook is no opinion.
    pub fn abstains_at(&self, hook: Hook) -> bool {
        self.terms.abstains_at_route && hook == Hook::Route
    }

    /// How its breakers stand: the worst of them.
    pub fn state(&self) -> BreakerState {
        self.breakers.iter().map(Breaker::state).fold(BreakerState::Closed, BreakerState::max)
    }

    /// Ends the quarantine of its breakers, so that the next call tries the policy. True if one was in quarantine.
    pub fn lift_quarantine(&self) -> bool {
        // All of them, whatever the first says.
        self.breakers.iter().filter(|breaker| breaker.lift_quarantine()).count() > 0
    }

    /// Whether the policy may be asked for all of its decisions.
    pub fn lets_decide(&self) -> bool {
        let [deciding @ .., _settling] = &self.breakers;
        deciding.iter().all(|breaker| breaker.state() == BreakerState::Closed)
    }

    /// Asks the policy, unless the hook's breaker is open.
    ///
    /// # Errors
    /// The policy's fault, or that it isn't asked.
    pub fn ask<T>(&self, hook: Hook, question: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let breaker = self.breaker(hook);
        let pass = breaker.enter(|| self.clock.monotonic_ms());
        if pass == Pass::Stopped {
            return Err(self.not_asked(hook));
        }
        let answer = question();
        let fault = answer.as_ref().err();
        let outcome = match fault {
            None => Outcome::Good,
            Some(fault) if fault.kind.is_the_policys() => Outcome::Fault,
            Some(_) => Outcome::Neither,
        };
        if let Some(change) = breaker.leave(pass, outcome, || self.clock.monotonic_ms()) {
            self.tell(change, hook, fault);
        }
        answer
    }

    /// An answer of the policy turned out to be none that can be used, after it had counted as good.
    pub fn blame(&self, fault: &Fault) {
        if let Some(change) = self.breaker(fault.hook).retract(|| self.clock.monotonic_ms()) {
            self.tell(change, fault.hook, Some(fault));
        }
    }

    /// Asks the policy unless the hook's breaker is open, which learns nothing of the answer. A breaker that would let a call through
    /// to try the policy counts as open.
    ///
    /// # Errors
    /// The policy's fault, or that it isn't asked.
    pub fn rehearse<T>(&self, hook: Hook, question: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        if self.breaker(hook).state() == BreakerState::Closed { question() } else { Err(self.not_asked(hook)) }
    }

    fn not_asked(&self, hook: Hook) -> Fault {
        let detail = "it keeps failing, and isn't asked at the moment".to_owned();
        Fault { policy: Arc::clone(&self.policy), hook, kind: FaultKind::Open, detail }
    }

    fn tell(&self, change: Change, hook: Hook, fault: Option<&Fault>) {
        let (policy, hook) = (&*self.policy, hook.as_str());
        let last = fault.map(|fault| fault.kind.as_str());
        if change != Change::Closed {
            self.terms.openings.fetch_add(1, Ordering::Relaxed);
        }
        match change {
            Change::Opened(pause) => {
                let pause_ms = crate::clock::saturating_ms(pause);
                tracing::error!(policy, hook, last, pause_ms, "the policy keeps failing: it isn't asked for a while");
            }
            Change::Quarantined => {
                tracing::error!(policy, hook, last, "the policy fails whenever it is tried: it isn't asked any more");
            }
            Change::Closed => tracing::info!(policy, hook, "the policy works again: it is asked as before"),
        }
        (self.terms.on_change)();
    }
}

impl Debug for GuardTerms {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("GuardTerms").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Debug for Guard {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("Guard").field("policy", &self.policy).field("state", &self.state()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A guard whose breakers open after two faults.
    fn guard() -> Guard {
        let rules = BreakerRules {
            faults: 2,
            window: Duration::from_secs(10),
            percent: 50,
            pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(60),
            quarantine_after: 5,
        };
        let terms =
            GuardTerms { rules, abstains_at_route: false, openings: Arc::default(), on_change: Arc::new(|| ()) };
        let (clock, _hand) = Clock::manual(0);
        Guard::new("policy".into(), clock, terms)
    }

    fn fault(hook: Hook, kind: FaultKind) -> Fault {
        Fault { policy: "policy".into(), hook, kind, detail: String::new() }
    }

    #[test]
    fn a_policy_that_fails_at_one_hook_is_left_alone_there_however_well_it_answers_at_others() {
        for failing in Hook::ALL {
            let guard = guard();
            for _ in 0..2 {
                for hook in Hook::ALL.into_iter().filter(|hook| *hook != failing) {
                    assert_eq!(guard.ask(hook, || Ok(1)).ok(), Some(1));
                }
                guard.ask(failing, || Err::<(), _>(fault(failing, FaultKind::Trap))).unwrap_err();
            }
            for hook in Hook::ALL {
                let is_open = guard.ask(hook, || Ok(())).is_err_and(|fault| fault.kind == FaultKind::Open);
                assert_eq!(is_open, hook == failing, "{hook:?} where {failing:?} fails");
                let is_rehearsed = guard.rehearse(hook, || Ok(())).is_ok();
                assert_eq!(is_rehearsed, hook != failing, "{hook:?} where {failing:?} fails");
            }
            assert_eq!(guard.state(), BreakerState::Open);
            assert_eq!(guard.lets_decide(), failing == Hook::Settle, "settling is no decision");
        }
    }

    #[test]
    fn what_a_caller_sends_and_what_the_gate_does_not_know_open_nothing() {
        let guard = guard();
        for kind in [FaultKind::Oversized, FaultKind::StaleKeys] {
            for _ in 0..100 {
                guard.ask(Hook::Admit, || Err::<(), _>(fault(Hook::Admit, kind))).unwrap_err();
            }
        }
        assert_eq!(guard.state(), BreakerState::Closed);
    }

    #[test]
    fn answers_that_turn_out_bad_open_it_as_faults_do() {
        let guard = guard();
        for _ in 0..2 {
            guard.ask(Hook::Admit, || Ok(())).unwrap();
            guard.blame(&fault(Hook::Admit, FaultKind::BadAnswer));
        }
        assert_eq!(guard.ask(Hook::Admit, || Ok(())).unwrap_err().kind, FaultKind::Open);
        assert_eq!(guard.ask(Hook::Route, || Ok(1)).ok(), Some(1));
    }
}
