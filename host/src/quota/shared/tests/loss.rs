//! A Redis that has lost its counters: budgets go on from what is written of them, all else begins anew, and it is told.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::server::Server;
use super::*;
use crate::ports::budgets::{BudgetName, StoredBudget};
use crate::ports::store::{Answer, StoreError};
use crate::quota::{Limits, Quota};

type Sums = Mutex<HashMap<(BudgetName, u64), i64>>;

/// A store in memory, to which one gate writes.
#[derive(Debug, Default)]
struct Store {
    unwritten: Arc<Unwritten>,
    memory: Arc<Quota>,
    sums: Arc<Sums>,
    fails: AtomicBool,
}

impl Store {
    /// Another gate's way to the same store.
    fn beside(&self) -> Arc<Self> {
        Arc::new(Self { sums: Arc::clone(&self.sums), ..Self::default() })
    }

    fn budgets(self: &Arc<Self>) -> Budgets {
        let written = Arc::<Self>::clone(self);
        Budgets { unwritten: Arc::clone(&self.unwritten), written: Some(written) }
    }

    fn write(&self) {
        let mut sums = self.sums.lock().unwrap();
        let now = Moment::now(&Clock::system());
        let memory = self.memory.take_unsaved_budgets(now, usize::MAX);
        for change in self.unwritten.take(0, usize::MAX).into_iter().chain(memory) {
            *sums.entry(((*change.name).clone(), change.period_end_us)).or_default() += change.units;
        }
    }

    fn written(&self) -> i64 {
        self.write();
        self.sums.lock().unwrap().values().sum()
    }
}

impl WrittenBudgets for Store {
    fn all(&self) -> Answer<'_, Vec<StoredBudget>> {
        Box::pin(async {
            if self.fails.load(Relaxed) {
                return Err(StoreError::Refused("it is on fire".to_owned()));
            }
            self.write();
            // As a store on a disk: others go on between what is written and what is read.
            tokio::task::yield_now().await;
            let sums = self.sums.lock().unwrap();
            let stored = |((name, end), used): (&(BudgetName, u64), &i64)| StoredBudget {
                name: name.clone(),
                period_end_us: *end,
                used: u64::try_from(*used).unwrap(),
            };
            Ok(sums.iter().map(stored).collect())
        })
    }
}

async fn gate(url: &str, store: &Arc<Store>) -> Gate {
    let mut settings = SharedSettings::new(Address::parse(url, None).unwrap());
    settings.deadline = Duration::from_secs(2);
    let gate = Gate::start_by(settings, Clock::system(), store.budgets());
    gate.until(|condition| *condition == Condition::Sound).await;
    gate
}

/// How many of so many calls are admitted, however often Redis has to be told first.
async fn admitted_in_the_end(gate: &Gate, charge: Charge<'_>, calls: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..calls {
        loop {
            gate.until(|condition| *condition == Condition::Sound).await;
            match gate.reserve(charge).await {
                Ok(reservation) => {
                    reservation.settle(Outcome::Used(ONE));
                    admitted += 1;
                }
                Err(NotReserved::Unavailable(_)) => continue,
                Err(NotReserved::Refused(_)) => {}
            }
            break;
        }
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_is_spent_stays_spent_when_redis_comes_back_empty() {
    let mut server = Server::start();
    let store = Arc::<Store>::default();
    let other_store = store.beside();
    let (one, other) = (gate(&server.url(), &store).await, gate(&server.url(), &other_store).await);
    assert_eq!(one.admitted(per_month(5), 3).await + other.admitted(per_month(5), 1).await, 4);
    assert_eq!(one.admitted(per_minute(5), 5).await, 5);
    one.until_totals(|totals| totals.waiting == 0).await;
    other.until_totals(|totals| totals.waiting == 0).await;
    assert_eq!(store.written() + other_store.written(), 3 + 4);
    let port = server.port;
    server.kill();
    one.until_degraded().await;
    other.until_degraded().await;
    let _empty = Server::start_on(port, &[]);
    let admitted =
        admitted_in_the_end(&one, per_month(5), 4).await + admitted_in_the_end(&other, per_month(5), 4).await;
    assert_eq!(admitted, 1, "of five, four were spent");
    assert_eq!(one.admitted(per_minute(5), 9).await, 5, "a window begins anew");
    one.until_totals(|totals| totals.losses == 1).await;
    other.until_totals(|totals| totals.losses == 1).await;
    assert_eq!(one.quota.totals().restored + other.quota.totals().restored, 1);
    assert_eq!(one.quota.totals().overshoot_units, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_budget_is_reserved_against_counters_that_nobody_told_however_fast_they_were_lost() {
    let server = Server::start();
    let store = Arc::<Store>::default();
    let gate = gate(&server.url(), &store).await;
    assert_eq!(gate.admitted(per_month(5), 5).await, 5);
    for lost in 1..=5 {
        server.run(&["FLUSHALL"]);
        assert_eq!(admitted_in_the_end(&gate, per_month(5), 3).await, 0);
        gate.until_totals(|totals| totals.losses == lost).await;
    }
    // Settled by less than was reserved, then lost: what was given back is written as well.
    let held = gate.quota.reserve(&[tokens_per_month(100)], Tokens { input: 90, output: 0 }).await.unwrap();
    held.settle(Outcome::Used(Tokens { input: 20, output: 0 }));
    gate.until_totals(|totals| totals.waiting == 0).await;
    server.run(&["FLUSHALL"]);
    assert_eq!(admitted_in_the_end(&gate, tokens_per_month(100), 99).await, 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_spent_without_redis_counts_once_after_it_came_back_empty() {
    let mut server = Server::start();
    let store = Arc::<Store>::default();
    let gate = gate(&server.url(), &store).await;
    assert_eq!(gate.admitted(per_month(9), 2).await, 2);
    let port = server.port;
    server.kill();
    gate.until_degraded().await;
    for _ in 0..3 {
        let charges = [per_month(9), per_minute(9)];
        gate.quota.spends_locally(&charges, ONE, false).unwrap().settle(Outcome::Used(ONE));
    }
    let _empty = Server::start_on(port, &[]);
    gate.until(|condition| *condition == Condition::Sound).await;
    gate.until_totals(|totals| totals.owed == 1 && totals.owing == 0).await;
    assert_eq!(admitted_in_the_end(&gate, per_month(9), 20).await, 9 - 2 - 3);
    assert_eq!(admitted_in_the_end(&gate, per_minute(9), 20).await, 9 - 3);
}

/// The limits of one gate, whose memory is written down as well.
fn limits(gate: &Gate, store: &Store) -> Limits {
    Limits::shared(Arc::clone(&store.memory), Arc::clone(&gate.quota))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_admitted_without_redis_and_ran_across_a_loss_is_charged_once() {
    for (used, left) in [(40, 60), (20, 70)] {
        let mut server = Server::start();
        let store = Arc::<Store>::default();
        let gate = gate(&server.url(), &store).await;
        let port = server.port;
        server.kill();
        gate.until_degraded().await;
        let (at, expected) = (Moment::now(&Clock::system()), Tokens { input: 30, output: 0 });
        let limits = limits(&gate, &store);
        let hold = limits.reserve(at, "somebody", &[tokens_per_month(100)], expected.into()).await.unwrap();
        assert!(hold.is_local());
        let _empty = Server::start_on(port, &[]);
        gate.until_totals(|totals| totals.losses == 1).await;
        gate.until(|condition| *condition == Condition::Sound).await;
        hold.settle(at, Outcome::Used(Tokens { input: used, output: 0 }));
        gate.until_totals(|totals| totals.owing == 0 && totals.owed == u64::from(used > 30)).await;
        // One that took less than it had reserved stays counted as reserved.
        assert_eq!(admitted_in_the_end(&gate, tokens_per_month(100), 99).await, left);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_on_its_way_to_a_redis_that_lost_its_counters_is_told_once() {
    let mut server = Server::start();
    let store = Arc::<Store>::default();
    let gate = gate(&server.url(), &store).await;
    let port = server.port;
    server.pause();
    let shape = Shape::Calendar { capacity: 9, period: Period::Month };
    let three = Rule::Metered { amount: Amount::Requests(3), shape };
    let charge = Charge { rule: three, ..per_month(9) };
    gate.quota.spends_locally(&[charge], ONE, false).unwrap().settle(Outcome::Used(ONE));
    gate.until_totals(|totals| totals.owing == 0).await;
    assert_eq!(gate.quota.totals().owed, 0, "it is on its way");
    server.kill();
    gate.until_degraded().await;
    let _empty = Server::start_on(port, &[]);
    gate.until_totals(|totals| totals.owed > 0 && totals.owing == 0).await;
    assert_eq!(admitted_in_the_end(&gate, per_month(9), 20).await, 9 - 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_holds_units_while_redis_forgets_all_is_counted_as_reserved_and_ends_once() {
    let server = Server::start();
    let store = Arc::<Store>::default();
    let gate = gate(&server.url(), &store).await;
    let charges = [tokens_per_month(100), at_once(1)];
    let held = gate.quota.reserve(&charges, Tokens { input: 30, output: 0 }).await.unwrap();
    server.run(&["FLUSHALL"]);
    assert_eq!(admitted_in_the_end(&gate, at_once(1), 2).await, 0, "the call that runs has kept its place");
    gate.until_totals(|totals| totals.losses == 1).await;
    held.settle(Outcome::Used(Tokens { input: 20, output: 0 }));
    gate.until_totals(|totals| totals.waiting == 0).await;
    assert_eq!(store.written(), 20, "what is written is what it took");
    assert_eq!(admitted_in_the_end(&gate, at_once(1), 1).await, 1);
    assert_eq!(admitted_in_the_end(&gate, tokens_per_month(100), 99).await, 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_tell_keeps_redis_from_being_asked() {
    let server = Server::start();
    let store = Arc::<Store>::default();
    let gate = gate(&server.url(), &store).await;
    assert_eq!(gate.admitted(per_month(5), 5).await, 5);
    store.fails.store(true, Relaxed);
    server.run(&["FLUSHALL"]);
    let cause = async || match &*gate.quota.condition().borrow() {
        Condition::Degraded { cause, .. } => cause.to_string(),
        other => format!("{other:?}"),
    };
    gate.until_degraded().await;
    assert!(cause().await.contains("lost its counters"), "{}", cause().await);
    assert!(matches!(gate.reserve(per_month(5)).await, Err(NotReserved::Unavailable(_))));
    store.fails.store(false, Relaxed);
    assert_eq!(admitted_in_the_end(&gate, per_month(5), 3).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_joins_others_takes_their_counters_as_they_are() {
    let server = Server::start();
    let store = Arc::<Store>::default();
    let first = gate(&server.url(), &store).await;
    assert_eq!(first.admitted(per_month(5), 4).await, 4);
    let second = gate(&server.url(), &store.beside()).await;
    assert_eq!(second.admitted(per_month(5), 4).await, 1);
    let totals = second.quota.totals();
    assert_eq!((totals.losses, totals.restored), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_tells_what_redis_holds_and_writes_nothing() {
    let server = Server::start();
    let (one, other) = (Gate::sound(&server.url()).await, Gate::sound(&server.url()).await);
    let bucket = Shape::Bucket { burst: 9, refill: 1, every_ms: 1_000_000 };
    let bucket = Rule::Metered { amount: Amount::Requests(1), shape: bucket };
    let charges =
        [per_minute(9), per_month(9), at_once(9), tokens_per_month(100), Charge { rule: bucket, ..per_minute(9) }];
    assert!(one.quota.look(&charges).await.unwrap().iter().all(|(standing, used)| standing.reserved + used == 0));
    assert_eq!(server.keys("*:c:*"), [""; 0]);
    let expected = Tokens { input: 30, output: 10 };
    let held = one.quota.reserve(&charges, expected).await.unwrap();
    let more = one.quota.reserve(&charges, expected).await.unwrap();
    more.settle(Outcome::Used(Tokens { input: 80, output: 0 }));
    one.until_totals(|totals| totals.ended == 1).await;
    let numbers = async |gate: &Gate| -> Vec<[u64; 3]> {
        let looked = gate.quota.look(&charges).await.unwrap();
        looked.iter().map(|(standing, used)| [*used, standing.reserved, standing.remaining]).collect()
    };
    assert_eq!(numbers(&one).await, [[2, 1, 7], [2, 1, 7], [1, 1, 8], [120, 40, 0], [2, 1, 7]]);
    assert_eq!(numbers(&other).await, [[2, 0, 7], [2, 0, 7], [1, 1, 8], [120, 0, 0], [2, 0, 7]]);
    let totals = one.quota.totals();
    assert_eq!((totals.debts, totals.debt_units, totals.admitted, totals.overshoot_units), (1, 20, 2, 0));
    let state: Vec<redis::Value> = server.keys("*:c:*").iter().map(|key| server.run(&["DUMP", key])).collect();
    numbers(&one).await;
    let after: Vec<redis::Value> = server.keys("*:c:*").iter().map(|key| server.run(&["DUMP", key])).collect();
    assert_eq!(state.len(), after.len());
    assert!(after.iter().all(|value| state.contains(value)));
    drop(held);
    let mut server = server;
    server.kill();
    one.until_degraded().await;
    assert_eq!(one.quota.look(&charges).await.unwrap_err(), Unavailable::Open.into());
}
