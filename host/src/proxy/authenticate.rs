//! authenticate: who calls? The host proves the key; policies decide whether a proven key may pass.

use std::{net::IpAddr, sync::Arc};

use http_body::Body;

use super::{
    Parts, caller_body::CallerBody, credential, credential::Credential, receive::Received, refusal::Refusal,
    request_id::RequestId, settle::Settlement,
};
use crate::{
    llm::operations::{Class, Pattern, Row},
    policy::{AuthenticateVerdict, Caller, Chains, Exchange, ExchangeHead, Head, Presented, Principal, Scheme},
    ports::keys::{Attributes, KeyRecord, Proof},
};

/// A request whose caller is known, and may ask for what the row names.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) row: &'static Row,
    pub(super) parameter: Option<Box<str>>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) caller: Caller,
    pub(super) body: CallerBody,
}

/// From where a request comes.
#[derive(Debug)]
pub(super) struct Coming<'a> {
    pub(super) peer: IpAddr,
    pub(super) request_id: &'a RequestId,
    /// Whose call it is taken for, without a proof: only where an operator tries a call. It then presents nothing else.
    pub(super) taken_for: Option<&'a Arc<KeyRecord>>,
}

/// Asks the chain. Nobody's opinion is a refusal.
pub(super) fn authenticate(
    parts: &Parts,
    chains: &Chains,
    coming: &Coming<'_>,
    received: Received,
    settlement: &mut Settlement,
) -> Result<Authenticated, Refusal> {
    let Received { row, parameter, request } = received;
    let (head, body) = request.into_parts();
    let found = credential::find(&head.headers)?;
    let Identified { proof, credential, presented } = match coming.taken_for {
        Some(key) => Identified::taken_for(key),
        None => Identified::by(found, parts),
    };
    settlement.is_identified(&proof, coming.taken_for.is_some());
    let exchange = Arc::new(Exchange::new(ExchangeHead {
        request_id: coming.request_id.as_str().into(),
        row,
        seed: coming.request_id.seed(),
        peer: coming.peer,
        path: canonical_path(row, parameter.as_deref()),
        headers: head.headers,
        credential,
        proof,
    }));
    let facts = Head { surface: row.surface, operation: row.operation, body_bytes: body.size_hint().exact() };
    let caller = match chains.authenticate(&exchange, &facts, presented.as_ref(), settlement)? {
        AuthenticateVerdict::Allow { subject, policy, attributes } => {
            Caller { attributes, ..caller(&exchange, subject, &policy) }
        }
        AuthenticateVerdict::Reject(rejection) => return Err(rejection.into()),
        AuthenticateVerdict::Unknown => return Err(Refusal::unknown_caller(presented.is_some())),
    };
    settlement.is_from(&caller);
    let caller = exchange.note_caller(caller).clone();
    match row.class {
        Class::Denied => Err(Refusal::denied_operation()),
        Class::Management if !caller.may_manage() => Err(Refusal::needs_management()),
        Class::Inference | Class::Listing | Class::Show | Class::Local | Class::Management => {
            Ok(Authenticated { row, parameter, exchange, caller, body })
        }
    }
}

/// What a request presents, and what became of checking it.
struct Identified {
    proof: Proof,
    credential: Option<Box<str>>,
    presented: Option<Presented>,
}

impl Identified {
    fn by(found: Option<Credential<'_>>, parts: &Parts) -> Self {
        let proof = found.as_ref().and_then(Credential::key).map_or(Proof::NotAKey, |key| parts.keys.prove(key));
        let (credential, presented) =
            found.map_or((None, None), |found| (Some(Box::from(found.text)), Some(found.presented)));
        Self { proof, credential, presented }
    }

    /// As if the key's secret had been presented.
    fn taken_for(key: &Arc<KeyRecord>) -> Self {
        let presented = Presented { scheme: Scheme::Bearer, key_id: Some(key.id.clone()) };
        Self { proof: Proof::Proven(Arc::clone(key)), credential: None, presented: Some(presented) }
    }
}

/// The path as the table has it: policies compare paths, and one model must not have two.
fn canonical_path(row: &Row, parameter: Option<&str>) -> Box<str> {
    match row.pattern {
        Pattern::Exact(path) => path.into(),
        Pattern::Segment(prefix) | Pattern::Digest(prefix) | Pattern::Rest(prefix) => {
            format!("{prefix}{}", parameter.unwrap_or_default()).into()
        }
    }
}

/// A subject that is the proven key's id brings the key; any other is the policy's own, and has nothing stored.
fn caller(exchange: &Exchange, subject: String, policy: &str) -> Caller {
    match exchange.proof() {
        Proof::Proven(key) if *key.id == *subject => Caller {
            principal: Principal { subject: subject.into(), user: key.user_name().map(Into::into) },
            key: Some(Arc::clone(key)),
            attributes: Attributes::default(),
        },
        Proof::Proven(_) | Proof::NotAKey | Proof::Unproven | Proof::Stale => {
            let subject = format!("{policy}/{subject}").into_boxed_str();
            let principal = Principal { subject, user: None };
            Caller { principal, key: None, attributes: Attributes::default() }
        }
    }
}
