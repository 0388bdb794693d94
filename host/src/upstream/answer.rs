//! The body of a backend's answer. With its last byte the connection is free for the next call; dropped before that, the
//! connection closes, and the backend learns that nobody waits any more.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::Lease;
use crate::clock::Clock;

/// What a backend answers, as it comes.
#[derive(Debug)]
pub struct AnswerBody {
    body: Incoming,
    lease: Option<Lease>,
    clock: Clock,
}

impl AnswerBody {
    pub(super) fn new(body: Incoming, lease: Lease, clock: Clock) -> Self {
        let mut answer = Self { body, lease: Some(lease), clock };
        answer.release_at_end();
        answer
    }

    fn release_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(self.clock.ticked_ms());
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(_))) => self.release_at_end(),
            Poll::Ready(None) => self.release(),
            // What broke is not used again.
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
