//! One step of keeping the key table in line with the store. The loop that takes it every second stands elsewhere, and
//! so does the time it may take.

use super::key_table::KeyTable;
use crate::ports::store::{Store, StoreError};

/// Reads the store's revision, and its keys if that is another than `last`. The table is as fresh as the moment
/// before the reading began, however long it took. `last` starts as none and belongs to this table alone.
///
/// The revision is read before the keys: a change between the two is found again at the next step, and none is missed.
/// Answers whether the revision is another: then whoever follows something else of the store reads that anew too, and
/// if this fails, once more at the next step.
///
/// # Errors
/// As the store's; the table keeps what it had, and ages.
pub async fn refresh(store: &dyn Store, table: &KeyTable, last: &mut Option<i64>) -> Result<bool, StoreError> {
    let read_at_ms = table.now_ms();
    let revision = store.revision().await?;
    if *last == Some(revision) {
        table.confirm_as_of(read_at_ms);
        return Ok(false);
    }
    table.replace_as_of(read_at_ms, store.keys().await?);
    *last = Some(revision);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Debug,
        sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::{
        clock::{Clock, Hand},
        identity::{key_table::DEFAULT_TRUST, pepper::Pepper},
        ports::{
            budgets::{BudgetChange, StoredBudget},
            keys::{KeyRecord, KeyState, Scope, UserState},
            limits::{LimitChange, Limits},
            store::{
                Answer, Declared, NewKey, NewUser, Rotated, Rotation, StoredBackend, StoredKey, StoredUser, UserChanges,
            },
        },
    };

    /// A store with as many keys as its revision says, in which every reading takes a second.
    #[derive(Debug)]
    struct Fake {
        revision: AtomicI64,
        keys_read: AtomicU64,
        is_broken: AtomicBool,
        hand: Hand,
    }

    impl Fake {
        fn answer<'a, T: Send + 'a>(&'a self, value: T) -> Answer<'a, T> {
            self.hand.advance(Duration::from_secs(1));
            let is_broken = self.is_broken.load(Ordering::Relaxed);
            Box::pin(async move { if is_broken { Err(StoreError::Refused("broken".into())) } else { Ok(value) } })
        }
    }

    impl Store for Fake {
        fn revision(&self) -> Answer<'_, i64> {
            self.answer(self.revision.load(Ordering::Relaxed))
        }

        fn keys(&self) -> Answer<'_, Vec<StoredKey>> {
            self.keys_read.fetch_add(1, Ordering::Relaxed);
            let key = |number: i64| StoredKey {
                record: KeyRecord {
                    id: format!("k{number}").into(),
                    name: "laptop".into(),
                    user: None,
                    state: KeyState::Active,
                    expires_at_ms: None,
                    limits: Limits::default(),
                    scope: Scope::AllModels,
                    may_manage: false,
                    attributes: Box::default(),
                    created_at_ms: 0,
                },
                hash: [0; 32],
                former: None,
            };
            self.answer((0..self.revision.load(Ordering::Relaxed)).map(key).collect())
        }

        fn key<'a>(&'a self, key: &'a str) -> Answer<'a, StoredKey> {
            unused(key)
        }

        fn create_key(&self, key: NewKey) -> Answer<'_, ()> {
            unused(key)
        }

        fn set_key_state<'a>(&'a self, key: &'a str, state: KeyState) -> Answer<'a, String> {
            unused((key, state))
        }

        fn change_key_limits<'a>(&'a self, key: &'a str, changes: Vec<LimitChange>) -> Answer<'a, String> {
            unused((key, changes))
        }

        fn rotate_key(&self, rotation: Rotation) -> Answer<'_, Rotated> {
            unused(rotation)
        }

        fn users(&self) -> Answer<'_, Vec<StoredUser>> {
            unused(())
        }

        fn create_user(&self, user: NewUser) -> Answer<'_, ()> {
            unused(user)
        }

        fn set_user_state<'a>(&'a self, user: &'a str, state: UserState) -> Answer<'a, ()> {
            unused((user, state))
        }

        fn change_user<'a>(&'a self, user: &'a str, changes: UserChanges) -> Answer<'a, ()> {
            unused((user, changes))
        }

        fn remove_user<'a>(&'a self, user: &'a str) -> Answer<'a, ()> {
            unused(user)
        }

        fn budgets(&self, now_unix_us: u64) -> Answer<'_, Vec<StoredBudget>> {
            unused(now_unix_us)
        }

        fn add_to_budgets<'a>(&'a self, changes: &'a [BudgetChange], _now_unix_us: u64) -> Answer<'a, ()> {
            unused(changes)
        }

        fn declared_backends(&self) -> Answer<'_, Declared> {
            unused(())
        }

        fn add_backend(&self, backend: StoredBackend) -> Answer<'_, ()> {
            unused(backend)
        }

        fn remove_backend<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
            unused(name)
        }

        fn set_backend_drained<'a>(
            &'a self,
            name: &'a str,
            is_drained: bool,
            configured: &'a [String],
        ) -> Answer<'a, ()> {
            unused((name, is_drained, configured))
        }
    }

    /// What following keys never asks for.
    fn unused<'a, T>(asked: impl Debug) -> Answer<'a, T> {
        panic!("the key poll asked for {asked:?}")
    }

    fn fake(revision: i64) -> (Fake, KeyTable) {
        let (clock, hand) = Clock::manual(0);
        let pepper = Pepper::load_or_create(tempfile::tempdir().unwrap().path()).unwrap();
        let store = Fake { revision: revision.into(), keys_read: 0.into(), is_broken: false.into(), hand };
        (store, KeyTable::new(pepper, clock, DEFAULT_TRUST))
    }

    #[tokio::test]
    async fn keys_are_read_at_first_and_after_a_change_only() {
        let (store, table) = fake(0);
        let mut last = None;
        let mut step = async |revision: i64, keys_read: u64| {
            store.revision.store(revision, Ordering::Relaxed);
            let has_changed = last != Some(revision);
            assert_eq!(refresh(&store, &table, &mut last).await.unwrap(), has_changed);
            assert_eq!(
                (table.len(), store.keys_read.load(Ordering::Relaxed)),
                (usize::try_from(revision).unwrap(), keys_read)
            );
        };
        step(0, 1).await;
        step(0, 1).await;
        step(2, 2).await;
        step(2, 2).await;
        // A restored backup has a lower revision.
        step(1, 3).await;
    }

    #[tokio::test]
    async fn the_table_is_as_fresh_as_the_moment_before_the_reading() {
        let (store, table) = fake(1);
        let mut last = None;
        refresh(&store, &table, &mut last).await.unwrap();
        assert_eq!(table.age(), Some(Duration::from_secs(2)), "revision and keys took a second each");
        store.hand.advance(Duration::from_secs(30));
        refresh(&store, &table, &mut last).await.unwrap();
        assert_eq!(table.age(), Some(Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn a_store_that_fails_leaves_the_table_to_age() {
        let (store, table) = fake(1);
        let mut last = None;
        refresh(&store, &table, &mut last).await.unwrap();
        store.is_broken.store(true, Ordering::Relaxed);
        store.revision.store(2, Ordering::Relaxed);
        store.hand.advance(DEFAULT_TRUST);
        refresh(&store, &table, &mut last).await.unwrap_err();
        assert_eq!((table.len(), last, table.is_fresh()), (1, Some(1), false));
        store.is_broken.store(false, Ordering::Relaxed);
        refresh(&store, &table, &mut last).await.unwrap();
        assert_eq!((table.len(), last, table.is_fresh()), (2, Some(2), true));
    }
}
