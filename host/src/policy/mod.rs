//! The domain's contract with policies: what they may see, what they may answer, and how answers fold to a verdict.
//!
//! Plain data and one trait. Assumes nothing of how a policy runs; knows no wasmtime, no hyper, no store.

pub mod breaker;
pub mod capability;
pub mod chain;
pub mod charge;
pub mod decision;
pub mod edits;
pub mod exchange;
pub mod facts;
pub mod fault;
pub mod grants;
pub mod guard;
pub mod outcome;
pub mod provenance;

use std::{fmt::Debug, sync::Arc};

pub use breaker::{BreakerRules, BreakerState};
pub use capability::Capability;
pub use chain::{AdmitVerdict, AuthenticateVerdict, Chains, Link, Observer, RouteVerdict, edits_fault, offered};
pub use charge::{Amount, Charge, MOST_UNITS, Period, Rule, Shape, TokenKind};
pub use decision::{Admission, AdmitDecision, AuthenticateDecision, Reason, Rejection, RouteDecision};
pub use edits::{CheckedBody, Draft, Edited, SetHeaders};
pub use exchange::{Caller, Exchange, ExchangeHead, RequestBody};
pub use facts::{Backend, Call, Head, Presented, Principal, Scheme};
pub use fault::{Fault, FaultKind};
pub use grants::{Grantee, Grants, HeaderGrant};
pub use guard::{Guard, GuardTerms, OnChange};
pub use outcome::{End, Outcome};
pub use provenance::{DecisionCount, Decisions, Origin, Step, Trail, Untold};

/// A named point at which policies are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Is this caller known?
    Authenticate,
    /// What may this call cost?
    Admit,
    /// Which backend?
    Route,
    /// What did the call come to?
    Settle,
}

impl Hook {
    /// Every hook that is enforced, in the order in which a call meets them.
    pub const ALL: [Self; 4] = [Self::Authenticate, Self::Admit, Self::Route, Self::Settle];

    /// Those at which the request is there.
    pub const WITH_REQUEST: [Self; 3] = [Self::Authenticate, Self::Admit, Self::Route];

    /// Those at which the caller is known.
    pub const WITH_CALLER: [Self; 3] = [Self::Admit, Self::Route, Self::Settle];

    /// The hook's place in that order, from 0.
    pub fn number(self) -> u8 {
        match self {
            Self::Authenticate => 0,
            Self::Admit => 1,
            Self::Route => 2,
            Self::Settle => 3,
        }
    }

    /// The hook's name, as WIT, metrics and logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authenticate => "authenticate",
            Self::Admit => "admit",
            Self::Route => "route",
            Self::Settle => "settle",
        }
    }
}

/// One loaded policy. Asked from many threads at once; never waits.
///
/// A policy is asked only at hooks that it [decides](Policy::decides); elsewhere its answer is to abstain.
pub trait Policy: Debug + Send + Sync {
    /// Its name: the file's, without `.wasm`.
    fn name(&self) -> &Arc<str>;

    /// Whether it decides at this hook.
    fn decides(&self, hook: Hook) -> bool;

    /// Is this caller known?
    ///
    /// # Errors
    /// A [`Fault`] when the policy failed to answer.
    fn authenticate(
        &self,
        exchange: &Arc<Exchange>,
        head: &Head,
        presented: Option<&Presented>,
    ) -> Result<AuthenticateDecision, Fault>;

    /// What may this call cost?
    ///
    /// # Errors
    /// A [`Fault`] when the policy failed to answer.
    fn admit(&self, exchange: &Arc<Exchange>, call: &Call, principal: &Principal) -> Result<Admission, Fault>;

    /// Which backend?
    ///
    /// # Errors
    /// A [`Fault`] when the policy failed to answer.
    fn route(
        &self,
        exchange: &Arc<Exchange>,
        call: &Call,
        principal: &Principal,
        backends: &[Backend],
    ) -> Result<RouteDecision, Fault>;

    /// The call is over. `exchange` is what [`Exchange::after`] leaves of it.
    ///
    /// # Errors
    /// A [`Fault`] when the policy failed.
    fn settle(&self, exchange: &Arc<Exchange>, call: &Call, outcome: &Outcome) -> Result<(), Fault>;

    /// The same policy for calls that are only tried: it finds what its calls have kept in its state, and leaves there, in
    /// the log and in its own instances nothing behind. Takes long: never on a request's path.
    ///
    /// # Errors
    /// Why it can't be made.
    fn rehearsing(&self) -> Result<Arc<dyn Policy>, NotRehearsed>;
}

/// A policy can't be tried.
#[derive(Clone, Debug, thiserror::Error)]
#[error("policy '{policy}' can't be tried now: {reason}")]
pub struct NotRehearsed {
    /// Which policy.
    pub policy: Arc<str>,
    /// Why.
    pub reason: String,
}
