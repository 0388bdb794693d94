//! One call on a connection: from its request to the last byte of its answer, so that the connection knows it is busy.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{pulse::Pulse, streams::Handed};
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
    /// None where the answer has a head only.
    body: Option<ResponseBody>,
    handed: Option<Arc<Handed>>,
    _call: RunningCall,
}

impl CallBody {
    pub(super) fn new(body: Option<ResponseBody>, call: RunningCall) -> Self {
        Self { body, handed: Handed::of_this_call(), _call: call }
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Some(handed) = &this.handed {
            handed.taken();
        }
        let frame = Pin::new(body).poll_frame(context);
        if let (Poll::Ready(Some(Ok(_))), Some(handed)) = (&frame, &this.handed) {
            handed.given();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
