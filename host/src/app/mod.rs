//! Composition: the only place that knows every module. Builds a gate from its configuration, starts it and stops it.
//!
//! Nothing listens before everything is built, and every task that serves belongs to a tracker: none outlives the gate.

pub mod approvals;
mod background;
mod budgets;
mod build;
pub mod cases;
mod certificates;
mod check;
pub mod declared;
pub mod demo;
mod folder;
mod giving_way;
pub mod policies;
mod presence;
mod sharing;
mod signals;
mod simulated;
mod steering;
mod watch;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use build::StartError;
pub(crate) use build::{open_store, refuse_lost_pepper};
pub use check::Checked;
pub use folder::{check_policy_file, version_of};
pub use sharing::RedisError;
pub use signals::{Asked, Signals};
pub use simulated::SimulatedOllama;

use self::{budgets::Saving, presence::Presence, sharing::Keeping, steering::Steering};
use crate::{clock::Clock, config::Config, ports::control::PolicyControl, upstream::fleet::Fleet};

/// Time that answers of the operations listener get to finish when the gate stops.
const ADMIN_PATIENCE: Duration = Duration::from_secs(1);

/// Time in which everything that is cut must end.
const CUT_PATIENCE: Duration = Duration::from_secs(1);

/// A gate that serves.
#[derive(Debug)]
pub struct App {
    data_plane: SocketAddr,
    admin: SocketAddr,
    fleet: Arc<Fleet>,
    policies: Arc<Steering>,
    stop: CancellationToken,
    cut: CancellationToken,
    stop_admin: CancellationToken,
    cut_admin: CancellationToken,
    serving: TaskTracker,
    admin_serving: TaskTracker,
    keeping: Keeping,
    saving: Saving,
    _presence: Presence,
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

    /// Serves until a signal asks to stop, and stops. A second one cuts what still runs. SIGHUP has the policy folder looked
    /// at.
    pub async fn run(&self, signals: &mut Signals) {
        while signals.next().await == Asked::Reload {
            self.reload_policies();
        }
        // So that it is so when it is said.
        self.stop.cancel();
        tracing::info!("stopping: running calls may finish; a second signal cuts them");
        let mut stopping = pin!(self.stop());
        loop {
            tokio::select! {
                () = stopping.as_mut() => return,
                asked = signals.next() => match asked {
                    Asked::Stop => {
                        tracing::warn!("stopping at once: running calls are cut");
                        self.stop_now();
                    }
                    Asked::Reload => {}
                },
            }
        }
    }

    /// Stops accepting, lets running calls finish within the drain time, and ends every task.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.serving.close();
        if self.cut.run_until_cancelled(self.serving.wait()).await.is_none() {
            // What is cut ends at its next step; what doesn't come to one ends with the process.
            drop(timeout(CUT_PATIENCE, self.serving.wait()).await);
        }
        self.keeping.stop().await;
        // All calls are settled: what they used of budgets is written for the last time.
        self.saving.stop().await;
        self.stop_admin.cancel();
        self.admin_serving.close();
        // A connection there that never ends its request is not waited for.
        if timeout(ADMIN_PATIENCE, self.admin_serving.wait()).await.is_err() {
            self.cut_admin.cancel();
            self.admin_serving.wait().await;
        }
    }

    /// Cuts what still runs, so that a [`stop`](Self::stop) that waits for it ends at once.
    pub fn stop_now(&self) {
        self.stop.cancel();
        self.cut.cancel();
        self.stop_admin.cancel();
        self.cut_admin.cancel();
    }

    /// Looks at the policy folder, and logs what came of it.
    fn reload_policies(&self) {
        let policies = Arc::clone(&self.policies);
        self.serving.spawn(async move {
            match policies.reload().await {
                Ok(reloaded) => {
                    let changes: Vec<String> = reloaded
                        .changes
                        .iter()
                        .map(|change| format!("{} {}", change.policy, change.change.as_str()))
                        .collect();
                    let (generation, complaints) = (reloaded.generation, reloaded.complaints.len());
                    tracing::info!(generation, changes = changes.join(", "), complaints, "policies reloaded on SIGHUP");
                }
                Err(error) => tracing::warn!(%error, "policies not reloaded on SIGHUP"),
            }
        });
    }
}
