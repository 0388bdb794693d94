//! Decisions: what one policy answers at a hook.

use super::{charge::Charge, edits::Draft};
use crate::ports::keys::Attributes;

/// Why a policy says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 400.
    Invalid,
    /// 429.
    TooMany,
    /// 429 that a retry won't mend soon.
    BudgetSpent,
    /// 503.
    Unavailable,
}

/// Why a call is refused, in a policy's words. Checked: the code is `[a-z0-9_]{1,64}`, the message at most 1,024 bytes
/// without control characters, and the presented credential is blanked in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status.
    pub reason: Reason,
    /// Machine-readable.
    pub code: String,
    /// For the person who reads the answer.
    pub message: String,
    /// When a retry makes sense.
    pub retry_after_ms: Option<u32>,
}

/// An answer of `authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthenticateDecision {
    /// This subject calls.
    Allow {
        /// 1 to 128 bytes, no control characters.
        subject: String,
        /// What the policy says of them, for this call.
        attributes: Attributes,
    },
    /// Stop.
    Reject(Rejection),
    /// No opinion.
    Abstain,
}

/// An answer of `admit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmitDecision {
    /// Go on, at this price.
    Admit(Vec<Charge>),
    /// Stop.
    Reject(Rejection),
    /// No opinion.
    Abstain,
}

/// A decision of `admit`, and what the policy changed in the call. The changes stand unless it, or a policy behind it, rejects
/// or fails.
#[derive(Debug)]
pub struct Admission {
    /// The decision.
    pub decision: AdmitDecision,
    /// Its changes; none where it made none.
    pub draft: Option<Box<Draft>>,
}

impl From<AdmitDecision> for Admission {
    fn from(decision: AdmitDecision) -> Self {
        Self { decision, draft: None }
    }
}

/// An answer of `route`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteDecision {
    /// This backend, and no other.
    Pick(u32),
    /// These backends, in this order.
    Ranked(Vec<u32>),
    /// Stop.
    Reject(Rejection),
    /// No opinion.
    Abstain,
}
