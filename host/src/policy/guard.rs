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
    breaker::{Breaker, BreakerRules, BreakerState, Change, Pass},
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
    deciding: Breaker,
    /// Of its own: a fault of `settle` must never refuse a call.
    settling: Breaker,
    terms: GuardTerms,
}

impl Guard {
    /// A guard whose breakers are closed.
    pub fn new(policy: Arc<str>, clock: Clock, terms: GuardTerms) -> Self {
        let (deciding, settling) = (Breaker::new(terms.rules), Breaker::new(terms.rules));
        Self { policy, clock, deciding, settling, terms }
    }

    /// Whether a fault at this hook is no opinion.
    pub fn abstains_at(&self, hook: Hook) -> bool {
        self.terms.abstains_at_route && hook == Hook::Route
    }

    /// How its breakers stand; the worse of the two.
    pub fn state(&self) -> BreakerState {
        self.deciding.state().max(self.settling.state())
    }

    /// Ends the quarantine of its breakers, so that the next call tries the policy. True if one was in quarantine.
    pub fn lift_quarantine(&self) -> bool {
        // Both, whatever the first says.
        let (decides, settles) = (self.deciding.lift_quarantine(), self.settling.lift_quarantine());
        decides || settles
    }

    /// Whether the policy may be asked for decisions.
    pub fn lets_decide(&self) -> bool {
        self.deciding.state() == BreakerState::Closed
    }

    /// Asks the policy, unless its breaker is open.
    ///
    /// # Errors
    /// The policy's fault, or that it isn't asked.
    pub fn ask<T>(&self, hook: Hook, question: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let breaker = if hook == Hook::Settle { &self.settling } else { &self.deciding };
        let pass = breaker.enter(|| self.clock.monotonic_ms());
        if pass == Pass::Stopped {
            return Err(self.not_asked(hook));
        }
        let answer = question();
        // Keys that can't be proven are not the policy's fault.
        let fault = answer.as_ref().err().filter(|fault| fault.kind != FaultKind::StaleKeys);
        if let Some(change) = breaker.leave(pass, fault.is_some(), || self.clock.monotonic_ms()) {
            self.tell(change, hook, fault);
        }
        answer
    }

    /// An answer of the policy turned out to be none that can be used.
    pub fn blame(&self, fault: &Fault) {
        let breaker = if fault.hook == Hook::Settle { &self.settling } else { &self.deciding };
        if let Some(change) = breaker.leave(Pass::Free, true, || self.clock.monotonic_ms()) {
            self.tell(change, fault.hook, Some(fault));
        }
    }

    /// Asks the policy unless its breaker is open, which learns nothing of the answer. A breaker that would let a call through
    /// to try the policy counts as open.
    ///
    /// # Errors
    /// The policy's fault, or that it isn't asked.
    pub fn rehearse<T>(&self, hook: Hook, question: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        if self.lets_decide() { question() } else { Err(self.not_asked(hook)) }
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
