//! What goes on beside the calls: following the store, and asking backends how they are.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    build::KEY_POLL,
    declared::{LeftOut, all_backends},
};
use crate::{
    config::{self, Config},
    identity::{self, KeyTable},
    ports::store::{Store, StoreError, StoredBackend},
    quota::{Quota, shared::SharedQuota},
    upstream::{backend::Backend, fleet::Fleet, probe},
    usage::{
        backend_gauges::BackendNumbers, limit_counters::LimitNumbers, metrics::Metrics, redis_numbers::RedisNumbers,
    },
    wire::causes::causes,
};

/// A store that takes longer than this to answer counts as failed for now: what it says later is old.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// What follows the store, and what it needs for that.
#[derive(Debug)]
pub(super) struct StoreFollower {
    store: Arc<dyn Store>,
    keys: Arc<KeyTable>,
    fleet: Arc<Fleet>,
    config: Config,
    revision: Option<i64>,
    /// The store has changed, and its backends were not read since.
    are_backends_due: bool,
}

impl StoreFollower {
    pub(super) fn new(store: Arc<dyn Store>, keys: Arc<KeyTable>, fleet: Arc<Fleet>, config: Config) -> Self {
        Self { store, keys, fleet, config, revision: None, are_backends_due: true }
    }

    /// Takes over what has changed since the last time.
    ///
    /// # Errors
    /// As the store's: what could not be read stays as it was, and is read again the next time.
    pub(super) async fn step(&mut self) -> Result<(), StoreError> {
        self.are_backends_due |= identity::refresh(self.store.as_ref(), &self.keys, &mut self.revision).await?;
        if self.are_backends_due {
            let all = all_backends(&self.config, self.store.declared_backends().await?);
            for LeftOut { stored: StoredBackend { name, .. }, reason } in &all.left_out {
                tracing::warn!(backend = name, reason, "a backend that was added can't be used");
            }
            self.fleet.apply(&all.usable);
            self.are_backends_due = false;
        }
        Ok(())
    }
}

/// Keeps keys and backends up to date. While the store can't be read the last ones serve; keys, until they are too old to
/// trust.
pub(super) fn follow_store(tasks: &TaskTracker, stop: &CancellationToken, mut follower: StoreFollower) {
    let work = async move {
        let mut is_failing = false;
        let mut ticks = ticks(KEY_POLL);
        loop {
            ticks.tick().await;
            let failure = match timeout(STORE_PATIENCE, follower.step()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(causes(&error)),
                Err(_) => Some("it does not answer".to_owned()),
            };
            // Once for each change: a store that is down for an hour writes one line, not 3,600.
            match (&failure, is_failing) {
                (Some(failure), false) => {
                    tracing::error!(failure, "the store can't be read; the last keys and backends serve");
                }
                (None, true) => tracing::info!("the store can be read again"),
                _ => {}
            }
            is_failing = failure.is_some();
        }
    };
    spawn_until(tasks, stop, work);
}

/// Lets the metrics see the backends.
pub(super) fn measure_backends(fleet: &Arc<Fleet>, metrics: &Metrics) {
    let fleet = Arc::clone(fleet);
    metrics.backends_from(move || {
        let numbers = |backend: Arc<Backend>| BackendNumbers {
            name: Arc::clone(backend.name()),
            is_up: backend.is_up(),
            is_drained: backend.is_drained(),
            in_flight: backend.in_flight(),
        };
        fleet.backends().into_iter().map(numbers).collect()
    });
}

/// Lets the metrics ask what the limits did, in memory and through Redis together.
pub(super) fn measure_limits(quota: &Arc<Quota>, shared: Option<&Arc<SharedQuota>>, metrics: &Metrics) {
    let (quota, shared) = (Arc::clone(quota), shared.cloned());
    metrics.limits_from(move || {
        let own = quota.totals();
        let redis = shared.as_ref().map(|shared| shared.totals()).unwrap_or_default();
        LimitNumbers {
            admitted: own.admitted().saturating_add(redis.admitted),
            refused: own.refused().saturating_add(redis.refused),
            debts: own.debts().saturating_add(redis.debts),
            debt_units: own.debt_units().saturating_add(redis.debt_units),
            overshoot_units: own.overshoot_units().saturating_add(redis.overshoot_units),
        }
    });
}

/// Lets the metrics ask how sharing limits goes.
pub(super) fn measure_redis(shared: &Arc<SharedQuota>, metrics: &Metrics) {
    let shared = Arc::clone(shared);
    metrics.redis_from(move || {
        let totals = shared.totals();
        RedisNumbers {
            unavailable: [
                ("late", totals.late),
                ("not_asked", totals.not_asked),
                ("backlog", totals.backlog),
                ("error", totals.failed),
            ],
            is_degraded: !shared.is_asked(),
            degraded_ms: totals.degraded_ms,
            replayed: totals.owed,
            cancelled: totals.cancelled,
            lost: totals.lost,
            untold: totals.untold,
            forgotten_units: totals.forgotten,
            losses: totals.losses,
            restored: totals.restored,
            unwritten_units: totals.unwritten,
            waiting: totals.waiting,
        }
    });
}

/// Asks every backend for the first time, all at once.
pub(super) async fn look_at_all(fleet: &Arc<Fleet>) {
    let mut looking = tokio::task::JoinSet::new();
    for backend in fleet.backends() {
        let fleet = Arc::clone(fleet);
        looking.spawn(async move { first_look(&fleet, &backend).await });
    }
    looking.join_all().await;
}

async fn first_look(fleet: &Fleet, backend: &Arc<Backend>) {
    probe::check(fleet.control(), backend).await;
    if backend.is_up() {
        probe::refresh(fleet.control(), backend).await;
    }
}

/// Probes every backend on its own, and reads its lists when it comes back and every so often. Those that come later are
/// looked at as soon as they are there; those that go are left alone from then on.
pub(super) fn follow_backends(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    config: &config::Upstream,
    fleet: &Arc<Fleet>,
) {
    let probes_a_refresh = config.refresh_interval.as_millis() / config.probe_interval.as_millis().max(1);
    let rhythm = Rhythm { every: config.probe_interval, probes_a_refresh };
    let (probes, until) = (tasks.clone(), stop.clone());
    let fleet = Arc::clone(fleet);
    spawn_until(tasks, stop, async move {
        let mut changes = fleet.changes();
        let mut followed = HashSet::new();
        loop {
            // From here on: what changes while this goes on is seen in the next round.
            changes.mark_unchanged();
            let present = fleet.backends();
            followed.retain(|id| present.iter().any(|backend| backend.id() == *id));
            for backend in present {
                if followed.insert(backend.id()) {
                    let (fleet, retired) = (Arc::clone(&fleet), backend.retired().clone());
                    spawn_until(&probes, &until, async move {
                        retired.run_until_cancelled(probe_for_ever(&fleet, &backend, rhythm)).await;
                    });
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    });
}

/// How often a backend is asked.
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    every: Duration,
    probes_a_refresh: u128,
}

async fn probe_for_ever(fleet: &Fleet, backend: &Arc<Backend>, rhythm: Rhythm) {
    if !backend.was_probed() {
        first_look(fleet, backend).await;
    }
    let mut ticks = ticks(rhythm.every);
    let mut since_refresh = 0;
    loop {
        ticks.tick().await;
        fleet.sweep(backend);
        let is_news = probe::check(fleet.control(), backend).await;
        since_refresh += 1;
        if backend.is_up() && (is_news || since_refresh >= rhythm.probes_a_refresh) {
            probe::refresh(fleet.control(), backend).await;
            since_refresh = 0;
        }
    }
}

/// Ticks that don't bunch up after a pause; the first comes after one period.
pub(super) fn ticks(every: Duration) -> tokio::time::Interval {
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
