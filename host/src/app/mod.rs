//! Composition: the only place that knows every module. Builds a gate from its configuration, starts it and stops it.
//!
//! Nothing listens before everything is built, and every task belongs to a tracker: none outlives the gate.

mod background;
mod build;
pub mod declared;
pub mod demo;
mod folder;
pub mod policies;
mod simulated;
mod watch;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use build::{CheckedParts, StartError};
pub(crate) use build::{open_store, refuse_lost_pepper};
pub use simulated::SimulatedOllama;

use crate::{clock::Clock, config::Config, upstream::fleet::Fleet};

/// Time that answers of the operations listener get to finish when the gate stops.
const ADMIN_PATIENCE: Duration = Duration::from_secs(1);

/// A gate that serves.
#[derive(Debug)]
pub struct App {
    data_plane: SocketAddr,
    admin: SocketAddr,
    fleet: Arc<Fleet>,
    stop: CancellationToken,
    stop_admin: CancellationToken,
    cut_admin: CancellationToken,
    serving: TaskTracker,
    admin_serving: TaskTracker,
}

impl App {
    /// Builds a gate and starts it. It serves when this returns.
    ///
    /// # Errors
    /// What can't be used: the state folder, the store, a policy, an address.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        build::start(config, clock).await
    }

    /// Where callers are served.
    pub fn data_plane(&self) -> SocketAddr {
        self.data_plane
    }

    /// Where operators look.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The backends, which may be changed while the gate serves.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Stops accepting, lets running calls finish within the drain time, and ends every task.
    pub async fn stop(self) {
        self.stop.cancel();
        self.serving.close();
        self.serving.wait().await;
        self.stop_admin.cancel();
        self.admin_serving.close();
        // A connection there that never ends its request is not waited for.
        if timeout(ADMIN_PATIENCE, self.admin_serving.wait()).await.is_err() {
            self.cut_admin.cancel();
            self.admin_serving.wait().await;
        }
    }
}

/// Waits until the process is asked to stop: SIGTERM or ctrl-c.
///
/// # Errors
/// When the system doesn't let the process listen for signals.
pub async fn asked_to_stop() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}
