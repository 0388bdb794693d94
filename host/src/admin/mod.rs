//! The admin listener: is the gate alive, is it ready, what are its numbers, and the API that steers it.
//!
//! On loopback. `/healthz`, `/readyz` and `/metrics` need no token, all of `/api` does. Every request must be addressed to
//! this listener by a name of its own, and everything about a connection is bounded.

mod api;
mod connection;
mod guard;
mod health;
mod problem;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, middleware::from_fn_with_state, routing::get};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use health::Readiness;

use self::guard::Attempts;
use crate::{
    clock::Clock,
    identity::{KeyTable, Pepper},
    ports::{control::PolicyControl, store::Store},
    proxy::Parts,
    quota::Limits,
    upstream::fleet::Fleet,
    usage::metrics::Metrics,
};

/// Most connections at a time: operators, their scripts and a few scrapers. More wait in the system's queue.
const MAX_CONNECTIONS: usize = 64;

/// After a failed `accept` (no more file descriptors, most often) this long is waited: trying at once would burn a core.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// What the answers come from.
#[derive(Clone, Debug)]
pub struct Operations {
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// Where keys and users are kept.
    pub store: Arc<dyn Store>,
    /// What keys are hashed with.
    pub pepper: Pepper,
    /// Whether callers can be proven.
    pub keys: Arc<KeyTable>,
    /// Whether anybody can serve.
    pub fleet: Arc<Fleet>,
    /// Whether limits hold over all gates that share them.
    pub limits: Arc<Limits>,
    /// What decides, and how it is reloaded.
    pub policies: Arc<dyn PolicyControl>,
    /// What calls are charged.
    pub parts: Arc<Parts>,
    /// The time.
    pub clock: Clock,
    /// Where the admin token lies.
    pub state_dir: PathBuf,
    /// Names of this listener besides those of the loopback.
    pub hosts: Vec<String>,
    /// Whether the gate is stopping.
    pub stop: CancellationToken,
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    operations: Operations,
    attempts: Attempts,
    started: Started,
    /// Calls are tried one after the other: each makes instances of all policies.
    trying: Arc<Semaphore>,
}

/// When the gate began to listen.
#[derive(Clone, Copy, Debug)]
struct Started {
    unix_ms: u64,
    monotonic: Duration,
}

/// A bound listener that doesn't accept yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Admin {
    /// Binds.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub async fn bind(address: SocketAddr, operations: Operations) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let started = Started { unix_ms: operations.clock.unix_ms(), monotonic: operations.clock.monotonic() };
        let shared = Arc::new(Shared {
            operations,
            attempts: Attempts::default(),
            started,
            trying: Arc::new(Semaphore::new(1)),
        });
        Ok(Self { listener, address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then lets what is being answered finish, and cuts it at `cut`. While the data plane drains this
    /// still answers: the gate must be seen to be unready.
    pub async fn serve(self, stop: CancellationToken, cut: CancellationToken) {
        let (connections, room) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        let router = router(&self.shared);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &room) => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    let (router, metrics) = (router.clone(), Arc::clone(&self.shared.operations.metrics));
                    let (stop, cut) = (stop.clone(), cut.clone());
                    connections.spawn(async move {
                        metrics.admin().opened();
                        cut.run_until_cancelled(connection::serve(stream, router, &metrics, &stop)).await;
                        metrics.admin().closed();
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin listener could not be accepted");
                    sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

/// A place first, a connection then: what finds no place waits in the system's queue.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .nest("/api", api::router(shared))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(from_fn_with_state(Arc::clone(shared), guard::addressed))
        .with_state(Arc::clone(shared))
}
