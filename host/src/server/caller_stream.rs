//! A caller's socket, as the protocols see it: it tells the connection's pulse of what comes, and notices a caller who
//! leaves while nobody reads.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::pulse::Pulse;

/// After a caller has closed its side this long is left to finish: for who sends a request, closes, and still reads.
const AFTER_CLOSE: Duration = Duration::from_millis(500);

/// So long nobody reads before a second handle watches: a body that comes in pieces is not read for moments only.
const UNREAD: Duration = Duration::from_millis(250);

type Leaving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is done about a caller who might leave unseen.
enum Watch {
    /// Somebody reads, or no call runs.
    Off,
    /// Nobody reads, since a moment ago.
    Soon(Pin<Box<Sleep>>),
    /// Nobody reads.
    On(Leaving),
    /// There was no descriptor left for it: the call ends by itself.
    Failed,
}

/// A caller's socket.
pub(super) struct CallerStream {
    stream: TcpStream,
    pulse: Option<Arc<Pulse>>,
    /// Whether the last read found nothing: then the reader is told of what comes next, an end too.
    is_read_awaited: bool,
    watch: Watch,
}

impl CallerStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, pulse: None, is_read_awaited: false, watch: Watch::Off }
    }

    /// From now on this pulse is told.
    pub(super) fn beats(&mut self, pulse: Arc<Pulse>) {
        self.pulse = Some(pulse);
    }

    /// Has the caller left? hyper sees it itself as long as it reads; with bytes of a next request in its buffer it reads
    /// no further, and would never know. A second handle on the socket sees the end behind those bytes.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_unwatched = !self.is_read_awaited && self.pulse.as_ref().is_some_and(|pulse| pulse.has_calls());
        if !is_unwatched {
            self.watch = Watch::Off;
            return Poll::Pending;
        }
        loop {
            self.watch = match &mut self.watch {
                Watch::Off => Watch::Soon(Box::pin(sleep(UNREAD))),
                Watch::Soon(soon) => {
                    ready!(soon.as_mut().poll(context));
                    second_handle(&self.stream).map_or(Watch::Failed, |handle| Watch::On(Box::pin(left(handle))))
                }
                Watch::On(leaving) => return leaving.as_mut().poll(context),
                Watch::Failed => return Poll::Pending,
            };
        }
    }
}

fn second_handle(stream: &TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(SockRef::from(stream).try_clone()?.into())
}

/// Comes when the caller has closed its side and had time to take what was ready.
async fn left(watch: TcpStream) {
    while let Ok(readiness) = watch.ready(Interest::READABLE).await {
        if readiness.is_read_closed() {
            sleep(AFTER_CLOSE).await;
            return;
        }
        // Nothing is read here; saying so makes the next wait one for news.
        let seen: io::Result<()> = watch.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
        drop(seen);
    }
    // The runtime is shutting down: the connection ends with it, not by this.
    std::future::pending().await
}

impl AsyncRead for CallerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.is_read_awaited = read.is_pending();
        if let (true, Some(pulse)) = (read.is_ready(), &self.pulse) {
            pulse.bytes_came();
        }
        read
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes whenever it has looked at a connection, so here is where leaving is noticed.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_left(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the caller has left")));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
