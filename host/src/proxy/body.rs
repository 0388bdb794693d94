//! The body of an answer: the gate's own bytes, or a backend's stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::relay::RelayBody;

/// What a caller gets.
#[derive(Debug)]
pub struct ResponseBody(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Full<Bytes>),
    Relayed(Box<RelayBody>),
}

/// A stream ended before its end: the connection to the caller is cut, which is the only honest sign once the head is out.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The backend's connection broke, or what came is no HTTP.
    #[error("the backend's answer broke off")]
    Broken(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("the backend was silent for {} seconds", .0.as_secs())]
    Silent(Duration),
}

impl ResponseBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Full::new(bytes)))
    }

    pub(super) fn relayed(body: RelayBody) -> Self {
        Self(Kind::Relayed(Box::new(body)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match &mut self.0 {
            Kind::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Kind::Relayed(body) => Pin::new(body.as_mut()).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Relayed(body) => body.size_hint(),
        }
    }
}
