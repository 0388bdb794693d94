//! The body that the gate sends to backends: a request that was read whole, or one that passes through as it comes.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::upload::{Broken, End, Upload};

/// What a backend is sent. Small: hyper keeps room for 32 requests for each connection to a backend.
#[derive(Debug)]
pub enum Outgoing {
    /// What was read and checked.
    Pieces(Box<Pieces>),
    /// What is never held: piece by piece, as the caller sends it.
    Stream(Box<Upload>),
}

impl Outgoing {
    /// The end of a streamed body, for the one who waits for it; none where all of the body is there already, and for
    /// the second who asks.
    pub fn end(&mut self) -> Option<End> {
        match self {
            Self::Pieces(_) => None,
            Self::Stream(upload) => upload.end(),
        }
    }
}

impl From<Pieces> for Outgoing {
    fn from(pieces: Pieces) -> Self {
        Self::Pieces(Box::new(pieces))
    }
}

impl From<Upload> for Outgoing {
    fn from(upload: Upload) -> Self {
        Self::Stream(Box::new(upload))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Pieces(pieces) => Pin::new(&mut **pieces).poll_frame(context).map_err(|never| match never {}),
            Self::Stream(upload) => Pin::new(&mut **upload).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pieces(pieces) => pieces.is_end_stream(),
            Self::Stream(upload) => upload.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pieces(pieces) => pieces.size_hint(),
            Self::Stream(upload) => upload.size_hint(),
        }
    }
}

/// Pieces of a body in which two places were edited.
const MOST_PIECES: usize = 5;

/// A request body in a few pieces of what was read: an edited place costs no copy of the rest.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    pieces: [Bytes; MOST_PIECES],
    next: usize,
}

impl Pieces {
    /// A body of these pieces, one after the other.
    pub fn new(pieces: [Bytes; MOST_PIECES]) -> Self {
        let mut body = Self { pieces, next: 0 };
        body.skip_empty();
        body
    }

    /// A body as it was read.
    pub fn whole(bytes: Bytes) -> Self {
        Self::new([bytes, Bytes::new(), Bytes::new(), Bytes::new(), Bytes::new()])
    }

    fn skip_empty(&mut self) {
        while self.pieces.get(self.next).is_some_and(Bytes::is_empty) {
            self.next += 1;
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let at = self.next;
        let Some(piece) = self.pieces.get_mut(at).map(std::mem::take) else { return Poll::Ready(None) };
        self.next += 1;
        self.skip_empty();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.pieces.len()
    }

    fn size_hint(&self) -> SizeHint {
        let left: usize = self.pieces.iter().skip(self.next).map(Bytes::len).sum();
        SizeHint::with_exact(u64::try_from(left).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(mut body: Pieces) -> Vec<Bytes> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        std::iter::from_fn(|| match Pin::new(&mut body).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn pieces_come_in_order_without_the_empty_ones_and_say_their_size() {
        let piece = Bytes::from_static;
        let body = Pieces::new([piece(b""), piece(b"ab"), piece(b"c"), piece(b""), piece(b"")]);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));
        assert_eq!(frames(body), ["ab", "c"]);
        let body = Pieces::new([piece(b"a"), piece(b""), piece(b"c"), piece(b""), piece(b"e")]);
        assert_eq!(frames(body), ["a", "c", "e"]);
        assert!(Pieces::whole(Bytes::new()).is_end_stream());
    }
}
