//! What every store must do, tried on SQLite.

use std::{os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

mod backends;
mod budgets;
mod limits;
mod rotation;
mod users;

use super::SqliteStore;
use crate::ports::{
    keys::{KeyState, Scope},
    limits::{LimitChange, LimitName, Limits},
    store::{NewAttributes, NewKey, Rotation, Store, StoreError, UserChanges},
};

/// A folder, a path in it, and a store opened there.
async fn store() -> (TempDir, PathBuf, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let store = SqliteStore::open(&path).await.unwrap();
    (folder, path, store)
}

/// A key as plain as can be.
fn key(id: &str, name: &str, user: Option<&str>) -> NewKey {
    NewKey {
        id: id.to_owned(),
        name: name.to_owned(),
        user: user.map(str::to_owned),
        limits: Vec::new(),
        scope: Scope::AllModels,
        may_manage: false,
        attributes: Vec::new(),
        expires_at_ms: None,
        created_at_ms: 1_000,
        hash: [7; 32],
    }
}

fn change(model: Option<&str>, name: LimitName, limit: Option<u64>) -> LimitChange {
    LimitChange { model: model.map(str::to_owned), name, limit }
}

async fn ids(store: &SqliteStore) -> Vec<String> {
    store.keys().await.unwrap().iter().map(|key| key.record.id.to_string()).collect()
}

async fn state(store: &SqliteStore, id: &str) -> KeyState {
    store.keys().await.unwrap().iter().find(|key| &*key.record.id == id).unwrap().record.state
}

/// Runs one statement past the store, as another program could.
async fn tamper(path: &PathBuf, statement: &'static str) {
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn every_field_comes_back_as_it_went_in_also_after_a_restart() {
    let (_folder, path, store) = store().await;
    let full = NewKey {
        limits: vec![change(None, LimitName::RequestsPerMinute, Some(60))],
        scope: Scope::Models(["llama3:latest".into(), "qwen:7b".into()].into()),
        may_manage: true,
        attributes: vec![("groups".into(), vec!["b".into(), "a'\"\\".into()]), ("empty".into(), vec![])],
        expires_at_ms: Some(5_000),
        hash: std::array::from_fn(|place| u8::try_from(place).unwrap()),
        ..key("k1", "laptop", Some("ann"))
    };
    let none =
        NewKey { scope: Scope::Models(Box::default()), created_at_ms: 2_000, ..key("k2", "ünnamed 🔑", None) };
    store.create_key(full.clone()).await.unwrap();
    store.create_key(none.clone()).await.unwrap();
    store.close().await;

    let stored = SqliteStore::open(&path).await.unwrap().keys().await.unwrap();
    assert_eq!(stored.len(), 2);
    for (stored, expected) in stored.iter().zip([full, none]) {
        let record = &stored.record;
        assert_eq!(*record.id, *expected.id);
        assert_eq!(*record.name, *expected.name);
        assert_eq!(record.user_name(), expected.user.as_deref());
        assert_eq!(record.state, KeyState::Active);
        assert_eq!(record.expires_at_ms, expected.expires_at_ms);
        let mut limits = Limits::default();
        expected.limits.iter().for_each(|change| limits.apply(change));
        assert_eq!(record.limits, limits);
        assert_eq!(record.scope, expected.scope);
        assert_eq!((record.may_manage, stored.former), (expected.may_manage, None));
        assert_eq!(record.created_at_ms, expected.created_at_ms);
        assert_eq!(stored.hash, expected.hash);
        let attributes: Vec<(String, Vec<String>)> = record
            .attributes
            .iter()
            .map(|(name, values)| (name.to_string(), values.iter().map(ToString::to_string).collect()))
            .collect();
        assert_eq!(attributes, expected.attributes);
    }
}

#[tokio::test]
async fn numbers_that_the_database_cant_hold_are_refused() {
    let (_folder, _path, store) = store().await;
    let endless = NewKey { expires_at_ms: Some(u64::MAX), ..key("k1", "a", None) };
    assert!(matches!(store.create_key(endless).await, Err(StoreError::Refused(_))));
    assert_eq!(store.revision().await.unwrap(), 0);
}

#[tokio::test]
async fn attributes_beyond_their_bounds_are_refused() {
    let (_folder, _path, store) = store().await;
    let some = |count: usize| -> Vec<String> { (0..count).map(|number| format!("n{number}")).collect() };
    let named = |name: &str, values: Vec<String>| vec![(name.to_owned(), values)];
    let check = async |attributes: NewAttributes, is_good: bool| {
        let shown = format!("{attributes:?}");
        let made = store.create_key(NewKey { attributes, ..key("k1", "laptop", None) }).await;
        assert_eq!(made.is_ok(), is_good, "{made:?} for {shown}");
        assert!(is_good || matches!(made, Err(StoreError::Refused(_))), "{made:?}");
    };
    check(some(65).into_iter().map(|name| (name, some(1))).collect(), false).await;
    check(named("many", some(65)), false).await;
    check(named("", some(1)), false).await;
    check(named("a\nb", some(1)), false).await;
    check(named(&"n".repeat(65), some(1)), false).await;
    check(named("long", vec!["v".repeat(1025)]), false).await;
    check(named("tab", vec!["\t".to_owned()]), false).await;
    let full = named(&"n".repeat(64), vec!["é".repeat(1024); 64]).into_iter();
    check(full.chain(some(63).into_iter().map(|name| (name, some(1)))).collect(), true).await;
}

#[tokio::test]
async fn two_stores_on_one_file_see_each_others_changes_by_the_revision() {
    let (_folder, path, one) = store().await;
    let other = SqliteStore::open(&path).await.unwrap();
    let before = other.revision().await.unwrap();

    one.create_key(key("k1", "laptop", None)).await.unwrap();
    let made = other.revision().await.unwrap();
    assert!(made > before);
    assert_eq!(ids(&other).await, ["k1"]);

    other.set_key_state("k1", KeyState::Disabled).await.unwrap();
    assert!(one.revision().await.unwrap() > made);
    assert_eq!(state(&one, "k1").await, KeyState::Disabled);
}

#[tokio::test]
async fn what_changes_nothing_leaves_the_revision() {
    let (_folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
    let before = store.revision().await.unwrap();
    store.set_key_state("k1", KeyState::Active).await.unwrap();
    store.create_key(key("k2", "laptop", Some("ann"))).await.unwrap_err();
    assert_eq!(store.revision().await.unwrap(), before);
}

#[tokio::test]
async fn a_user_has_one_live_key_of_a_name_and_keys_without_a_user_count_as_one_users() {
    let (_folder, _path, store) = store().await;
    for user in [None, Some("ann"), Some("bob")] {
        let id = format!("k-{}", user.unwrap_or("none"));
        store.create_key(key(&id, "laptop", user)).await.unwrap();
        let again = store.create_key(key("again", "laptop", user)).await;
        assert!(matches!(again, Err(StoreError::NameTaken { name }) if name == "laptop"), "{user:?}");
        store.set_key_state(&id, KeyState::Disabled).await.unwrap();
        store.create_key(key("again", "laptop", user)).await.unwrap_err();
        store.set_key_state(&id, KeyState::Revoked).await.unwrap();
        store.create_key(key(&format!("{id}-2"), "laptop", user)).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_key_leaves_no_user_and_an_id_is_used_once() {
    let (_folder, path, store) = store().await;
    store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
    let twin = store.create_key(key("k1", "other", Some("eve"))).await;
    assert!(matches!(twin, Err(StoreError::Database(_))));
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    let names: Vec<(String,)> = sqlx::query_as("SELECT name FROM users").fetch_all(&mut connection).await.unwrap();
    assert_eq!(names, [("ann".to_owned(),)]);
}

#[tokio::test]
async fn a_key_is_found_by_its_id_or_by_a_name_that_only_one_has() {
    let (_folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
    assert_eq!(store.set_key_state("laptop", KeyState::Disabled).await.unwrap(), "k1");
    store.create_key(key("k2", "laptop", Some("bob"))).await.unwrap();
    let by_name = store.set_key_state("laptop", KeyState::Active).await;
    assert!(matches!(by_name, Err(StoreError::Ambiguous { key }) if key == "laptop"));
    assert_eq!(store.set_key_state("k2", KeyState::Revoked).await.unwrap(), "k2");
    assert_eq!(store.set_key_state("laptop", KeyState::Active).await.unwrap(), "k1", "a live key hides revoked ones");
    let unknown = store.set_key_state("phone", KeyState::Active).await;
    assert!(matches!(unknown, Err(StoreError::NoSuchKey { key }) if key == "phone"));
}

#[tokio::test]
async fn an_id_comes_before_a_name_that_looks_like_it() {
    let (_folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", None)).await.unwrap();
    store.create_key(key("a0", "k1", None)).await.unwrap();
    assert_eq!(store.set_key_state("k1", KeyState::Disabled).await.unwrap(), "k1");
}

#[tokio::test]
async fn revoked_is_for_good() {
    let (_folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", None)).await.unwrap();
    store.set_key_state("k1", KeyState::Revoked).await.unwrap();
    for word in ["k1", "laptop"] {
        for wanted in [KeyState::Active, KeyState::Disabled] {
            let answer = store.set_key_state(word, wanted).await;
            assert!(matches!(answer, Err(StoreError::Revoked { key }) if key == word), "{word} {wanted:?}");
        }
        assert_eq!(store.set_key_state(word, KeyState::Revoked).await.unwrap(), "k1", "revoking twice is no error");
    }
    assert_eq!(state(&store, "k1").await, KeyState::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_writers_through_two_stores_lose_nothing() {
    let (_folder, path, one) = store().await;
    let stores = [Arc::new(one), Arc::new(SqliteStore::open(&path).await.unwrap())];
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..20_u8 {
        let store = Arc::clone(&stores[usize::from(number % 2)]);
        writers.spawn(async move {
            let id = format!("k{number:02}");
            store.create_key(key(&id, &format!("n{number}"), Some("ann"))).await?;
            let rotation = Rotation { id: id.clone(), hash: [number; 32], now_ms: 0, former_until_ms: Some(9) };
            store.rotate_key(rotation).await?;
            let attributes = vec![(id.clone(), vec!["x".to_owned()])];
            store.change_user("ann", UserChanges { attributes, ..UserChanges::default() }).await?;
            store.keys().await?;
            store.set_key_state(&id, KeyState::Revoked).await
        });
    }
    while let Some(answer) = writers.join_next().await {
        answer.unwrap().unwrap();
    }
    let keys = stores[1].keys().await.unwrap();
    assert_eq!(ids(&stores[0]).await.len(), 20);
    for (number, key) in keys.iter().enumerate() {
        let former = key.former.map(|former| former.hash);
        assert_eq!((usize::from(key.hash[0]), former, key.record.state), (number, Some([7; 32]), KeyState::Revoked));
    }
    let ann = stores[0].users().await.unwrap().remove(0).user;
    assert_eq!(ann.attributes.len(), 20, "no change of her attributes undid another");
    assert_eq!(stores[1].revision().await.unwrap(), 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_may_be_opened_together_on_a_file_that_is_not_there_yet() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let mut openers = tokio::task::JoinSet::new();
        for number in 0..6 {
            let path = folder.path().join("state/tollgate.db");
            openers.spawn(async move {
                let store = SqliteStore::open(&path).await?;
                store.create_key(key(&format!("k{number}"), &format!("n{number}"), None)).await?;
                store.close().await;
                Ok::<_, StoreError>(())
            });
        }
        while let Some(answer) = openers.join_next().await {
            answer.unwrap().unwrap();
        }
        let store = SqliteStore::open(&folder.path().join("state/tollgate.db")).await.unwrap();
        assert_eq!(ids(&store).await.len(), 6);
    }
}

#[tokio::test]
async fn what_this_version_cant_read_is_an_error_and_never_a_default() {
    let check = async |statement: &'static str, named: &str| {
        let (_folder, path, store) = store().await;
        store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
        tamper(&path, statement).await;
        let error = store.keys().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreadable { .. }) && error.to_string().contains(named), "{error:?}");
        let one = store.key("k1").await;
        assert!(matches!(one, Err(StoreError::Unreadable { .. })), "{one:?}");
    };
    check("UPDATE keys SET state = 'paused'", "the state \"paused\" of key \"k1\"").await;
    check("UPDATE keys SET models = '{}'", "the models of key \"k1\"").await;
    check("UPDATE keys SET attributes = 'null'", "the attributes of key \"k1\"").await;
    check("UPDATE keys SET expires_at = -1", "-1 as expires_at of key \"k1\"").await;
    check("UPDATE users SET state = 'paused'", "the state \"paused\" of user \"ann\"").await;
    check("UPDATE users SET attributes = '3'", "the attributes of user \"ann\"").await;
    check("UPDATE keys SET former_hash = zeroblob(32), former_until = -1", "-1 as former_until of key \"k1\"").await;
}

#[tokio::test]
async fn an_unknown_state_is_never_overwritten() {
    let (_folder, path, store) = store().await;
    store.create_key(key("k1", "laptop", None)).await.unwrap();
    tamper(&path, "UPDATE keys SET state = 'paused'").await;
    assert!(matches!(store.set_key_state("k1", KeyState::Active).await, Err(StoreError::Unreadable { .. })));
}

#[tokio::test]
async fn tables_of_a_newer_version_are_refused_by_name() {
    let (_folder, path, store) = store().await;
    store.close().await;
    tamper(
        &path,
        "INSERT INTO _sqlx_migrations SELECT 99, 'later', installed_on, success, checksum, 0 FROM _sqlx_migrations \
         WHERE version = 1",
    )
    .await;
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreadable { what } if what == "tables of version 99"), "{error:?}");
}

#[tokio::test]
async fn models_written_out_of_order_are_still_in_scope() {
    let (_folder, path, store) = store().await;
    store.create_key(key("k1", "laptop", None)).await.unwrap();
    tamper(&path, r#"UPDATE keys SET models = '["c", "a", "b", "a"]'"#).await;
    let scope = store.keys().await.unwrap().remove(0).record.scope;
    assert_eq!(scope, Scope::Models(["a".into(), "b".into(), "c".into()].into()));
}

#[tokio::test]
async fn the_files_beside_the_database_are_its_owners_alone_and_go_when_the_store_is_closed() {
    let (folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", None)).await.unwrap();
    let modes = || -> Vec<(String, u32)> {
        let mut found: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().mode() & 0o777))
            .collect();
        found.sort();
        found
    };
    let expected = ["tollgate.db", "tollgate.db-shm", "tollgate.db-wal"].map(|name| (name.to_owned(), 0o600));
    assert_eq!(modes(), expected);
    store.close().await;
    assert_eq!(modes(), [("tollgate.db".to_owned(), 0o600)]);
    assert!(matches!(store.revision().await, Err(StoreError::Database(_))), "a closed store answers nothing");
}

#[tokio::test]
async fn debug_shows_no_hash() {
    let (_folder, _path, store) = store().await;
    store.create_key(NewKey { hash: [231; 32], ..key("k1", "laptop", None) }).await.unwrap();
    let shown = format!("{store:?} {:?}", store.keys().await.unwrap());
    assert!(!shown.contains("231"), "{shown}");
}
