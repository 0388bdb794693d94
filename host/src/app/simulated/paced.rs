//! Streams of a simulated server: pieces that come one after the other, at a human pace.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::Frame;
use serde_json::Value;
use tokio::time::{Sleep, sleep};

/// Between two pieces of a stream.
const PACE: Duration = Duration::from_millis(40);

/// A stream of JSON lines.
pub(super) fn ndjson(lines: impl IntoIterator<Item = Value>) -> Response {
    paced("application/x-ndjson", lines.into_iter().map(|line| format!("{line}\n")))
}

/// A stream of server-sent events, as they are to be sent.
pub(super) fn sse(events: impl IntoIterator<Item = String>) -> Response {
    paced("text/event-stream", events)
}

/// A server-sent event that is only data.
pub(super) fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// A server-sent event of the kind that its data names as `type`.
pub(super) fn typed(value: &Value) -> String {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("message");
    format!("event: {kind}\n{}", data(value))
}

fn paced(kind: &'static str, pieces: impl IntoIterator<Item = String>) -> Response {
    let pieces = pieces.into_iter().map(Bytes::from).collect();
    ([(header::CONTENT_TYPE, kind)], Body::new(Paced { pieces, wait: None })).into_response()
}

struct Paced {
    pieces: VecDeque<Bytes>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
        }
        self.wait = Some(Box::pin(sleep(PACE)));
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}
