//! What goes on beside the calls: following the store, and asking backends how they are.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::build::KEY_POLL;
use crate::{
    config,
    identity::{self, KeyTable},
    ports::store::Store,
    upstream::{backend::Backend, fleet::Fleet, probe},
    usage::metrics::Metrics,
    wire::causes::causes,
};

/// A store that takes longer than this to answer counts as failed for now: what it says later is old.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Keeps the key table up to date. While the store can't be read the last table serves, until it is too old to trust.
pub(super) fn follow_keys(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    store: Arc<dyn Store>,
    keys: Arc<KeyTable>,
    mut revision: Option<i64>,
) {
    let work = async move {
        let mut is_failing = false;
        let mut ticks = ticks(KEY_POLL);
        loop {
            ticks.tick().await;
            let refreshed = timeout(STORE_PATIENCE, identity::refresh(store.as_ref(), &keys, &mut revision)).await;
            let failure = match refreshed {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(causes(&error)),
                Err(_) => Some("it does not answer".to_owned()),
            };
            // Once for each change: a store that is down for an hour writes one line, not 3,600.
            match (&failure, is_failing) {
                (Some(failure), false) => tracing::error!(failure, "the store can't be read; the last keys serve"),
                (None, true) => tracing::info!("the store can be read again"),
                _ => {}
            }
            is_failing = failure.is_some();
        }
    };
    spawn_until(tasks, stop, work);
}

/// Asks every backend for the first time, all at once.
pub(super) async fn look_at_all(fleet: &Arc<Fleet>, metrics: &Metrics) {
    let mut looking = tokio::task::JoinSet::new();
    for backend in fleet.backends() {
        let (fleet, backend) = (Arc::clone(fleet), Arc::clone(backend));
        looking.spawn(async move {
            if probe::check(fleet.control(), &backend).await {
                refresh(&fleet, &backend).await;
            }
        });
    }
    looking.join_all().await;
    for backend in fleet.backends() {
        metrics.backend_is(backend.name(), backend.is_up());
        if !backend.is_up() {
            tracing::warn!(backend = &**backend.name(), url = %backend.url(), "the backend does not answer yet");
        }
    }
}

/// Probes every backend on its own, and reads its lists when it comes back and every so often.
pub(super) fn follow_backends(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    config: &config::Upstream,
    fleet: &Arc<Fleet>,
    metrics: &Arc<Metrics>,
) {
    let probes_a_refresh = config.refresh_interval.as_millis() / config.probe_interval.as_millis().max(1);
    for backend in fleet.backends() {
        let (fleet, backend, metrics) = (Arc::clone(fleet), Arc::clone(backend), Arc::clone(metrics));
        let every = config.probe_interval;
        spawn_until(tasks, stop, async move {
            let mut ticks = ticks(every);
            let mut since_refresh = 0;
            loop {
                ticks.tick().await;
                let is_news = probe::check(fleet.control(), &backend).await;
                metrics.backend_is(backend.name(), backend.is_up());
                since_refresh += 1;
                if backend.is_up() && (is_news || since_refresh >= probes_a_refresh) {
                    refresh(&fleet, &backend).await;
                    since_refresh = 0;
                }
            }
        });
    }
}

async fn refresh(fleet: &Fleet, backend: &Arc<Backend>) {
    probe::refresh_models(Arc::clone(fleet.control()), Arc::clone(backend)).await;
    probe::refresh_running(Arc::clone(fleet.control()), Arc::clone(backend)).await;
}

/// Ticks that don't bunch up after a pause; the first comes after one period.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

fn spawn_until(tasks: &TaskTracker, stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(work).await;
    });
}
