//! The body of an answer: whole, or line by line at a given pace.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::line;

/// What is sent.
pub(crate) enum AnswerBody {
    /// All at once; none when it was sent.
    Whole(Option<Bytes>),
    /// Line by line.
    Paced(Box<Paced>),
}

/// Lines that come one after the other, the first at once.
pub(crate) struct Paced {
    left: u32,
    every: Duration,
    /// When the next line is due; a late one doesn't put off those after it.
    next: Option<(Instant, Pin<Box<Sleep>>)>,
    stays_open: bool,
}

impl AnswerBody {
    pub(crate) fn paced(lines: u32, every: Duration) -> Self {
        Self::Paced(Box::new(Paced { left: lines, every, next: None, stays_open: false }))
    }

    pub(crate) fn held() -> Self {
        Self::Paced(Box::new(Paced { left: 1, every: Duration::ZERO, next: None, stays_open: true }))
    }
}

impl Paced {
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == 0 {
            // Nobody wakes this again: the stream ends when the caller leaves.
            return if self.stays_open { Poll::Pending } else { Poll::Ready(None) };
        }
        if !self.every.is_zero() {
            if let Some((due, wait)) = &mut self.next {
                ready!(wait.as_mut().poll(context));
                *due += self.every;
                wait.as_mut().reset(*due);
            } else {
                let due = Instant::from_std(crate::clock::now()) + self.every;
                self.next = Some((due, Box::pin(sleep_until(due))));
            }
        }
        self.left -= 1;
        Poll::Ready(Some(line(self.left == 0 && !self.stays_open)))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Paced(paced) => ready!(paced.poll_line(context)),
        };
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len).try_into().unwrap_or(u64::MAX))
            }
            Self::Paced(_) => SizeHint::default(),
        }
    }
}
