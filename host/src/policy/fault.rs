//! Faults: a policy failed to answer. Not a decision, and not an error of the gate or a backend.

use std::sync::Arc;

use super::Hook;

/// How a policy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// It used up its CPU budget.
    Budget,
    /// It ran into the memory, table or stack limit.
    Memory,
    /// It trapped: a panic, or an import called where it may not be.
    Trap,
    /// It answered what it may not.
    BadAnswer,
    /// No instance of it could be made.
    Instantiate,
    /// The key table is too old to prove anybody.
    StaleKeys,
    /// The call holds more than the policy asked to read at once: the caller's doing.
    Oversized,
    /// It kept failing, and isn't asked.
    Open,
}

impl FaultKind {
    /// Whether it says anything of the policy. What a gate can't know and what a caller sends don't: else anybody could have a
    /// policy left alone.
    pub fn is_the_policys(self) -> bool {
        !matches!(self, Self::StaleKeys | Self::Oversized)
    }

    /// The word for it in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Memory => "memory",
            Self::Trap => "trap",
            Self::BadAnswer => "bad_answer",
            Self::Instantiate => "instantiate",
            Self::StaleKeys => "stale_keys",
            Self::Oversized => "oversized",
            Self::Open => "open",
        }
    }
}

/// A policy failed to answer at a hook. The caller gets 503; the detail goes to the log only.
#[derive(Clone, Debug, thiserror::Error)]
#[error("policy '{policy}' failed at {} ({}): {detail}", hook.as_str(), kind.as_str())]
pub struct Fault {
    /// Which policy.
    pub policy: Arc<str>,
    /// Where it was asked.
    pub hook: Hook,
    /// How it failed.
    pub kind: FaultKind,
    /// What is known of why.
    pub detail: String,
}
