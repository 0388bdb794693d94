//! Chains: the policies of each hook in order, and how their decisions fold to one verdict.
//!
//! `authenticate` and `route`: the first that doesn't abstain decides. `admit`: all charges add up, and any rejection ends
//! it. A fault ends each of these chains: it fails closed. `settle` decides nothing: all are told. Immutable: a call uses one set from its first hook to its last.

use std::{fmt::Debug, sync::Arc, time::Duration};

use smallvec::{SmallVec, smallvec};

use super::{
    AdmitDecision, AuthenticateDecision, Backend, Call, Charge, Exchange, Fault, FaultKind, Head, Hook, Outcome,
    Policy, Presented, Principal, Rejection, RouteDecision,
};
use crate::clock::Clock;

/// Learns of every policy call: its duration, and its fault if it failed.
pub trait Observer: Debug + Send + Sync {
    /// A policy was asked.
    fn asked(&self, policy: &str, hook: Hook, took: Duration, fault: Option<FaultKind>);
}

/// What the chain of `authenticate` came to.
#[derive(Debug)]
pub enum AuthenticateVerdict {
    /// This subject calls, says this policy.
    Allow {
        /// As the policy named it.
        subject: String,
        /// Which policy.
        policy: Arc<str>,
    },
    /// A policy refuses the call.
    Reject(Rejection),
    /// Nobody knows the caller.
    Unknown,
}

/// What the chain of `admit` came to.
#[derive(Debug)]
pub enum AdmitVerdict {
    /// Go on, at the sum of these prices, each with the policy that asked for it.
    Admit(Vec<(Arc<str>, Charge)>),
    /// A policy refuses the call.
    Reject(Rejection),
}

/// What the chain of `route` came to.
#[derive(Debug)]
pub enum RouteVerdict {
    /// These backends, in this order; at least one, all of them offered, none twice.
    Ranked(Vec<u32>),
    /// A policy refuses the call.
    Reject(Rejection),
    /// No policy had an opinion.
    Undecided,
}

/// One immutable set of policies: a generation.
#[derive(Debug)]
pub struct Chains {
    generation: u64,
    policies: Vec<Arc<dyn Policy>>,
    settles: bool,
    clock: Clock,
    observer: Arc<dyn Observer>,
}

impl Chains {
    /// A set in which policies are asked in this order.
    pub fn new(generation: u64, policies: Vec<Arc<dyn Policy>>, clock: Clock, observer: Arc<dyn Observer>) -> Self {
        let settles = policies.iter().any(|policy| policy.decides(Hook::Settle));
        Self { generation, policies, settles, clock, observer }
    }

    /// The set's number; a later set has a higher one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The policies in order.
    pub fn policies(&self) -> &[Arc<dyn Policy>] {
        &self.policies
    }

    /// Asks who calls.
    ///
    /// # Errors
    /// The fault of the first policy that failed.
    pub fn authenticate(
        &self,
        exchange: &Arc<Exchange>,
        head: &Head,
        presented: Option<&Presented>,
    ) -> Result<AuthenticateVerdict, Fault> {
        for policy in self.at(Hook::Authenticate) {
            match self.ask(policy, Hook::Authenticate, |policy| policy.authenticate(exchange, head, presented))? {
                AuthenticateDecision::Abstain => {}
                AuthenticateDecision::Allow { subject } => {
                    return Ok(AuthenticateVerdict::Allow { subject, policy: Arc::clone(policy.name()) });
                }
                AuthenticateDecision::Reject(rejection) => return Ok(AuthenticateVerdict::Reject(rejection)),
            }
        }
        Ok(AuthenticateVerdict::Unknown)
    }

    /// Asks what the call may cost.
    ///
    /// # Errors
    /// The fault of the first policy that failed.
    pub fn admit(&self, exchange: &Arc<Exchange>, call: &Call, principal: &Principal) -> Result<AdmitVerdict, Fault> {
        let mut charges = Vec::new();
        for policy in self.at(Hook::Admit) {
            match self.ask(policy, Hook::Admit, |policy| policy.admit(exchange, call, principal))? {
                AdmitDecision::Abstain => {}
                AdmitDecision::Admit(more) => {
                    charges.extend(more.into_iter().map(|charge| (Arc::clone(policy.name()), charge)));
                }
                AdmitDecision::Reject(rejection) => return Ok(AdmitVerdict::Reject(rejection)),
            }
        }
        Ok(AdmitVerdict::Admit(charges))
    }

    /// Asks which backend serves the call. `backends` is not empty.
    ///
    /// # Errors
    /// The fault of the first policy that failed, or that named a backend it was not offered.
    pub fn route(
        &self,
        exchange: &Arc<Exchange>,
        call: &Call,
        principal: &Principal,
        backends: &[Backend],
    ) -> Result<RouteVerdict, Fault> {
        for policy in self.at(Hook::Route) {
            let ranked =
                self.ask(policy, Hook::Route, |policy| match policy.route(exchange, call, principal, backends)? {
                    RouteDecision::Abstain => Ok(RouteVerdict::Undecided),
                    RouteDecision::Reject(rejection) => Ok(RouteVerdict::Reject(rejection)),
                    RouteDecision::Pick(id) => offered(policy, vec![id], backends),
                    RouteDecision::Ranked(ids) => offered(policy, ids, backends),
                })?;
            if !matches!(ranked, RouteVerdict::Undecided) {
                return Ok(ranked);
            }
        }
        Ok(RouteVerdict::Undecided)
    }

    /// Whether any policy wants to know what calls came to.
    pub fn settles(&self) -> bool {
        self.settles
    }

    /// Tells what a call came to, and gives back the faults of those who failed to take it.
    pub fn settle(&self, exchange: &Arc<Exchange>, call: &Call, outcome: &Outcome) -> Vec<Fault> {
        let told = self
            .at(Hook::Settle)
            .map(|policy| self.ask(policy, Hook::Settle, |policy| policy.settle(exchange, call, outcome)));
        told.filter_map(Result::err).collect()
    }

    fn at(&self, hook: Hook) -> impl Iterator<Item = &Arc<dyn Policy>> {
        self.policies.iter().filter(move |policy| policy.decides(hook))
    }

    fn ask<T>(
        &self,
        policy: &Arc<dyn Policy>,
        hook: Hook,
        question: impl FnOnce(&dyn Policy) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let start = self.clock.monotonic();
        let answer = question(policy.as_ref());
        let took = self.clock.monotonic().saturating_sub(start);
        self.observer.asked(policy.name(), hook, took, answer.as_ref().err().map(|fault| fault.kind));
        answer
    }
}

/// The order, if every id was offered and none is named twice.
///
/// # Errors
/// A bad answer: which id is wrong.
pub fn offered(policy: &dyn Policy, ids: Vec<u32>, backends: &[Backend]) -> Result<RouteVerdict, Fault> {
    let wrong =
        |detail| Fault { policy: Arc::clone(policy.name()), hook: Hook::Route, kind: FaultKind::BadAnswer, detail };
    if ids.is_empty() {
        return Err(wrong("it ranked no backend".to_owned()));
    }
    let mut named: SmallVec<[bool; 64]> = smallvec![false; backends.len()];
    for id in &ids {
        let at = backends.iter().position(|backend| backend.id == *id);
        match at.and_then(|at| named.get_mut(at)) {
            Some(named) if !*named => *named = true,
            Some(_) => return Err(wrong(format!("it named backend {id} twice"))),
            None => return Err(wrong(format!("it named backend {id}, which it was not offered"))),
        }
    }
    Ok(RouteVerdict::Ranked(ids))
}

#[cfg(test)]
mod tests;
