//! read: the body, whole and within bounds; what the call is about.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http_body::Body;
use tokio::task::spawn_blocking;

use super::{Parts, RequestBounds, authenticate::Authenticated, manage::Managed, refusal::Refusal};
use crate::{
    llm::{
        body::JsonBody,
        model_name::ModelName,
        operations::{BodyMode, Class, Pattern, Row},
    },
    policy::{Call, Caller, Exchange},
    wire::bounded::{self, Bounds, ReadBody},
};

/// Largest body that is checked on the worker, in bytes: half a millisecond of work.
const PARSED_ON_WORKER: usize = 256 << 10;

/// A call whose body was read and checked.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) row: &'static Row,
    pub(super) exchange: Arc<Exchange>,
    pub(super) caller: Caller,
    pub(super) call: Call,
    /// How many answers it asks for.
    pub(super) answers: u32,
    pub(super) model: Option<ModelName>,
    pub(super) body: Option<CheckedBody>,
    /// What it changes on a backend; none where it changes nothing.
    pub(super) managed: Option<Managed>,
}

/// A JSON body, and where its model stands.
#[derive(Debug)]
pub(super) struct CheckedBody {
    pub(super) json: JsonBody,
    pub(super) read: ReadBody,
}

/// Reads and checks. The caller's leaving is noticed only once the body is read, so it is read before anything waits.
pub(super) async fn read(parts: &Parts, authenticated: Authenticated) -> Result<Read, Refusal> {
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
            let bounds = Bounds { cap: row.cap.bytes(max_body), idle, whole };
            let read = bounded::read(body, bounds, &parts.buffers).await?;
            let json = parse(read.bytes.clone(), row.model_fields).await?;
            exchange.note_body(read.bytes.clone());
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
    if model.as_ref().is_some_and(ModelName::is_cloud) && !parts.bounds.allow_cloud {
        return Err(Refusal::cloud_model());
    }
    let managed = match row.class {
        Class::Management => {
            Some(Managed::read(row, parameter.as_deref(), body.as_ref(), rest, parts.bounds.allow_cloud)?)
        }
        Class::Inference | Class::Listing | Class::Show | Class::Local | Class::Denied => None,
    };
    let json = body.as_ref().map(|body| &body.json);
    let bytes = body.as_ref().map_or(0, |body| body.read.bytes.len());
    let passing = if row.body == BodyMode::Stream { declared.unwrap_or(0) } else { 0 };
    let call = Call {
        surface: row.surface,
        operation: row.operation,
        model: model.as_ref().map_or("", |model| model.canonical()).into(),
        body_bytes: u64::try_from(bytes).map_or(u64::MAX, |bytes| bytes.max(passing)),
        input_tokens: if row.charged { json.map_or(0, JsonBody::input_tokens) } else { 0 },
        output_cap: json.and_then(|json| json.output_cap(row.surface, row.operation)),
        streaming: json.map_or(row.stream_default, |json| json.stream().unwrap_or(row.stream_default)),
    };
    let answers = json.map_or(1, JsonBody::answers);
    Ok(Read { row, exchange, caller, call, answers, model, body, managed })
}

/// Checks a body: a small one here, a large one where it holds up no other call.
async fn parse(bytes: Bytes, model_fields: &'static [&'static str]) -> Result<JsonBody, Refusal> {
    if bytes.len() <= PARSED_ON_WORKER {
        return Ok(JsonBody::read(&bytes, model_fields)?);
    }
    match spawn_blocking(move || JsonBody::read(&bytes, model_fields)).await {
        Ok(read) => Ok(read?),
        Err(_) => Err(Refusal::nowhere_to_go()),
    }
}
