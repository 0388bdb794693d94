//! One call on a connection: from its request to the last byte of its answer, so that the connection knows it is busy.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::pulse::Pulse;
use crate::proxy::{RelayError, ResponseBody};

/// A running call; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct RunningCall(Arc<Pulse>);

impl RunningCall {
    pub(super) fn begin(pulse: &Arc<Pulse>) -> Self {
        pulse.call_begins();
        Self(Arc::clone(pulse))
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.call_ends();
    }
}

/// The body of an answer, with the call that it belongs to.
#[derive(Debug)]
pub(super) struct CallBody {
    body: ResponseBody,
    _call: RunningCall,
}

impl CallBody {
    pub(super) fn new(body: ResponseBody, call: RunningCall) -> Self {
        Self { body, _call: call }
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
