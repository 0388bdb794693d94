//! A body that passes through the gate as it comes: never held, however long it is.
//!
//! It guards itself against a caller who sends nothing, too little or too much. A backend that takes nothing is not seen
//! here, for nobody asks this body for more then: the socket's own deadline ends that.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    num::NonZeroU64,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::oneshot,
    time::{Sleep, sleep},
};

use super::bounded::ReadError;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bounds of one upload.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes.
    pub cap: usize,
    /// Longest silence between two pieces.
    pub idle: Duration,
    /// Fewest bytes a second, beyond one such silence. Only what the gate waits for the caller counts.
    pub rate: NonZeroU64,
}

impl Bounds {
    /// How long the caller may take for so many bytes.
    fn time_for(&self, bytes: usize) -> Duration {
        let nanos =
            u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000) / u128::from(self.rate.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What the other side of a broken body is told; the reason goes to the one who waits for the [`End`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub struct Broken;

/// How an upload ended.
#[derive(Debug)]
pub struct End(oneshot::Receiver<ReadError>);

impl End {
    /// Waits until all of the body has been handed on, or until nobody takes more of it.
    ///
    /// # Errors
    /// Why it broke off: that is the caller's doing.
    ///
    /// # Cancel safety
    /// Dropped, nobody is told any more; the body goes on.
    pub async fn come(self) -> Result<(), ReadError> {
        // Without a word the sender is gone with the body: it was handed on, or its connection was given up.
        self.0.await.map_or(Ok(()), Err)
    }
}

/// A request's body on its way to a backend.
pub struct Upload {
    body: Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>,
    bounds: Bounds,
    passed: usize,
    /// How long the caller may be waited for from now on: waiting takes from it, bytes add to it.
    patience: Duration,
    silence: Pin<Box<Sleep>>,
    is_silent: bool,
    broke: Option<oneshot::Sender<ReadError>>,
    end: Option<End>,
}

impl Upload {
    /// Passes `body` on within these bounds.
    ///
    /// # Errors
    /// When it says already that it is larger than its cap.
    pub fn new<B>(body: B, bounds: Bounds) -> Result<Self, ReadError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if declared > bounds.cap {
            return Err(ReadError::TooLarge { cap: bounds.cap });
        }
        let (broke, end) = oneshot::channel();
        Ok(Self {
            body: Box::pin(http_body_util::BodyExt::map_err(body, Into::into)),
            bounds,
            passed: 0,
            patience: bounds.idle,
            silence: Box::pin(sleep(bounds.idle)),
            is_silent: false,
            broke: Some(broke),
            end: Some(End(end)),
        })
    }

    pub(super) fn end(&mut self) -> Option<End> {
        self.end.take()
    }

    fn breaks(&mut self, why: ReadError) -> Broken {
        if let Some(broke) = self.broke.take() {
            // Who doesn't wait for the end doesn't want to know.
            drop(broke.send(why));
        }
        Broken
    }

    /// The next piece; pending while the caller is silent, but not for longer than it may be.
    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        loop {
            let Poll::Ready(frame) = self.body.as_mut().poll_frame(context) else { return self.wait(context) };
            self.note_wait();
            let frame = match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(ReadError::Broken(error)))),
                Some(Ok(frame)) => frame,
            };
            // Trailers are headers, and none of those pass.
            let Ok(piece) = frame.into_data() else { continue };
            self.passed = self.passed.saturating_add(piece.len());
            self.patience = self.patience.saturating_add(self.bounds.time_for(piece.len())).min(self.bounds.idle);
            if self.passed > self.bounds.cap {
                return Poll::Ready(Some(Err(ReadError::TooLarge { cap: self.bounds.cap })));
            }
            return Poll::Ready(Some(Ok(piece)));
        }
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ReadError>>> {
        if !std::mem::replace(&mut self.is_silent, true) {
            self.silence.set(sleep(self.patience));
        }
        ready!(self.silence.as_mut().poll(context));
        let Bounds { idle, rate, .. } = self.bounds;
        let why = if self.patience < idle { ReadError::Slow { least: rate.get() } } else { ReadError::Idle(idle) };
        Poll::Ready(Some(Err(why)))
    }

    /// Takes from the patience what this silence has lasted, if there was one.
    fn note_wait(&mut self) {
        if std::mem::take(&mut self.is_silent) {
            let began = self.silence.deadline().checked_sub(self.patience);
            let lasted = began.map_or(Duration::ZERO, |began| began.elapsed());
            self.patience = self.patience.saturating_sub(lasted);
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.broke.is_none() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.next(context)) {
            None => {
                self.broke = None;
                None
            }
            Some(Ok(piece)) => Some(Ok(Frame::data(piece))),
            Some(Err(why)) => Some(Err(self.breaks(why))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.broke.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Debug for Upload {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        let Self { bounds, passed, .. } = self;
        formatter.debug_struct("Upload").field("bounds", bounds).field("passed", passed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    const IDLE: Duration = Duration::from_millis(50);

    fn bounds(cap: usize) -> Bounds {
        Bounds { cap, idle: IDLE, rate: NonZeroU64::new(1024).unwrap() }
    }

    fn upload(sizes: &[usize], cap: usize, ends: bool) -> Upload {
        let frames: Vec<_> = sizes.iter().map(|&size| Ok(Frame::data(Bytes::from(vec![b'x'; size])))).collect();
        let frames = stream::iter(frames);
        let body: Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send>> =
            if ends { Box::pin(frames) } else { Box::pin(frames.chain(stream::pending())) };
        Upload::new(StreamBody::new(body), bounds(cap)).unwrap()
    }

    async fn passed(upload: &mut Upload) -> (usize, bool) {
        let mut passed = 0;
        while let Some(frame) = upload.frame().await {
            let Ok(frame) = frame else { return (passed, false) };
            passed += frame.into_data().unwrap().len();
        }
        (passed, true)
    }

    #[tokio::test]
    async fn a_whole_body_passes_piece_by_piece_and_then_its_end_comes() {
        let mut upload = upload(&[10, 20, 30], 60, true);
        let end = upload.end().unwrap();
        assert_eq!(passed(&mut upload).await, (60, true));
        assert!(end.come().await.is_ok());
        assert!(upload.end().is_none(), "one waits for it");
    }

    #[tokio::test]
    async fn the_byte_over_the_cap_breaks_it_and_a_declared_length_does_so_at_once() {
        let mut upload = upload(&[10, 20, 31], 60, true);
        let end = upload.end().unwrap();
        assert_eq!(passed(&mut upload).await, (30, false));
        assert!(matches!(end.come().await, Err(ReadError::TooLarge { cap: 60 })));
        let declared = Upload::new(Full::new(Bytes::from_static(b"abc")), bounds(2));
        assert!(matches!(declared, Err(ReadError::TooLarge { cap: 2 })));
    }

    #[tokio::test]
    async fn a_caller_who_falls_silent_breaks_it() {
        let mut upload = upload(&[10], 60, false);
        let end = upload.end().unwrap();
        assert_eq!(passed(&mut upload).await, (10, false));
        assert!(matches!(end.come().await, Err(ReadError::Idle(IDLE))));
    }

    /// Pieces of so many bytes, each after a pause of ten milliseconds: ten bytes make up for one.
    fn paced(size: usize, pieces: usize) -> Upload {
        let frames = stream::unfold(0, move |sent| async move {
            sleep(Duration::from_millis(10)).await;
            let piece = Frame::data(Bytes::from(vec![b'x'; size]));
            (sent < pieces).then_some((Ok::<_, BoxError>(piece), sent + 1))
        });
        let bounds = Bounds { idle: Duration::from_secs(1), rate: NonZeroU64::new(1000).unwrap(), cap: usize::MAX };
        Upload::new(StreamBody::new(Box::pin(frames)), bounds).unwrap()
    }

    #[tokio::test]
    async fn a_caller_who_trickles_breaks_it_and_the_least_pace_passes() {
        let mut trickle = paced(1, 1000);
        let end = trickle.end().unwrap();
        let (sent, is_whole) = passed(&mut trickle).await;
        assert!(sent > 0 && sent < 200 && !is_whole, "{sent}");
        assert!(matches!(end.come().await, Err(ReadError::Slow { least: 1000 })));
        assert_eq!(passed(&mut paced(100, 150)).await, (15_000, true));
    }

    #[tokio::test]
    async fn a_backend_that_takes_its_time_is_not_held_against_the_caller() {
        let mut upload = upload(&[1; 4], 1000, true);
        let end = upload.end().unwrap();
        while upload.frame().await.is_some() {
            sleep(IDLE * 2).await;
        }
        assert!(end.come().await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_nobody_takes_any_more_has_ended() {
        let mut upload = upload(&[10], 60, false);
        let end = upload.end().unwrap();
        drop(upload);
        assert!(end.come().await.is_ok());
    }
}
