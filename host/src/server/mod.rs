//! The data plane's listener: accepts connections, bounded in number, and hands their requests to the proxy.

mod call;
mod caller_stream;
mod connection;
mod ending;
mod pulse;
mod streams;
mod tls;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::ending::Ending;
use crate::{
    clock::Clock,
    config::Http2,
    proxy::Proxy,
    usage::{bound::Bound, edges::Edges, metrics::Metrics},
};

pub use tls::{Certificates, TlsError};

/// After a failed `accept` (no more file descriptors, most often) this long is waited: trying at once would burn a core.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Connections that the system lets in before they are accepted; it may take fewer (`net.core.somaxconn`). What comes at once
/// above it tries again after a second, so the usual 128 would make a crowd's coming everybody's wait.
const BACKLOG: u32 = 4096;

/// Bounds of the listener and of each connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most connections at a time; more wait in the system's queue.
    pub connections: usize,
    /// Largest head of a request, in bytes.
    pub head_bytes: usize,
    /// Most header lines of a request over HTTP/1.1.
    pub headers: usize,
    /// Time for a connection's first byte.
    pub first_byte: Duration,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for a request's head.
    pub head: Duration,
    /// How long a connection without a call is kept.
    pub keep_alive: Duration,
    /// Longest time that a caller takes nothing of what is sent to it.
    pub stall: Duration,
    /// Time that running calls get to finish when the gate stops.
    pub drain: Duration,
    /// What one caller may do on one HTTP/2 connection.
    pub http2: Http2,
}

/// What all connections share.
struct Shared {
    proxy: Arc<Proxy>,
    metrics: Arc<Metrics>,
    bounds: Bounds,
    tls: Option<TlsAcceptor>,
    /// Deadlines of sockets are in the system's time, whatever time the gate's limits have.
    clock: Clock,
    streams: TaskTracker,
    ending: Ending,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("bounds", &self.bounds)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn edges(&self) -> &Edges {
        self.metrics.edges()
    }
}

/// A bound listener that doesn't accept yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Binds. With certificates the listener speaks TLS and nothing else.
    ///
    /// # Errors
    /// When the address can't be listened on, or TLS can't be set up.
    pub async fn bind(
        address: SocketAddr,
        proxy: Arc<Proxy>,
        metrics: Arc<Metrics>,
        bounds: Bounds,
        certificates: Option<&Arc<Certificates>>,
    ) -> io::Result<Self> {
        let tls = match certificates {
            Some(certificates) => Some(TlsAcceptor::from(certificates.server_config().map_err(io::Error::other)?)),
            None => None,
        };
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let (clock, streams) = (Clock::system(), TaskTracker::new());
        let ending = Ending::default();
        let shared = Arc::new(Shared { proxy, metrics, bounds, tls, clock, streams, ending });
        Ok(Self { listener, address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `stop`; then lets running calls finish, for as long as the drain lasts or until `cut`, and cuts the
    /// rest.
    pub async fn serve(self, stop: CancellationToken, cut: CancellationToken) {
        let connections = TaskTracker::new();
        let shared = self.shared;
        let room = Arc::new(Semaphore::new(shared.bounds.connections));
        let serve = |(stream, peer, place): Accepted| {
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                let _open = Open::count(&shared);
                connection::serve(stream, peer.ip(), Arc::clone(&shared)).await;
                drop(place);
            });
        };
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &room, shared.edges()) => accepted,
            };
            match accepted {
                Ok(accepted) => serve(accepted),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
        // Who has been let in by the system already may have sent a call.
        while let Ok(Ok(accepted)) = timeout(Duration::ZERO, accept(&self.listener, &room, shared.edges())).await {
            serve(accepted);
        }
        drop(self.listener);
        shared.ending.stop();
        connections.close();
        shared.streams.close();
        let finished = async {
            connections.wait().await;
            shared.streams.wait().await;
        };
        if timeout(shared.bounds.drain, cut.run_until_cancelled(finished)).await.is_err() {
            tracing::warn!(connections = connections.len(), "calls still run after the drain time: they are cut");
            (0..connections.len()).for_each(|_| shared.edges().reached(Bound::Drain));
        }
        shared.ending.cut();
        connections.wait().await;
        shared.streams.wait().await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A gate that comes back must not wait until the system has forgotten its old connections.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Counts a connection for as long as it lives, however it ends.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn count(shared: &'a Shared) -> Self {
        shared.edges().opened();
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.edges().closed();
    }
}

type Accepted = (tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// A place first, a connection then: what finds no place waits in the system's queue.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>, edges: &Edges) -> io::Result<Accepted> {
    if room.available_permits() == 0 {
        edges.reached(Bound::Connections);
    }
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}
