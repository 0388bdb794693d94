//! Chains: the policies of each hook in order, and how their decisions fold to one verdict.
//!
//! `authenticate` and `route`: the first that doesn't abstain decides. `admit`: all charges add up, and any rejection ends
//! it. A fault ends each of these chains: it fails closed, save at `route` where an operator lets it count as no opinion. `settle` decides nothing: all are told. Immutable: a call uses one set from its first hook to its last.

use std::{fmt::Debug, sync::Arc, time::Duration};

use smallvec::{SmallVec, smallvec};

use super::{
    Admission, AdmitDecision, AuthenticateDecision, Backend, Call, Charge, Edited, Exchange, Fault, FaultKind, Guard,
    Head, Hook, NotRehearsed, Origin, Outcome, Policy, Presented, Principal, Rejection, RouteDecision, Step, Trail,
    edits::EditError,
};
use crate::{clock::Clock, ports::keys::Attributes};

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
        /// What it says of them, for this call.
        attributes: Attributes,
    },
    /// A policy refuses the call.
    Reject(Rejection),
    /// Nobody knows the caller.
    Unknown,
}

/// What the chain of `admit` came to.
#[derive(Debug)]
pub enum AdmitVerdict {
    /// Go on.
    Admit {
        /// The sum of these is the price, each with the policy that asked for it.
        charges: Vec<(Arc<str>, Charge)>,
        /// The call as the policies changed it; none where they changed nothing.
        edited: Option<Box<Edited>>,
    },
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

/// One policy of a chain, and what guards the callers from its faults.
#[derive(Clone, Debug)]
pub struct Link {
    policy: Arc<dyn Policy>,
    guard: Option<Arc<Guard>>,
    origin: Arc<Origin>,
}

impl Link {
    /// A policy that is asked as long as its guard lets it; `origin` is its version.
    pub fn guarded(policy: Arc<dyn Policy>, guard: Arc<Guard>, origin: Arc<Origin>) -> Self {
        Self { policy, guard: Some(guard), origin }
    }
}

impl From<Arc<dyn Policy>> for Link {
    /// A policy that is always asked.
    fn from(policy: Arc<dyn Policy>) -> Self {
        let origin = Arc::new(Origin::without_version(Arc::clone(policy.name())));
        Self { policy, guard: None, origin }
    }
}

/// One immutable set of policies: a generation.
#[derive(Debug)]
pub struct Chains {
    generation: u64,
    links: Vec<Link>,
    settles: bool,
    /// Nobody learns of what is asked: no breaker, no metric.
    is_rehearsal: bool,
    clock: Clock,
    observer: Arc<dyn Observer>,
}

impl Chains {
    /// A set in which policies are asked in this order.
    pub fn new(generation: u64, links: Vec<Link>, clock: Clock, observer: Arc<dyn Observer>) -> Self {
        let settles = links.iter().any(|link| link.policy.decides(Hook::Settle));
        Self { generation, links, settles, is_rehearsal: false, clock, observer }
    }

    /// The same set for a call that is only tried: its policies leave nothing behind, its breakers stand as they do and learn
    /// nothing, and nothing is counted. Takes long: never on a request's path.
    ///
    /// # Errors
    /// The first policy that can't be tried, and why.
    pub fn rehearsal(&self) -> Result<Self, NotRehearsed> {
        let twin = |link: &Link| Ok(Link { policy: link.policy.rehearsing()?, ..link.clone() });
        let links = self.links.iter().map(twin).collect::<Result<_, NotRehearsed>>()?;
        let (clock, observer) = (self.clock.clone(), Arc::clone(&self.observer));
        Ok(Self { is_rehearsal: true, ..Self::new(self.generation, links, clock, observer) })
    }

    /// The set's number; a later set has a higher one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The policies in order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<dyn Policy>> {
        self.links.iter().map(|link| &link.policy)
    }

    /// Tells the policy's breaker of an answer that only its use showed to be bad.
    pub fn blame(&self, fault: &Fault) {
        let link = self.links.iter().find(|link| link.policy.name() == &fault.policy);
        if let Some(guard) = link.and_then(|link| link.guard.as_ref()).filter(|_| !self.is_rehearsal) {
            guard.blame(fault);
        }
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
        trail: &mut dyn Trail,
    ) -> Result<AuthenticateVerdict, Fault> {
        let hook = Hook::Authenticate;
        for link in self.at(hook) {
            let answer = self.ask(link, hook, |policy| policy.authenticate(exchange, head, presented));
            match self.told(link, hook, answer, trail)? {
                AuthenticateDecision::Abstain => self.tell(link, hook, Step::Abstained, trail),
                AuthenticateDecision::Allow { subject, attributes } => {
                    self.tell(link, hook, Step::Allowed(&subject), trail);
                    let policy = Arc::clone(link.policy.name());
                    return Ok(AuthenticateVerdict::Allow { subject, policy, attributes });
                }
                AuthenticateDecision::Reject(rejection) => {
                    self.tell(link, hook, Step::Rejected(&rejection), trail);
                    return Ok(AuthenticateVerdict::Reject(rejection));
                }
            }
        }
        Ok(AuthenticateVerdict::Unknown)
    }

    /// Asks what the call may cost. What a policy changes in it is seen by those behind it, and holds only if none of them
    /// rejects or fails.
    ///
    /// # Errors
    /// The fault of the first policy that failed, or whose changes make no call.
    pub fn admit(
        &self,
        exchange: &Arc<Exchange>,
        call: &Call,
        principal: &Principal,
        trail: &mut dyn Trail,
    ) -> Result<AdmitVerdict, Fault> {
        let hook = Hook::Admit;
        let mut charges = Vec::new();
        let mut edited: Option<Box<Edited>> = None;
        for link in self.at(hook) {
            let mut has_edited = false;
            let answer = self.ask(link, hook, |policy| {
                let Admission { decision, draft } = match &edited {
                    Some(edited) => policy.admit(&edited.exchange, &edited.call, principal)?,
                    None => policy.admit(exchange, call, principal)?,
                };
                // What a policy that rejects has changed is nobody's concern.
                if let Some(draft) = draft.filter(|_| !matches!(decision, AdmitDecision::Reject(_))) {
                    let changed = draft.finish(edited.take(), exchange, call);
                    edited = Some(changed.map_err(|error| edits_fault(policy, &error))?);
                    has_edited = true;
                }
                Ok(decision)
            });
            let decision = self.told(link, hook, answer, trail)?;
            if let Some(edited) = edited.as_ref().filter(|_| has_edited) {
                trail.edited(&link.origin, edited);
            }
            match decision {
                AdmitDecision::Abstain => self.tell(link, hook, Step::Abstained, trail),
                AdmitDecision::Admit(more) => {
                    self.tell(link, hook, Step::Admitted(&more), trail);
                    charges.extend(more.into_iter().map(|charge| (Arc::clone(link.policy.name()), charge)));
                }
                AdmitDecision::Reject(rejection) => {
                    self.tell(link, hook, Step::Rejected(&rejection), trail);
                    return Ok(AdmitVerdict::Reject(rejection));
                }
            }
        }
        Ok(AdmitVerdict::Admit { charges, edited })
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
        trail: &mut dyn Trail,
    ) -> Result<RouteVerdict, Fault> {
        let hook = Hook::Route;
        for link in self.at(hook) {
            let answer = self.ask(link, hook, |policy| match policy.route(exchange, call, principal, backends)? {
                RouteDecision::Abstain => Ok(RouteVerdict::Undecided),
                RouteDecision::Reject(rejection) => Ok(RouteVerdict::Reject(rejection)),
                RouteDecision::Pick(id) => offered(policy, vec![id], backends),
                RouteDecision::Ranked(ids) => offered(policy, ids, backends),
            });
            let ranked = match answer {
                Err(fault) if link.guard.as_ref().is_some_and(|guard| guard.abstains_at(hook)) => {
                    self.tell(link, hook, Step::Failed { fault: &fault, is_passed_over: true }, trail);
                    if !self.is_rehearsal {
                        without(exchange, &fault);
                    }
                    continue;
                }
                answer => self.told(link, hook, answer, trail)?,
            };
            let step = match &ranked {
                RouteVerdict::Undecided => Step::Abstained,
                RouteVerdict::Ranked(ids) => Step::Ranked(ids),
                RouteVerdict::Reject(rejection) => Step::Rejected(rejection),
            };
            self.tell(link, hook, step, trail);
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
            .map(|link| self.ask(link, Hook::Settle, |policy| policy.settle(exchange, call, outcome)));
        told.filter_map(Result::err).collect()
    }

    fn at(&self, hook: Hook) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.policy.decides(hook))
    }

    /// The answer; a fault, which ends the chain, is told.
    fn told<T>(&self, link: &Link, hook: Hook, answer: Result<T, Fault>, trail: &mut dyn Trail) -> Result<T, Fault> {
        answer.inspect_err(|fault| self.tell(link, hook, Step::Failed { fault, is_passed_over: false }, trail))
    }

    fn tell(&self, link: &Link, hook: Hook, step: Step<'_>, trail: &mut dyn Trail) {
        if !self.is_rehearsal {
            link.origin.decisions().count(hook, step);
        }
        trail.decided(&link.origin, hook, step);
    }

    fn ask<T>(
        &self,
        link: &Link,
        hook: Hook,
        question: impl FnOnce(&dyn Policy) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let policy = link.policy.as_ref();
        if self.is_rehearsal {
            return match &link.guard {
                Some(guard) => guard.rehearse(hook, || question(policy)),
                None => question(policy),
            };
        }
        let start = self.clock.monotonic();
        let answer = match &link.guard {
            Some(guard) => guard.ask(hook, || question(policy)),
            None => question(policy),
        };
        let took = self.clock.monotonic().saturating_sub(start);
        self.observer.asked(policy.name(), hook, took, answer.as_ref().err().map(|fault| fault.kind));
        answer
    }
}

/// A call goes on without a policy that failed. One that isn't asked was told of when that began.
fn without(exchange: &Exchange, fault: &Fault) {
    if fault.kind != FaultKind::Open {
        tracing::warn!(request_id = exchange.request_id(), %fault, "the call goes on without a policy's opinion");
    }
}

/// The fault of a policy whose edits make no call.
pub fn edits_fault(policy: &dyn Policy, error: &EditError) -> Fault {
    let detail = format!("its edits can't be used: {error}");
    Fault { policy: Arc::clone(policy.name()), hook: Hook::Admit, kind: FaultKind::BadAnswer, detail }
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
