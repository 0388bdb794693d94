//! read: the body, whole and within bounds; what the call is about.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http_body::Body;
use tokio::task::spawn_blocking;

use super::{Parts, RequestBounds, aside, authenticate::Authenticated, manage::Managed, refusal::Refusal};
use crate::{
    llm::{
        body::JsonBody,
        model_name::ModelName,
        operations::{BodyMode, Class, Pattern, Row},
    },
    policy::{Call, Caller, CheckedBody, Edited, Exchange, RequestBody, SetHeaders},
    wire::bounded::{self, Bounds},
};

/// A call whose body was read and checked. Boxed on its way from stage to stage: it is large.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) row: &'static Row,
    pub(super) exchange: Arc<Exchange>,
    pub(super) caller: Caller,
    pub(super) call: Call,
    /// How many answers it asks for.
    pub(super) answers: u32,
    /// Whether its input is nothing but text.
    pub(super) is_text: bool,
    pub(super) model: Option<ModelName>,
    pub(super) body: Option<CheckedBody>,
    /// What it changes on a backend; none where it changes nothing.
    pub(super) managed: Option<Managed>,
    /// What policies set, once it is admitted.
    pub(super) headers: SetHeaders,
}

impl Read {
    /// Bytes of the body that policies may read and change.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.read.bytes.len())
    }

    /// Becomes the call that policies made of it.
    pub(super) fn becomes(&mut self, edited: Edited) {
        let Edited { exchange, call, model, body, headers } = edited;
        (self.exchange, self.call, self.headers) = (exchange, call, headers);
        if let Some(model) = model {
            self.model = Some(model);
        }
        if let Some(body) = body {
            (self.answers, self.is_text) = (body.json.answers(), body.json.is_text());
            self.body = Some(body);
        }
    }
}

/// Reads and checks. The caller's leaving is noticed only once the body is read, so it is read before anything waits.
pub(super) async fn read(parts: &Parts, authenticated: Authenticated) -> Result<Box<Read>, Refusal> {
    let Authenticated { row, parameter, exchange, caller, body } = authenticated;
    if exchange.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::encoded_body());
    }
    let declared = body.size_hint().exact();
    let (body, rest) = match row.body {
        BodyMode::None => (None, None),
        BodyMode::Stream => (None, Some(body)),
        BodyMode::Json => {
            let RequestBounds { max_body, body_idle: idle, body_whole: whole, .. } = parts.bounds;
            let cap = row.cap.bytes(max_body);
            let bounds = Bounds { cap, idle, whole };
            let read = bounded::read(body, bounds, &parts.buffers).await?;
            let json = parse(read.bytes.clone(), row.model_fields).await?;
            exchange.note_body(RequestBody { bytes: read.bytes.clone(), cap, buffers: parts.buffers.clone() });
            (Some(CheckedBody { json, read }), None)
        }
    };
    let in_path = parameter.as_deref().filter(|_| matches!(row.pattern, Pattern::Rest(_)));
    let named = body.as_ref().and_then(|body| body.json.model()).or(in_path);
    if named.is_some_and(|text| exchange.holds_credential(text.as_bytes())) {
        return Err(Refusal::credential_as_model());
    }
    let model = match named {
        Some(text) => Some(ModelName::parse(text)?),
        None if row.model_fields.is_empty() => None,
        None => return Err(Refusal::no_model(row.model_fields)),
    };
    let managed = match row.class {
        Class::Management => {
            Some(Managed::read(row, parameter.as_deref(), body.as_ref(), rest, parts.bounds.allow_cloud)?)
        }
        Class::Inference | Class::Listing | Class::Show | Class::Local | Class::Denied => None,
    };
    let json = body.as_ref().map(|body| &body.json);
    let bytes = body.as_ref().map_or(0, |body| body.read.bytes.len());
    let passing = if row.body == BodyMode::Stream { declared.unwrap_or(0) } else { 0 };
    let bytes = u64::try_from(bytes).map_or(u64::MAX, |bytes| bytes.max(passing));
    let call = Call::of(row, model.as_ref(), json, bytes);
    let (answers, is_text) = (json.map_or(1, JsonBody::answers), json.is_none_or(JsonBody::is_text));
    let headers = SetHeaders::default();
    Ok(Box::new(Read { row, exchange, caller, call, answers, is_text, model, body, managed, headers }))
}

/// Checks a body: a small one here, a large one where it holds up no other call.
async fn parse(bytes: Bytes, model_fields: &'static [&'static str]) -> Result<JsonBody, Refusal> {
    if aside::is_short(bytes.len()) {
        return Ok(JsonBody::read(&bytes, model_fields)?);
    }
    match spawn_blocking(move || JsonBody::read(&bytes, model_fields)).await {
        Ok(read) => Ok(read?),
        Err(_) => Err(Refusal::nowhere_to_go()),
    }
}
