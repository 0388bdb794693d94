//! Budgets of the calendar outlive the process: they are read before the gate listens, and what was counted since is
//! written every second, and once more when the last call has ended.
//!
//! A process that is killed forgets what was counted after the last of these writes. What can't be written is kept, and
//! written as soon as the store takes it. Should a database fail in the moment in which it has written already, that batch
//! is counted twice: against the caller, as all doubt is.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::background::ticks;
use crate::{
    clock::Clock,
    config::Config,
    ports::{
        budgets::{BudgetChange, StoredBudget, WrittenBudgets},
        store::{Answer, Store, StoreError},
    },
    quota::{Moment, Quota, shared::Unwritten},
    wire::causes::causes,
};

/// How often what was counted is written.
const EVERY: Duration = Duration::from_secs(1);

/// Time in which what was used must be written when the gate stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most counters in one change of the store, so that it is never held for long.
const BATCH: usize = 1_000;

/// Budgets as they are written down; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct WrittenDown {
    saver: Arc<Mutex<BudgetSaver>>,
    unwritten: Arc<Unwritten>,
    /// Writes that run: a write is never dropped half-way, for nobody would know whether it was done.
    writes: TaskTracker,
}

/// Writes down what the budgets' counters counted, in memory and in Redis.
#[derive(Debug)]
struct BudgetSaver {
    store: Arc<dyn Store>,
    quota: Arc<Quota>,
    unwritten: Arc<Unwritten>,
    clock: Clock,
    /// Taken from the counters and not written yet; at most a batch.
    pending: Vec<BudgetChange>,
    is_failing: bool,
}

impl WrittenDown {
    /// For counters that have now taken over what the store holds.
    ///
    /// # Errors
    /// When the store can't be read: without it everybody would have a second budget.
    pub(super) async fn restore(
        config: &Config,
        store: &Arc<dyn Store>,
        quota: &Arc<Quota>,
        clock: &Clock,
    ) -> Result<Self, StoreError> {
        let at = Moment::now(clock);
        for budget in store.budgets(at.unix_us).await? {
            if !quota.restore(at, &budget) {
                let what = format!("a budget in {:?} by {:?}", budget.name.unit, budget.name.period);
                return Err(StoreError::Unreadable { what });
            }
        }
        let unwritten = Arc::new(Unwritten::new(config.limits.max_counters));
        let saver = BudgetSaver {
            store: Arc::clone(store),
            quota: Arc::clone(quota),
            unwritten: Arc::clone(&unwritten),
            clock: clock.clone(),
            pending: Vec::new(),
            is_failing: false,
        };
        Ok(Self { saver: Arc::new(Mutex::new(saver)), unwritten, writes: TaskTracker::new() })
    }

    /// What was counted in Redis, to be written.
    pub(super) fn unwritten(&self) -> &Arc<Unwritten> {
        &self.unwritten
    }
}

impl WrittenBudgets for WrittenDown {
    fn all(&self) -> Answer<'_, Vec<StoredBudget>> {
        Box::pin(async {
            let saver = Arc::clone(&self.saver);
            // Whoever asks may stop waiting.
            let writing = self.writes.spawn(async move {
                let mut saver = saver.lock().await;
                saver.write().await?;
                saver.store.budgets(saver.clock.unix_us()).await
            });
            writing.await.map_err(|broken| StoreError::Database(broken.into()))?
        })
    }
}

impl BudgetSaver {
    /// Writes all that was counted, and says when that begins to fail and when it works again.
    async fn save(&mut self) {
        match (self.write().await, self.is_failing) {
            (Err(error), false) => {
                self.is_failing = true;
                let failure = causes(&error);
                tracing::warn!(
                    failure,
                    "what is used of budgets can't be written; it is kept, and lost if the gate dies"
                );
            }
            (Ok(()), true) => {
                self.is_failing = false;
                tracing::info!("what is used of budgets is written again");
            }
            _ => {}
        }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        loop {
            if self.pending.is_empty() {
                let at = Moment::now(&self.clock);
                self.pending = self.quota.take_unsaved_budgets(at, BATCH);
                self.pending.extend(self.unwritten.take(at.unix_us, BATCH - self.pending.len()));
            }
            if self.pending.is_empty() {
                return Ok(());
            }
            self.store.add_to_budgets(&self.pending, self.clock.unix_us()).await?;
            let was_last = self.pending.len() < BATCH;
            self.pending.clear();
            if was_last {
                return Ok(());
            }
        }
    }
}

/// Saves every second until it is stopped, and then once more.
#[derive(Debug)]
pub(super) struct Saving {
    writes: TaskTracker,
    stop: CancellationToken,
}

impl Saving {
    pub(super) fn start(WrittenDown { saver, writes, .. }: WrittenDown) -> Self {
        let saving = Self { writes, stop: CancellationToken::new() };
        let stop = saving.stop.clone();
        saving.writes.spawn(async move {
            let mut ticks = ticks(EVERY);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                saver.lock().await.save().await;
            }
            saver.lock().await.save().await;
        });
        saving
    }

    /// Writes what is left, if the store takes it in time, and waits for every write that runs.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.writes.close();
        if timeout(PATIENCE, self.writes.wait()).await.is_err() {
            tracing::error!("the store is too slow: what was used of budgets in the last second is not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;
    use crate::{
        policy::{Amount, Period, Rule, Shape},
        quota::{Charge, Outcome, QuotaBounds, Tokens},
        store::SqliteStore,
    };

    #[tokio::test]
    async fn a_write_that_nobody_waits_for_any_more_is_done_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.path().join("store.db")).await.unwrap());
        let (quota, clock) = (Arc::new(Quota::new(QuotaBounds::default())), Clock::manual(1_781_092_800_000).0);
        let saver = BudgetSaver {
            store: Arc::clone(&store),
            quota: Arc::clone(&quota),
            unwritten: Arc::default(),
            clock: clock.clone(),
            pending: Vec::new(),
            is_failing: false,
        };
        let (saver, unwritten) = (Arc::new(Mutex::new(saver)), Arc::default());
        let written = WrittenDown { saver: Arc::clone(&saver), unwritten, writes: TaskTracker::new() };
        let shape = Shape::Calendar { capacity: 100, period: Period::Day };
        let rule = Rule::Metered { amount: Amount::Requests(7), shape };
        let charge = Charge { policy: "p", limit: "l", partition: "x", rule };
        let at = Moment::now(&clock);
        quota.reserve(at, "x", &[charge], Tokens::default()).unwrap().settle(at, Outcome::RequestOnly);
        let mut asking = written.all();
        poll_fn(|context| {
            assert!(asking.as_mut().poll(context).is_pending(), "it takes its time");
            Poll::Ready(())
        })
        .await;
        drop(asking);
        let saving = Saving::start(written);
        saving.stop().await;
        assert!(saver.lock().await.pending.is_empty());
        let used: Vec<u64> = store.budgets(at.unix_us).await.unwrap().iter().map(|budget| budget.used).collect();
        assert_eq!(used, [7]);
    }
}
