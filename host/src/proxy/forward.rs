//! forward: the call goes to the first backend that a connection can be made to.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use super::{Parts, manage::Refresh, read::Read, refusal::Refusal, route::Routed, settle::Settlement};
use crate::{
    llm::{
        Operation, Surface,
        body::Edits,
        operations::{BodyMode, Row, Source},
    },
    policy::{CheckedBody, Exchange, SetHeaders},
    upstream::{
        answer::AnswerBody,
        backend::{Backend, Busy},
        client::SendError,
        fleet::Candidate,
    },
    usage::bound::Bound,
    wire::{
        body::Pieces,
        causes::causes,
        headers::{self, REQUEST_ID},
    },
};

/// A backend has begun to answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) response: Response<AnswerBody>,
    pub(super) busy: Busy,
    pub(super) sent_at: Duration,
    /// The longest silence that is waited for, and the bound that says so.
    pub(super) idle: (Duration, Bound),
    /// What is left to do when the answer is over.
    pub(super) refresh: Option<Refresh>,
    /// Whether a stream tells its usage to the gate alone.
    pub(super) hides_usage: bool,
}

/// Tries the backends in order. Only where no connection came about is the next one tried: a call that may have reached a
/// backend is never made twice.
///
/// # Cancel safety
/// When the caller leaves, the connection to the backend closes.
pub(super) async fn forward(parts: &Parts, routed: Routed, settlement: &mut Settlement) -> Result<Answered, Refusal> {
    let Routed { read, order } = routed;
    let Read { row, exchange, body, headers: set, .. } = &*read;
    // What no backend answers is answered before it gets here; nothing else says where a call may go.
    let Source::Backend(upstream) = row.answer else { return Err(Refusal::nowhere_to_go()) };
    let asks_for_usage = asks_for_usage(row, body.as_ref());
    let mut last = None;
    for candidate in order {
        // An attempt takes its time: this one may have been drained, or taken away, meanwhile.
        if last.is_some() && candidate.backend.is_drained() {
            continue;
        }
        let busy = Busy::new(candidate.backend.clone(), candidate.model.clone());
        // Made for each attempt, of which there is mostly one.
        let headers = request_headers(exchange, row, set);
        let pieces = pieces(body.as_ref(), &candidate, asks_for_usage);
        settlement.goes_to(&candidate.backend);
        let sent_at = parts.clock.monotonic();
        let target = (upstream.method, upstream.path);
        let sending = parts.upstream.send(&candidate.backend, target, headers, pieces.into(), settlement.departure());
        let sent = sending.await;
        match sent {
            Ok(response) => {
                let idle = (parts.bounds.upstream_idle, Bound::UpstreamIdle);
                return Ok(Answered { response, busy, sent_at, idle, refresh: None, hides_usage: asks_for_usage });
            }
            Err(error @ SendError::Connect(_)) => {
                note_unreachable(parts, &candidate.backend, &error);
                last = Some(error);
            }
            // The caller's doing: the backend is not to blame.
            Err(SendError::Body(error)) => return Err(error.into()),
            Err(error) => {
                if matches!(error, SendError::FirstByte(_)) {
                    settlement.is_given_up();
                }
                candidate.backend.note_end(true, parts.clock.monotonic_ms());
                return Err(from_backend(&error));
            }
        }
    }
    Err(last.as_ref().map_or_else(Refusal::nowhere_to_go, from_backend))
}

fn from_backend(error: &SendError) -> Refusal {
    Refusal::from_backend(error, Bound::UpstreamFirstByte)
}

/// No connection came about. When this machine has no more sockets the backend is not to blame.
pub(super) fn note_unreachable(parts: &Parts, backend: &Backend, error: &SendError) {
    if error.is_late_connect() {
        parts.metrics.edges().reached(Bound::UpstreamConnect);
    }
    if error.is_ours() {
        return;
    }
    backend.note_end(true, parts.clock.monotonic_ms());
    if backend.note_up(false) {
        let error = causes(error);
        tracing::warn!(backend = &**backend.name(), error, "no connection to the backend");
    }
}

/// Whether the gate asks in the caller's place what a stream took: OpenAI's streams say it only to those who ask. A server
/// that doesn't know the question passes over it.
fn asks_for_usage(row: &Row, body: Option<&CheckedBody>) -> bool {
    row.surface == Surface::OpenAi
        && matches!(row.operation, Operation::Chat | Operation::Complete)
        && body.is_some_and(|body| body.json.stream() == Some(true) && body.json.may_ask_for_usage())
}

/// The body as it was read, save the model's name, which is the backend's own spelling, and a question for the usage.
fn pieces(body: Option<&CheckedBody>, candidate: &Candidate, asks_for_usage: bool) -> Pieces {
    let Some(body) = body else { return Pieces::default() };
    let spelling = candidate.model.entry.name.as_str();
    let model = Some(spelling).filter(|spelling| body.json.model() != Some(spelling));
    if model.is_none() && !asks_for_usage {
        return Pieces::whole(body.read.bytes.clone());
    }
    Pieces::new(body.json.edited(&body.read.bytes, Edits { model, asks_for_usage }))
}

/// What a backend is told beside the body: what may pass of the caller's headers, the gate's own, and what policies `set`.
pub(super) fn request_headers(exchange: &Exchange, row: &Row, set: &SetHeaders) -> HeaderMap {
    let mut headers = match row.surface {
        Surface::Anthropic => headers::anthropic_to_backend(exchange.headers()),
        Surface::Ollama | Surface::OpenAi | Surface::Other => headers::to_backend(exchange.headers()),
    };
    // A caller who says its key a second time, where it doesn't belong, says it to the gate alone.
    while let Some(name) = repeating_credential(&headers, exchange) {
        headers.remove(name);
    }
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
    let kind = match row.body {
        BodyMode::None => None,
        BodyMode::Json => Some("application/json"),
        BodyMode::Stream => Some("application/octet-stream"),
    };
    if let Some(kind) = kind {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Ok(id) = HeaderValue::from_str(exchange.request_id()) {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in &set.upstream {
        headers.insert(name, value.clone());
    }
    headers
}

fn repeating_credential(headers: &HeaderMap, exchange: &Exchange) -> Option<HeaderName> {
    let mut repeating = headers.iter().filter(|(_, value)| exchange.holds_credential(value.as_bytes()));
    repeating.next().map(|(name, _)| name.clone())
}
