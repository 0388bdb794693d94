//! One connection: its first byte, TLS where it is on, then HTTP/1.1 or HTTP/2, each step with its deadline.

use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    io, iter,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use http::{Method, Request, Response, Version, header::CONTENT_LENGTH};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Shared,
    call::{CallBody, RunningCall},
    caller_stream::CallerStream,
    ending::Stage,
    pulse::{Look, Patience, Pulse},
    streams::Streams,
    tls,
};
use crate::{
    proxy::CallerBody,
    usage::bound::Bound,
    wire::{causes::causes, joined::Joined},
};

/// What waits to be sent on one stream of HTTP/2, in bytes: enough for one, little enough for many.
const STREAM_SEND_BYTES: usize = 64 << 10;
/// What a caller may send ahead on one stream of HTTP/2, in bytes; it doesn't count as read yet.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// What a caller may send ahead on all streams of a connection together, in bytes.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// hyper's own bound on header lines, for which it needs no memory of its own.
const USUAL_HEADERS: usize = 100;

/// The first byte of a TLS handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

/// Who speaks HTTP where TLS is spoken is told so, in what it speaks.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 68\r\n\
connection: close\r\n\r\n{\"error\":\"this port speaks TLS: write https:// instead of http://\"}\n";

/// Serves a connection until it ends. When the gate stops, the calls in progress are the last ones.
pub(super) async fn serve(stream: TcpStream, peer: IpAddr, shared: Arc<Shared>) {
    let began = tokio::select! {
        // First: who has sent something before the gate stops is answered.
        biased;
        began = begin(&stream, &shared) => began,
        () = shared.ending.stopping() => return,
    };
    let first = match began {
        Ok(first) => first,
        Err(error) => {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
    };
    let stream = CallerStream::new(stream);
    // Boxed, each: a connection that says nothing must not have the size of one that is served.
    match &shared.tls {
        None => Box::pin(http1(stream, peer, &shared)).await,
        Some(_) if first != HANDSHAKE => Box::pin(tell_about_tls(stream, &shared)).await,
        Some(tls) => Box::pin(encrypted(stream, peer, &shared, tls)).await,
    }
}

/// Waits for the first byte, and leaves it where it is. Nothing is held for a connection before it.
async fn begin(stream: &TcpStream, shared: &Shared) -> io::Result<u8> {
    // Without this a small piece of a stream waits for the one before it to be acknowledged.
    stream.set_nodelay(true)?;
    // A caller who takes nothing for so long is cut: what waits for it holds a backend.
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_user_timeout(Some(shared.bounds.stall))?;
    #[cfg(not(target_os = "linux"))]
    SockRef::from(stream).set_keepalive(true)?;
    let mut first = [0];
    match timeout(shared.bounds.first_byte, stream.peek(&mut first)).await {
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(peeked) => peeked.map(|_| first[0]),
        Err(_) => {
            shared.edges().reached(Bound::FirstByte);
            Err(io::Error::other("nothing came"))
        }
    }
}

async fn tell_about_tls(mut stream: CallerStream, shared: &Shared) {
    shared.edges().handshake_failed();
    // Whoever it is may be gone, or take nothing; there is nothing more to tell it.
    drop(timeout(shared.bounds.handshake, stream.write_all(NOT_TLS)).await);
    drop(stream.shutdown().await);
}

async fn encrypted(stream: CallerStream, peer: IpAddr, shared: &Arc<Shared>, tls: &TlsAcceptor) {
    let handshake = timeout(shared.bounds.handshake, tls.accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = shared.ending.stopping() => return,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.edges().handshake_failed();
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            shared.edges().reached(Bound::Handshake);
            return;
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
        http2(stream, peer, shared).await;
    } else {
        http1(stream, peer, shared).await;
    }
}

/// A stream that can be told whose pulse it is.
trait Beating {
    fn beats(&mut self, pulse: Arc<Pulse>);
}

impl Beating for CallerStream {
    fn beats(&mut self, pulse: Arc<Pulse>) {
        Self::beats(self, pulse);
    }
}

impl Beating for TlsStream<CallerStream> {
    fn beats(&mut self, pulse: Arc<Pulse>) {
        self.get_mut().0.beats(pulse);
    }
}

async fn http1<S>(mut stream: S, peer: IpAddr, shared: &Arc<Shared>)
where
    S: Beating,
    TokioIo<S>: Read + Write + Unpin,
{
    shared.edges().speaks("http/1.1");
    let pulse = Arc::new(Pulse::new(shared.clock.clone(), true));
    stream.beats(Arc::clone(&pulse));
    let bounds = &shared.bounds;
    let mut builder = http1::Builder::new();
    // The pulse has the deadline for heads.
    builder.header_read_timeout(None).max_header_size(bounds.head_bytes).max_buf_size(bounds.head_bytes);
    if bounds.headers != USUAL_HEADERS {
        builder.max_headers(bounds.headers);
    }
    let service = service_fn(|request| answer(request, peer, Arc::clone(shared), RunningCall::begin(&pulse)));
    let connection = builder.serve_connection(Joined(TokioIo::new(stream)), service);
    drive(connection, http1::Connection::graceful_shutdown, &pulse, shared).await;
}

async fn http2(mut stream: TlsStream<CallerStream>, peer: IpAddr, shared: &Arc<Shared>) {
    shared.edges().speaks("h2");
    let pulse = Arc::new(Pulse::new(shared.clock.clone(), false));
    stream.beats(Arc::clone(&pulse));
    let bounds = &shared.bounds;
    let mut builder = http2::Builder::new(Streams::new(Arc::clone(shared)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.http2.max_streams)
        .max_header_list_size(u32::try_from(bounds.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(bounds.http2.max_resets)
        .max_local_error_reset_streams(bounds.http2.max_resets)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .keep_alive_interval(bounds.http2.ping_interval)
        .keep_alive_timeout(bounds.http2.ping_timeout);
    let service = service_fn(|request| answer(request, peer, Arc::clone(shared), RunningCall::begin(&pulse)));
    let connection = builder.serve_connection(Joined(TokioIo::new(stream)), service);
    drive(connection, http2::Connection::graceful_shutdown, &pulse, shared).await;
}

/// Answers one request.
///
/// Boxed: hyper keeps the place of this future for as long as the connection, or the stream, lasts; all that a call needs
/// up to its answer's head is large, and its answer's body may take minutes.
fn answer(request: Request<Incoming>, peer: IpAddr, shared: Arc<Shared>, call: RunningCall) -> Answering {
    Box::pin(answer_now(Box::new(request.map(CallerBody::Incoming)), peer, shared, call))
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<CallBody>, Infallible>> + Send>>;

async fn answer_now(
    request: Box<Request<CallerBody>>,
    peer: IpAddr,
    shared: Arc<Shared>,
    call: RunningCall,
) -> Result<Response<CallBody>, Infallible> {
    // hyper leaves the body of an answer to HEAD out on HTTP/1.1 only.
    let is_bare = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
    let mut answer = shared.proxy.handle(peer, request).await;
    if is_bare && let Some(length @ 1..) = answer.body().size_hint().exact() {
        answer.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
    }
    Ok(answer.map(|body| CallBody::new((!is_bare).then_some(body), call)))
}

/// Runs a connection to its end, its deadlines, or the end of the gate.
///
/// It wakes for every piece that comes or goes, so everything but the connection itself is polled only when it has news:
/// once polled, it wakes this task, which is the only one that ever polls it.
async fn drive<C>(connection: C, end: fn(Pin<&mut C>), pulse: &Pulse, shared: &Shared)
where
    C: Future<Output = hyper::Result<()>>,
{
    let patience = Patience { head: shared.bounds.head, keep_alive: shared.bounds.keep_alive };
    let mut connection = pin!(connection);
    let mut timer = pin!(sleep(patience.until_first_look()));
    let mut news = pin!(shared.ending.next());
    let (mut is_watching, mut is_ending) = (false, false);
    poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                note(ended, shared);
                return Poll::Ready(());
            }
            let stage = shared.ending.stage();
            if stage == Stage::Cut {
                return Poll::Ready(());
            }
            let mut must_end = stage == Stage::Stopping && !is_ending;
            if (!is_watching || stage != Stage::Serving) && news.as_mut().poll(context).is_ready() {
                news.set(shared.ending.next());
                continue;
            }
            let is_due = !is_watching || timer.is_elapsed();
            while is_due && timer.as_mut().poll(context).is_ready() {
                match pulse.look(&patience) {
                    Look::Again(after) => timer.set(sleep(after)),
                    Look::Over(bound) => {
                        shared.edges().reached(bound);
                        // An idle connection is ended by its protocol's rules, once; then it is cut.
                        if bound != Bound::KeepAlive || is_ending {
                            return Poll::Ready(());
                        }
                        must_end = true;
                        timer.set(sleep(patience.head));
                    }
                }
            }
            is_watching = true;
            if !must_end {
                return Poll::Pending;
            }
            is_ending = true;
            end(connection.as_mut());
        }
    })
    .await;
}

fn note(ended: hyper::Result<()>, shared: &Shared) {
    let Err(error) = ended else { return };
    if error.is_parse_too_large() {
        shared.edges().reached(Bound::HeadSize);
    } else if is_stalled(&error) {
        shared.edges().reached(Bound::Stall);
    } else if is_excess(&error) {
        shared.edges().reached(Bound::Http2);
    }
    // A caller who left, most often; never more than one line for one connection.
    tracing::debug!(error = causes(&error), "a connection ended early");
}

/// Whether the system gave the connection up, because the caller took nothing for as long as it may.
fn is_stalled(error: &hyper::Error) -> bool {
    let io_error = |error: &(dyn Error + 'static)| {
        let of_http2 = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        error.downcast_ref::<io::Error>().or(of_http2).and_then(io::Error::raw_os_error)
    };
    iter::successors(error.source(), |&error| error.source())
        .filter_map(io_error)
        .any(|number| Errno::from_raw_os_error(number) == Errno::TIMEDOUT)
}

/// Whether the caller did more on HTTP/2 than it may, or didn't answer a ping.
fn is_excess(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<h2::Error>().is_some_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
        {
            return true;
        }
        cause = error.source();
    }
    error.is_timeout()
}
