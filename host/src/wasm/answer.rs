//! Answers of hooks, as [`GuestPolicy`](super::GuestPolicy) handles all of them alike.

use crate::policy::{Admission, AdmitDecision, AuthenticateDecision, RouteDecision};

/// What a hook answers.
pub(super) trait Answer {
    /// The answer of a policy that lacks the hook.
    fn abstain() -> Self;

    /// Whether the same was decided a second time.
    fn is_same(&self, first: &Self) -> bool;
}

impl Answer for AuthenticateDecision {
    fn abstain() -> Self {
        Self::Abstain
    }

    fn is_same(&self, first: &Self) -> bool {
        self == first
    }
}

impl Answer for Admission {
    fn abstain() -> Self {
        AdmitDecision::Abstain.into()
    }

    /// What was changed in the call is not looked at: the second time nothing is, and what was asked for was compared then.
    fn is_same(&self, first: &Self) -> bool {
        self.decision == first.decision
    }
}

impl Answer for RouteDecision {
    fn abstain() -> Self {
        Self::Abstain
    }

    fn is_same(&self, first: &Self) -> bool {
        self == first
    }
}

impl Answer for () {
    fn abstain() {}

    fn is_same(&self, (): &Self) -> bool {
        true
    }
}
