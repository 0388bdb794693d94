//! What policies change in a call at `admit`: each change is checked as it is asked for, and all of one policy become part of
//! the call together, once it has decided.
//!
//! The call itself stays as it is: a changed call is a new value, which is dropped with all that was changed when a policy
//! rejects or fails. Nothing here is touched while no policy edits.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

use super::{Call, Exchange, Grantee};
use crate::{
    llm::{
        body::{
            BodyError, JsonBody,
            edit::{self, Change},
        },
        model_name::{ModelName, ModelNameError},
        operations::{Class, Pattern, Row},
        pointer,
    },
    wire::{
        bounded::{ReadBody, ReadError},
        headers,
    },
};

/// Edits that one policy may ask for in one call, those included that are refused: some headers, a model and a few dozen
/// values, while each copies the body.
const MAX_EDITS: u32 = 64;

/// Largest JSON text that may be put in, in bytes: as much as a policy may read of a body at a time.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// Headers for a backend, and as many for the caller, that all policies together may set in one call: servers take a hundred
/// lines, and this leaves most of them to others.
const MAX_HEADERS: usize = 16;

/// Longest name and value of such a header, in bytes.
const MAX_HEADER_NAME_BYTES: usize = 64;
const MAX_HEADER_BYTES: usize = 1024;

/// Fields on which it rests how an answer comes: its caller reads it so, and the gate counts it so.
const OF_THE_STREAM: [&str; 2] = ["stream", "stream_options"];

/// Why something was not changed. The policy reads it.
#[derive(Debug, Error)]
pub enum EditError {
    /// Too many in this call.
    #[error("a policy may make {MAX_EDITS} edits in one call")]
    TooMany,
    /// What changes a backend passes as it came.
    #[error("calls that change a backend can't be edited")]
    Management,
    /// The operation names no model.
    #[error("this operation names no model")]
    NoModel,
    /// There is no JSON body.
    #[error("this operation has no JSON body")]
    NoBody,
    /// The field is not a policy's to change.
    #[error("the field `{field}` can't be edited{hint}")]
    Fixed {
        /// Which.
        field: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// The new value is too long.
    #[error("the new value has more than {MAX_VALUE_BYTES} bytes")]
    LongValue,
    /// The body with the new value would be too long.
    #[error("the body may have {cap} bytes, and would have more")]
    LongBody {
        /// The most bytes.
        cap: usize,
    },
    /// The presented credential stands in what is to be put in.
    #[error("what is put into a call may not hold the credential")]
    Credential,
    /// No header's name.
    #[error("this is no header's name, or has more than {MAX_HEADER_NAME_BYTES} bytes")]
    BadHeaderName,
    /// A header that is not a policy's to set.
    #[error("the header `{0}` is not a policy's to set")]
    ForbiddenHeader(HeaderName),
    /// A header that this policy was not granted.
    #[error(
        "the header `{header}` is not granted to this policy: if it is meant to set it, add the name, or how it begins, to \
         `headers` under [grants] in {policy}.toml"
    )]
    NotGranted {
        /// Which.
        header: HeaderName,
        /// The policy's name.
        policy: Box<str>,
    },
    /// No header's value.
    #[error("a header's value has at most {MAX_HEADER_BYTES} bytes of visible ASCII, on one line")]
    BadHeaderValue,
    /// Too many headers in this call.
    #[error("policies may set {MAX_HEADERS} headers each way in one call")]
    TooManyHeaders,
    /// No model's name.
    #[error(transparent)]
    Model(#[from] ModelNameError),
    /// The place or the value is not right.
    #[error(transparent)]
    Place(#[from] edit::EditError),
    /// What comes of all edits is no body.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The gate holds as many bytes as it may.
    #[error(transparent)]
    Room(#[from] ReadError),
}

/// Headers that policies set.
#[derive(Clone, Debug, Default)]
pub struct SetHeaders {
    /// For the backend.
    pub upstream: HeaderMap,
    /// For the caller.
    pub response: HeaderMap,
}

impl SetHeaders {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.upstream.is_empty() && self.response.is_empty()
    }

    /// Each name stands there once, with the value that was set last. What is set was counted with what was set before.
    fn join(&mut self, later: Self) {
        let pairs = [(&mut self.upstream, later.upstream), (&mut self.response, later.response)];
        for (all, later) in pairs {
            for (name, value) in later.into_iter().filter_map(|(name, value)| Some((name?, value))) {
                all.insert(name, value);
            }
        }
    }
}

/// Sets a header, if there is room for it beside those that policies before have set. The policy that finds none is told: it
/// answers for what it does without, and no other is to blame for what they come to together.
fn put(own: &mut HeaderMap, before: Option<&HeaderMap>, name: HeaderName, value: HeaderValue) -> Result<(), EditError> {
    let is_of_before = |name: &HeaderName| before.is_some_and(|before| before.contains_key(name));
    let is_new = !own.contains_key(&name) && !is_of_before(&name);
    let more = own.keys().filter(|name| !is_of_before(name)).count();
    if is_new && before.map_or(0, HeaderMap::len) + more >= MAX_HEADERS {
        return Err(EditError::TooManyHeaders);
    }
    own.insert(name, value);
    Ok(())
}

/// A JSON body, and what was read of it.
#[derive(Debug)]
pub struct CheckedBody {
    /// What was read of it.
    pub json: JsonBody,
    /// Its bytes, with their share of the budget for all bodies.
    pub read: ReadBody,
}

/// What one policy has changed in the call so far.
#[derive(Debug, Default)]
pub struct Draft {
    asked: u32,
    model: Option<ModelName>,
    body: Option<ReadBody>,
    headers: SetHeaders,
}

/// A call that policies changed.
#[derive(Debug)]
pub struct Edited {
    /// As the policies behind see it.
    pub exchange: Arc<Exchange>,
    /// Its facts, derived anew.
    pub call: Call,
    /// Its model, where that may be another than before.
    pub model: Option<ModelName>,
    /// Its body, where that is another than before.
    pub body: Option<CheckedBody>,
    /// Headers for the backend and the caller.
    pub headers: SetHeaders,
}

impl Draft {
    /// Has the call run another model; `exchange` is the call as it was when the policy was asked, here and below.
    ///
    /// # Errors
    /// Why it was not changed.
    pub fn set_model(&mut self, exchange: &Exchange, name: &str) -> Result<(), EditError> {
        self.count()?;
        let row = editable(exchange)?;
        if exchange.holds_credential(name.as_bytes()) {
            return Err(EditError::Credential);
        }
        let model = ModelName::parse(name)?;
        match self.model_field(exchange) {
            Some(field) => {
                let literal = serde_json::Value::from(model.spelling()).to_string();
                let change = edit::set(self.bytes(exchange)?, &format!("/{field}"), &literal)?;
                self.change(exchange, &change)?;
            }
            None if matches!(row.pattern, Pattern::Rest(_)) => {}
            None => return Err(EditError::NoModel),
        }
        self.model = Some(model);
        Ok(())
    }

    /// Puts JSON text into the body.
    ///
    /// # Errors
    /// Why it was not changed.
    pub fn set_json(&mut self, exchange: &Exchange, to: &str, value: &str) -> Result<(), EditError> {
        self.count()?;
        check_place(exchange, to)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(EditError::LongValue);
        }
        if exchange.stands_in_json(value) || exchange.holds_credential(to.as_bytes()) {
            return Err(EditError::Credential);
        }
        let change = edit::set(self.bytes(exchange)?, to, value)?;
        self.change(exchange, &change)
    }

    /// Takes a value out of the body; one that isn't there is out.
    ///
    /// # Errors
    /// Why it was not changed.
    pub fn remove_json(&mut self, exchange: &Exchange, at: &str) -> Result<(), EditError> {
        self.count()?;
        check_place(exchange, at)?;
        match edit::remove(self.bytes(exchange)?, at)? {
            Some(change) => self.change(exchange, &change),
            None => Ok(()),
        }
    }

    /// Sets a header for the backend, if `by` may.
    ///
    /// # Errors
    /// Why it was not set.
    pub fn set_upstream_header(
        &mut self,
        exchange: &Exchange,
        by: Grantee<'_>,
        name: &str,
        value: &str,
    ) -> Result<(), EditError> {
        self.count()?;
        let (name, value) = header(exchange, by, name, value)?;
        put(&mut self.headers.upstream, exchange.set_headers().map(|set| &set.upstream), name, value)
    }

    /// Sets a header for the caller, if `by` may.
    ///
    /// # Errors
    /// Why it was not set.
    pub fn set_response_header(
        &mut self,
        exchange: &Exchange,
        by: Grantee<'_>,
        name: &str,
        value: &str,
    ) -> Result<(), EditError> {
        self.count()?;
        let (name, value) = header(exchange, by, name, value)?;
        put(&mut self.headers.response, exchange.set_headers().map(|set| &set.response), name, value)
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.model.is_none() && self.body.is_none() && self.headers.is_empty()
    }

    /// The call with these changes, behind those of earlier policies. The body is read like one that a caller sent.
    ///
    /// # Errors
    /// What comes of all changes together is no call.
    pub fn finish(
        self,
        before: Option<Box<Edited>>,
        exchange: &Arc<Exchange>,
        call: &Call,
    ) -> Result<Box<Edited>, EditError> {
        let mut edited = before.unwrap_or_else(|| Box::new(Edited::unchanged(exchange, call)));
        if !self.headers.is_empty() {
            edited.headers.join(self.headers);
            edited.exchange = Arc::new(edited.exchange.with_headers_set(edited.headers.clone()));
        }
        if let Some(read) = self.body {
            let row = exchange.row();
            let json = JsonBody::read(&read.bytes, row.model_fields)?;
            edited.model = json.model().map(ModelName::parse).transpose()?;
            let length = u64::try_from(read.bytes.len()).unwrap_or(u64::MAX);
            edited.call = Call::of(row, edited.model.as_ref(), Some(&json), length);
            edited.exchange = Arc::new(edited.exchange.with_body(read.bytes.clone()));
            edited.body = Some(CheckedBody { json, read });
        } else if let Some(model) = self.model {
            edited.call.model = model.canonical().into();
            edited.exchange = Arc::new(edited.exchange.with_model_in_path(model.spelling()));
            edited.model = Some(model);
        }
        Ok(edited)
    }

    fn count(&mut self) -> Result<(), EditError> {
        self.asked = self.asked.saturating_add(1);
        if self.asked > MAX_EDITS { Err(EditError::TooMany) } else { Ok(()) }
    }

    /// The body as it is with the changes so far.
    fn bytes<'a>(&'a self, exchange: &'a Exchange) -> Result<&'a Bytes, EditError> {
        let changed = self.body.as_ref().map(|body| &body.bytes);
        changed.or_else(|| exchange.body()).ok_or(EditError::NoBody)
    }

    fn change(&mut self, exchange: &Exchange, change: &Change) -> Result<(), EditError> {
        let request = exchange.request_body().ok_or(EditError::NoBody)?;
        let body = self.bytes(exchange)?;
        let (length, cap) = (change.length(body), request.cap);
        if length > cap {
            return Err(EditError::LongBody { cap });
        }
        self.body = Some(ReadBody::made(length, &request.buffers, || change.apply(body))?);
        Ok(())
    }

    /// The field in which the body names its model.
    fn model_field(&self, exchange: &Exchange) -> Option<&'static str> {
        let body = self.bytes(exchange).ok()?;
        let names_it = |field: &&&str| {
            let text = pointer::at(body, &format!("/{field}")).ok().flatten();
            text.is_some_and(|text| text != "null" && text != "\"\"")
        };
        exchange.row().model_fields.iter().find(names_it).copied()
    }
}

impl Edited {
    fn unchanged(exchange: &Arc<Exchange>, call: &Call) -> Self {
        let (exchange, call) = (Arc::clone(exchange), call.clone());
        Self { exchange, call, model: None, body: None, headers: SetHeaders::default() }
    }
}

/// The row of a call whose model and body may be changed. What changes a backend passes as it came, because all that it names
/// was checked.
fn editable(exchange: &Exchange) -> Result<&'static Row, EditError> {
    let row = exchange.row();
    if row.class == Class::Management { Err(EditError::Management) } else { Ok(row) }
}

/// Whether the place is a policy's to change.
fn check_place(exchange: &Exchange, at: &str) -> Result<(), EditError> {
    let row = editable(exchange)?;
    let Some(field) = pointer::first(at).map_err(edit::EditError::from)? else { return Ok(()) };
    let hint = if row.model_fields.contains(&&*field) {
        ": set it by `set-model`"
    } else if OF_THE_STREAM.contains(&&*field) {
        ": how the answer comes is the caller's choice"
    } else {
        return Ok(());
    };
    Err(EditError::Fixed { field: field.into_owned(), hint })
}

fn header(
    exchange: &Exchange,
    by: Grantee<'_>,
    name: &str,
    value: &str,
) -> Result<(HeaderName, HeaderValue), EditError> {
    let is_short = name.len() <= MAX_HEADER_NAME_BYTES;
    let known = HeaderName::try_from(name).ok().filter(|_| is_short).ok_or(EditError::BadHeaderName)?;
    if !headers::may_be_set(&known) {
        return Err(EditError::ForbiddenHeader(known));
    }
    if exchange.holds_credential(value.as_bytes()) || exchange.holds_credential(name.as_bytes()) {
        return Err(EditError::Credential);
    }
    if !by.grants.headers.covers(&known) {
        return Err(EditError::NotGranted { header: known, policy: by.policy.into() });
    }
    let is_plain = value.len() <= MAX_HEADER_BYTES && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let value = HeaderValue::from_str(value).ok().filter(|_| is_plain).ok_or(EditError::BadHeaderValue)?;
    Ok((known, value))
}

#[cfg(test)]
mod tests;
