//! What is used of budgets: sums of what processes say.

use std::sync::Arc;

use super::store;
use crate::{
    ports::{
        budgets::{BudgetChange, BudgetName, StoredBudget},
        limits::LARGEST_LIMIT,
        store::Store,
    },
    store::SqliteStore,
};

fn name(partition: &str) -> BudgetName {
    BudgetName {
        policy: "rate-limit".into(),
        limit: "tokens-per-day".into(),
        partition: partition.into(),
        unit: "tokens".into(),
        period: "day".into(),
    }
}

fn change(partition: &str, period_end_us: u64, units: i64) -> BudgetChange {
    BudgetChange { name: Arc::new(name(partition)), period_end_us, units }
}

async fn used(store: &SqliteStore, now_us: u64) -> Vec<(String, u64, u64)> {
    let budgets = store.budgets(now_us).await.unwrap();
    let row = |StoredBudget { name, period_end_us, used }: StoredBudget| (name.partition.into(), period_end_us, used);
    let mut rows: Vec<_> = budgets.into_iter().map(row).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn changes_of_two_processes_add_up_and_leave_the_revision() {
    let (_folder, path, one) = store().await;
    let other = SqliteStore::open(&path).await.unwrap();
    let revision = one.revision().await.unwrap();
    one.add_to_budgets(&[change("k1", 100, 7), change("k2", 100, 1)], 50).await.unwrap();
    other.add_to_budgets(&[change("k1", 100, 5)], 50).await.unwrap();
    one.add_to_budgets(&[change("k1", 100, -3)], 50).await.unwrap();
    let expected = [("k1".to_owned(), 100, 9), ("k2".to_owned(), 100, 1)];
    assert_eq!(used(&other, 50).await, expected);
    assert_eq!(one.revision().await.unwrap(), revision);
    let stored = one.budgets(50).await.unwrap();
    assert_eq!(stored.first().map(|stored| &stored.name), Some(&name("k1")));
}

#[tokio::test]
async fn a_later_period_begins_anew_an_earlier_one_is_too_late_and_past_ones_go() {
    let (_folder, _path, store) = store().await;
    store.add_to_budgets(&[change("k1", 100, 7), change("k2", 100, 8)], 50).await.unwrap();
    store.add_to_budgets(&[change("k1", 200, 2)], 50).await.unwrap();
    store.add_to_budgets(&[change("k1", 100, 50)], 50).await.unwrap();
    assert_eq!(used(&store, 50).await, [("k1".to_owned(), 200, 2), ("k2".to_owned(), 100, 8)]);
    assert_eq!(used(&store, 100).await, [("k1".to_owned(), 200, 2)], "one that is over is not told");
    store.add_to_budgets(&[], 100).await.unwrap();
    assert_eq!(used(&store, 50).await, [("k1".to_owned(), 200, 2)], "and goes with the next change");
}

#[tokio::test]
async fn sums_stay_within_what_a_limit_can_be() {
    let (_folder, _path, store) = store().await;
    let largest = i64::try_from(LARGEST_LIMIT).unwrap();
    store.add_to_budgets(&[change("k1", 100, largest), change("k2", 100, -5)], 50).await.unwrap();
    store.add_to_budgets(&[change("k1", 100, largest), change("k2", 100, -5)], 50).await.unwrap();
    assert_eq!(used(&store, 50).await, [("k1".to_owned(), 100, LARGEST_LIMIT), ("k2".to_owned(), 100, 0)]);
}
