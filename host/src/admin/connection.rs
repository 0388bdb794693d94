//! One connection of the admin listener: HTTP/1.1 with bounds.

use std::{io, pin::pin, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::usage::metrics::Metrics;

/// Time for a request's head, and for the first byte of the next one: who is slower holds a place for nothing, and a new
/// connection costs a client on this machine next to nothing.
const HEAD: Duration = Duration::from_secs(10);

/// A client that takes nothing of its answer for so long is cut: it holds a place and the answer.
const STALL: Duration = Duration::from_secs(60);

/// Largest head, in bytes: a token and what tools add is far less.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Most header lines.
const MAX_HEADERS: usize = 64;

/// Serves a connection until it ends. When `stop` comes, the request in progress is the last one.
pub(super) async fn serve(stream: TcpStream, router: Router, metrics: &Metrics, stop: &CancellationToken) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        if error.is_timeout() {
            metrics.admin().timed_out();
        }
        tracing::debug!(%error, "a connection to the admin listener ended early");
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(STALL))
}
