//! The data plane's listener: accepts connections, bounded in number, and hands their requests to the proxy.

mod connection;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::proxy::Proxy;

/// After a failed `accept` (no more file descriptors, most often) this long is waited: trying at once would burn a core.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Bounds of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most connections at a time; more wait in the system's queue.
    pub connections: usize,
    /// Time for a request's head.
    pub head: Duration,
    /// Longest time that a caller takes nothing of what is sent to it.
    pub stall: Duration,
    /// Time that running calls get to finish when the gate stops.
    pub drain: Duration,
}

/// A bound listener that doesn't accept yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    proxy: Arc<Proxy>,
    bounds: Bounds,
}

impl Server {
    /// Binds.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub async fn bind(address: SocketAddr, proxy: Arc<Proxy>, bounds: Bounds) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, proxy, bounds })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `stop`; then lets running calls finish, for as long as the drain lasts or until `cut`, and cuts the
    /// rest.
    pub async fn serve(self, stop: CancellationToken, cut: CancellationToken) {
        let connections = TaskTracker::new();
        let room = Arc::new(Semaphore::new(self.bounds.connections));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &room) => accepted,
            };
            match accepted {
                Ok((stream, peer, place)) => {
                    let (proxy, stop, cut) = (Arc::clone(&self.proxy), stop.clone(), cut.clone());
                    let bounds = self.bounds;
                    connections.spawn(async move {
                        let serving = connection::serve(stream, peer, proxy, bounds, stop);
                        cut.run_until_cancelled(serving).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        if timeout(self.bounds.drain, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "calls still run after the drain time: they are cut");
            cut.cancel();
            connections.wait().await;
        }
    }
}

type Accepted = (tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// A place first, a connection then: what finds no place waits in the system's queue.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}
