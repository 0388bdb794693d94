//! One connection: HTTP/1.1 with bounds.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, time::sleep};
use tokio_util::sync::CancellationToken;

use super::Bounds;
use crate::proxy::Proxy;

/// Largest head of a request, in bytes; more is answered with 431. It is looked at after each read, so a head may be over
/// by what one read brings.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most header lines of a request; more is answered with 431.
const MAX_HEADERS: usize = 100;

/// After a caller has closed its side this long is left to finish: for who sends a request, closes, and still reads.
const AFTER_CLOSE: Duration = Duration::from_millis(500);

/// Serves a connection until it ends. When `stop` comes, the request in progress is the last one.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    proxy: Arc<Proxy>,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let (stream, watch) = match prepare(stream, bounds.stall) {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
    };
    let service = service_fn(move |request| {
        let proxy = Arc::clone(&proxy);
        async move { Ok::<_, Infallible>(proxy.handle(peer.ip(), request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = left(&watch) => {
            tracing::debug!("a caller has left");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = left(&watch) => return,
            }
        }
    };
    if let Err(error) = ended {
        // A caller who left, most often; never more than one line for one connection.
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A socket that sends small pieces at once, and a second handle by which its closing is seen.
fn prepare(stream: TcpStream, stall: Duration) -> io::Result<(TcpStream, TcpStream)> {
    // Without this a small piece of a stream waits for the one before it to be acknowledged.
    stream.set_nodelay(true)?;
    // A caller who takes nothing for so long is cut: what waits for it holds a backend.
    SockRef::from(&stream).set_tcp_user_timeout(Some(stall))?;
    let stream = stream.into_std()?;
    let watch = TcpStream::from_std(stream.try_clone()?)?;
    Ok((TcpStream::from_std(stream)?, watch))
}

/// Comes when the caller has closed its side and had time to take what was ready. hyper sees this itself as long as
/// nothing follows the request; with bytes of a next one in its buffer it reads no further, and would never know.
async fn left(watch: &TcpStream) {
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
