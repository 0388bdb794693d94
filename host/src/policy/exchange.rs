//! The call in progress, as policies may ask about it: headers, body, proof of the key, and who calls.
//!
//! One per request, shared by [`Arc`] with the policy that is being asked. It grows as the call goes on: the caller is
//! known after `authenticate`, the body after it was read; once the answer is on its way only a rest is kept. It never holds what a policy may not see, save the credential,
//! which only blanks itself.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::HeaderMap;
use memchr::memmem;

use super::{edits::SetHeaders, facts::Principal};
use crate::{
    llm::{
        Surface,
        operations::{Pattern, Row},
        spelled,
    },
    ports::keys::{Attributes, KeyRecord, Proof, Scope},
    wire::bounded::BufferBudget,
};

/// Shortest credential that is blanked, in bytes.
const SHORTEST_SECRET: usize = 8;

/// Who calls, with what the store says of them.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As policies see them.
    pub principal: Principal,
    /// The proven key; none when another policy vouched for the caller.
    pub key: Option<Arc<KeyRecord>>,
    /// What the policy that let them in says of them.
    pub attributes: Attributes,
}

impl Caller {
    /// Whether they may change what backends have. Nobody whom a policy alone vouches for may.
    pub fn may_manage(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.may_manage)
    }

    /// The values of this name: the key's or its user's; where neither has any, those that a policy gave for this call.
    pub fn attribute(&self, name: &str) -> &[Box<str>] {
        let stored = self.key.as_ref().map_or(&[][..], |key| key.attribute(name));
        if !stored.is_empty() {
            return stored;
        }
        let given = self.attributes.iter().find(|(known, _)| **known == *name);
        given.map_or(&[][..], |(_, values)| values)
    }

    /// Which models they may use.
    pub fn scope(&self) -> &Scope {
        self.key.as_ref().map_or(&Scope::AllModels, |key| &key.scope)
    }
}

/// What an [`Exchange`] starts with.
pub struct ExchangeHead {
    /// The id that stands in `x-request-id`.
    pub request_id: Box<str>,
    /// What is asked for.
    pub row: &'static Row,
    /// Where the call's random numbers start.
    pub seed: u64,
    /// The caller's address.
    pub peer: IpAddr,
    /// Canonical path of the operation.
    pub path: Box<str>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The presented credential: kept only to blank it out of what policies write.
    pub credential: Option<Box<str>>,
    /// What became of checking it.
    pub proof: Proof,
}

impl Debug for ExchangeHead {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("ExchangeHead").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

/// A JSON body that was read and checked, and what bounds a change of it.
#[derive(Clone, Debug)]
pub struct RequestBody {
    /// All of it.
    pub bytes: Bytes,
    /// Most bytes that it may have.
    pub cap: usize,
    /// What a changed copy is counted in.
    pub buffers: BufferBudget,
}

/// The call in progress.
#[derive(Clone)]
pub struct Exchange {
    request_id: Box<str>,
    row: &'static Row,
    seed: u64,
    peer: IpAddr,
    path: Box<str>,
    headers: HeaderMap,
    credential: Option<Box<str>>,
    proof: Proof,
    caller: OnceLock<Caller>,
    body: OnceLock<RequestBody>,
    set_headers: Option<Arc<SetHeaders>>,
}

impl Exchange {
    /// A call whose head was received and whose key was looked up.
    pub fn new(head: ExchangeHead) -> Self {
        let ExchangeHead { request_id, row, seed, peer, path, headers, credential, proof } = head;
        let (caller, body) = (OnceLock::new(), OnceLock::new());
        let (peer, set_headers) = (peer.to_canonical(), None);
        Self { request_id, row, seed, peer, path, headers, credential, proof, caller, body, set_headers }
    }

    /// What is asked for.
    pub fn row(&self) -> &'static Row {
        self.row
    }

    /// The caller's dialect.
    pub fn surface(&self) -> Surface {
        self.row.surface
    }

    /// Where the call's random numbers start. The gate draws it: a caller can't steer them by the request id.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The id that stands in `x-request-id`.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The caller's address; IPv4-mapped ones as IPv4.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Canonical path of the operation.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The request's headers, credentials included: who hands them to a policy masks them.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether the presented key is proven.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Who calls; none before `authenticate` has decided.
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.get()
    }

    /// Notes who calls. The first note stays.
    pub fn note_caller(&self, caller: Caller) -> &Caller {
        self.caller.get_or_init(|| caller)
    }

    /// The JSON body; none before it was read, or when the operation has none.
    pub fn body(&self) -> Option<&Bytes> {
        self.body.get().map(|body| &body.bytes)
    }

    /// The same, with what bounds a change of it.
    pub fn request_body(&self) -> Option<&RequestBody> {
        self.body.get()
    }

    /// The call with another body, as the policies behind an edit see it.
    #[must_use]
    pub fn with_body(&self, bytes: Bytes) -> Self {
        let body = self.request_body().map(|body| RequestBody { bytes, ..body.clone() });
        Self { body: body.map_or_else(OnceLock::new, OnceLock::from), ..self.clone() }
    }

    /// The call with another model in its path, where the path names one.
    #[must_use]
    pub fn with_model_in_path(&self, model: &str) -> Self {
        let path = match self.row.pattern {
            Pattern::Rest(prefix) => format!("{prefix}{model}").into(),
            Pattern::Exact(_) | Pattern::Segment(_) | Pattern::Digest(_) => self.path.clone(),
        };
        Self { path, ..self.clone() }
    }

    /// Headers that policies have set; none where none did.
    pub fn set_headers(&self) -> Option<&SetHeaders> {
        self.set_headers.as_deref()
    }

    /// The call for which policies have set these headers, all of them.
    #[must_use]
    pub fn with_headers_set(&self, headers: SetHeaders) -> Self {
        Self { set_headers: Some(Arc::new(headers)), ..self.clone() }
    }

    /// What is kept of the call until it is over, for policies that look at its outcome: who called, and the seed. The request
    /// is let go: its body and headers would stand in memory as long as the answer, and the credential must not.
    #[must_use]
    pub fn after(&self) -> Self {
        let after = Self::new(ExchangeHead {
            request_id: self.request_id.clone(),
            row: self.row,
            seed: self.seed,
            peer: self.peer,
            path: Box::default(),
            headers: HeaderMap::new(),
            credential: None,
            proof: Proof::NotAKey,
        });
        if let Some(caller) = self.caller() {
            after.note_caller(caller.clone());
        }
        after
    }

    /// Notes the body. The first note stays.
    pub fn note_body(&self, body: RequestBody) {
        self.body.get_or_init(|| body);
    }

    /// The text with the presented credential replaced by `[credential]`. One that is shorter than any key is no secret:
    /// blanking it would let callers rewrite what policies say.
    pub fn blanked(&self, text: String) -> String {
        match self.secret() {
            Some(secret) if text.contains(secret) => text.replace(secret, "[credential]"),
            _ => text,
        }
    }

    /// As [`Self::blanked`], for JSON text: however the credential is spelled there.
    pub fn blanked_json(&self, json: &str) -> String {
        let places = self.secret().map_or_else(Vec::new, |secret| spelled::places(json.as_bytes(), secret.as_bytes()));
        let (mut text, mut at) = (String::with_capacity(json.len()), 0);
        for place in places {
            text.push_str(json.get(at..place.start).unwrap_or_default());
            text.push_str("[credential]");
            at = place.end;
        }
        text.push_str(json.get(at..).unwrap_or_default());
        text
    }

    /// Whether the credential, however it is spelled, begins within the first `bytes` of this JSON text.
    pub fn begins_within(&self, json: &[u8], bytes: usize) -> bool {
        self.secret().is_some_and(|secret| {
            let window = bytes.saturating_add(secret.len().saturating_mul(spelled::LONGEST_SPELLING));
            let json = json.get(..window).unwrap_or(json);
            spelled::places(json, secret.as_bytes()).first().is_some_and(|place| place.start < bytes)
        })
    }

    /// The credential as it was presented: only for a policy that was granted it.
    pub fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }

    /// Whether the presented credential, however it is spelled, stands in this JSON text.
    pub fn stands_in_json(&self, json: &str) -> bool {
        self.begins_within(json.as_bytes(), json.len())
    }

    /// Whether the presented credential stands in these bytes.
    pub fn holds_credential(&self, bytes: &[u8]) -> bool {
        let fits = |secret: &&str| secret.len() <= bytes.len();
        self.secret().filter(fits).is_some_and(|secret| memmem::find(bytes, secret.as_bytes()).is_some())
    }

    fn secret(&self) -> Option<&str> {
        self.credential.as_deref().filter(|credential| credential.len() >= SHORTEST_SECRET)
    }
}

impl Debug for Exchange {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("Exchange").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}
