//! Reading a body whole, within bounds: its own cap, the gate's budget for all bodies together, and deadlines for silence and
//! for all of it.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{error::Elapsed, timeout},
};

/// The budget is counted in units of this many bytes: a semaphore counts to 2³², and bodies may be more.
const UNIT: u64 = 1024;

/// How many bytes of request bodies may stand in memory at once, over all calls.
#[derive(Clone, Debug)]
pub struct BufferBudget {
    free: Arc<Semaphore>,
    units: usize,
}

impl BufferBudget {
    /// A budget of this many bytes, rounded up to whole KiB.
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// How many bytes stand in memory now, in whole KiB for each body.
    pub fn held(&self) -> u64 {
        u64::try_from(self.units.saturating_sub(self.free.available_permits())).unwrap_or(u64::MAX).saturating_mul(UNIT)
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u64::try_from(bytes).ok()?.div_ceil(UNIT);
        Arc::clone(&self.free).try_acquire_many_owned(u32::try_from(units).ok()?).ok()
    }
}

/// A body that was read; its share of the budget is given back when this is dropped.
#[derive(Debug)]
pub struct ReadBody {
    /// All of it.
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl ReadBody {
    /// A body of this length that is made, not read; made only once it has its share of the budget.
    ///
    /// # Errors
    /// [`ReadError::NoRoom`].
    pub fn made(length: usize, budget: &BufferBudget, make: impl FnOnce() -> Bytes) -> Result<Self, ReadError> {
        let share = budget.take(length).ok_or(ReadError::NoRoom)?;
        Ok(Self { bytes: make(), _share: Some(share) })
    }
}

/// Bounds of one body that is read whole.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most bytes.
    pub cap: usize,
    /// Longest silence between two pieces.
    pub idle: Duration,
    /// Most time for all of it: a byte now and then must not hold a connection for ever.
    pub whole: Duration,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is larger than its cap.
    #[error("the body is larger than {cap} bytes: send less")]
    TooLarge {
        /// The cap.
        cap: usize,
    },
    /// All calls together hold as much as they may.
    #[error("the gate holds as many request bodies as it may: try again soon")]
    NoRoom,
    /// Nothing came for too long.
    #[error("the body stopped coming for {} seconds: send it without pauses", .0.as_secs())]
    Idle(Duration),
    /// All of it took too long.
    #[error("the body did not come within {} seconds: send it faster", .0.as_secs())]
    Late(Duration),
    /// It came more slowly than it may.
    #[error("the body came with less than {least} bytes a second: send it faster")]
    Slow {
        /// The least, in bytes a second.
        least: u64,
    },
    /// The connection broke, or the framing is wrong.
    #[error("the body could not be read: send it whole, with a right content-length or in chunks")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads a body whole. One that comes in one piece is not copied.
///
/// # Errors
/// A bound was reached, or the connection broke.
///
/// # Cancel safety
/// Dropped half-way, what was read is lost and the budget given back.
pub async fn read<B>(body: B, bounds: Bounds, budget: &BufferBudget) -> Result<ReadBody, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    within(bounds.whole, pieces(body, bounds, budget)).await.unwrap_or(Err(ReadError::Late(bounds.whole)))
}

/// A deadline for which nothing is set up when all is there already, as a body mostly is that came with its head.
async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, Elapsed> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Ok(done);
    }
    timeout(limit, work).await
}

async fn pieces<B>(mut body: B, bounds: Bounds, budget: &BufferBudget) -> Result<ReadBody, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Bounds { cap, idle, .. } = bounds;
    let too_large = ReadError::TooLarge { cap };
    let declared = body.size_hint();
    let lower = usize::try_from(declared.lower()).unwrap_or(usize::MAX);
    if lower > cap {
        return Err(too_large);
    }
    // Only what came is taken from the budget: to declare much and send little must not shut out others.
    let mut share = budget.take(0).ok_or(ReadError::NoRoom)?;
    let mut held = 0;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match within(idle, body.frame()).await {
            Err(_) => return Err(ReadError::Idle(idle)),
            Ok(None) => break,
            Ok(Some(frame)) => frame.map_err(|error| ReadError::Broken(error.into()))?,
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + rest.len() + data.len();
        if length > cap {
            return Err(too_large);
        }
        if length > held {
            // Ahead by as much again, so that the budget is asked seldom.
            let more = length.saturating_mul(2).min(cap);
            share.merge(budget.take(more - held).ok_or(ReadError::NoRoom)?);
            held = more;
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(held);
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(ReadBody { bytes, _share: Some(share) })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    const IDLE: Duration = Duration::from_secs(5);

    fn of(cap: usize) -> Bounds {
        Bounds { cap, idle: IDLE, whole: IDLE }
    }

    fn chunks(sizes: &[usize]) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let frames: Vec<_> = sizes.iter().map(|&size| Ok(Frame::data(Bytes::from(vec![b'x'; size])))).collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let sent = Bytes::from(vec![b'x'; 4096]);
        let read = read(Full::new(sent.clone()), of(4096), &BufferBudget::new(1 << 20)).await;
        assert_eq!(read.unwrap().bytes.as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn pieces_are_joined_and_a_byte_over_the_cap_is_too_much() {
        let budget = BufferBudget::new(1 << 20);
        let bounds = of(3000);
        assert_eq!(read(chunks(&[1000, 1000, 1000]), bounds, &budget).await.unwrap().bytes.len(), 3000);
        assert!(matches!(read(chunks(&[1000, 2001]), bounds, &budget).await, Err(ReadError::TooLarge { cap: 3000 })));
        let declared = Full::new(Bytes::from(vec![0; 3001]));
        assert!(matches!(read(declared, bounds, &budget).await, Err(ReadError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_given_back() {
        let budget = BufferBudget::new(10 * 1024);
        let bounds = of(8 * 1024);
        let held = read(Full::new(Bytes::from(vec![0; 8 * 1024])), bounds, &budget).await.unwrap();
        let second = || Full::new(Bytes::from(vec![0; 4 * 1024]));
        assert!(matches!(read(second(), bounds, &budget).await, Err(ReadError::NoRoom)));
        drop(held);
        assert!(read(second(), bounds, &budget).await.is_ok());
    }

    #[tokio::test]
    async fn silence_ends_the_reading() {
        let silent = StreamBody::new(stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
        let bounds = Bounds { idle: Duration::from_millis(20), ..of(10) };
        assert!(matches!(read(silent, bounds, &BufferBudget::new(10)).await, Err(ReadError::Idle(_))));
    }

    #[tokio::test]
    async fn a_body_that_trickles_has_an_end() {
        let trickle = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Some((Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        let whole = Duration::from_millis(200);
        let bounds = Bounds { whole, ..of(1000) };
        let read = read(StreamBody::new(Box::pin(trickle)), bounds, &BufferBudget::new(1 << 20)).await;
        assert!(matches!(read, Err(ReadError::Late(late)) if late == whole), "{read:?}");
    }
}
