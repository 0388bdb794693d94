//! Limits of keys and users, and what an older store says of them.

use std::os::unix::fs::PermissionsExt;

use sqlx::{Connection, SqliteConnection, migrate::Migrate, sqlite::SqliteConnectOptions};

use super::{change, key, store, tamper};
use crate::{
    ports::{
        keys::KeyState,
        limits::{LARGEST_LIMIT, LimitChange, LimitName, Limits},
        store::{NewKey, NewUser, Store, StoreError, UserChanges},
    },
    store::SqliteStore,
};

const MODEL: Option<&str> = Some("llama3:8b");

fn applied(changes: &[LimitChange]) -> Limits {
    let mut limits = Limits::default();
    changes.iter().for_each(|change| limits.apply(change));
    limits
}

fn limited(limits: Vec<LimitChange>) -> UserChanges {
    UserChanges { limits, ..UserChanges::default() }
}

/// All names, for all models and for one.
fn full() -> Vec<LimitChange> {
    let names = LimitName::ALL.into_iter().zip(0..);
    names.flat_map(|(name, limit)| [change(None, name, Some(limit)), change(MODEL, name, Some(limit + 10))]).collect()
}

async fn of_key(store: &SqliteStore, id: &str) -> Limits {
    let one = store.key(id).await.unwrap().record.limits;
    let keys = store.keys().await.unwrap();
    assert_eq!(keys.iter().find(|key| *key.record.id == *id).unwrap().record.limits, one, "both ways to read agree");
    one
}

async fn of_user(store: &SqliteStore, name: &str) -> Limits {
    store.users().await.unwrap().into_iter().find(|stored| *stored.user.name == *name).unwrap().user.limits
}

#[tokio::test]
async fn limits_come_back_as_they_went_in_each_to_its_holder() {
    let (_folder, path, store) = store().await;
    let few = vec![change(None, LimitName::Concurrent, Some(LARGEST_LIMIT))];
    let ann = NewUser { name: "ann".to_owned(), attributes: Vec::new(), limits: few.clone(), created_at_ms: 500 };
    store.create_user(ann).await.unwrap();
    store.create_key(NewKey { limits: full(), ..key("k1", "laptop", Some("ann")) }).await.unwrap();
    store.create_key(key("k2", "phone", Some("ann"))).await.unwrap();
    store.create_key(key("k3", "phone", None)).await.unwrap();
    store.close().await;

    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(of_key(&store, "k1").await, applied(&full()));
    assert_eq!((of_key(&store, "k2").await, of_key(&store, "k3").await), (Limits::default(), Limits::default()));
    assert_eq!(of_user(&store, "ann").await, applied(&few));
    for key in store.keys().await.unwrap().iter().chain([&store.key("k1").await.unwrap()]) {
        let users = key.record.user.as_ref().map(|user| user.limits.clone());
        assert_eq!(users, key.record.user_name().map(|_| applied(&few)), "{key:?}");
    }
}

#[tokio::test]
async fn a_limit_is_changed_alone_and_only_a_change_raises_the_revision() {
    let (_folder, _path, store) = store().await;
    store.create_key(NewKey { limits: full(), ..key("k1", "laptop", None) }).await.unwrap();
    let changes = vec![
        change(None, LimitName::Concurrent, None),
        change(None, LimitName::TokensPerDay, Some(99)),
        change(MODEL, LimitName::RequestsPerMinute, None),
        change(Some("other:latest"), LimitName::TokensPerMonth, Some(7)),
    ];
    let expected = applied(&[full(), changes.clone()].concat());
    let before = store.revision().await.unwrap();
    assert_eq!(store.change_key_limits("laptop", changes.clone()).await.unwrap(), "k1");
    assert_eq!(of_key(&store, "k1").await, expected);
    let after = store.revision().await.unwrap();
    assert!(after > before);
    store.change_key_limits("k1", changes).await.unwrap();
    store.change_key_limits("k1", vec![change(Some("never:there"), LimitName::Concurrent, None)]).await.unwrap();
    assert_eq!((store.revision().await.unwrap(), of_key(&store, "k1").await), (after, expected));
}

#[tokio::test]
async fn attributes_and_limits_of_a_user_change_together_or_not_at_all() {
    let (_folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
    let staff = vec![("groups".to_owned(), vec!["staff".to_owned()])];
    let limits = vec![change(None, LimitName::TokensPerMinute, Some(5))];
    store.change_user("ann", UserChanges { attributes: staff, limits: limits.clone() }).await.unwrap();
    let revision = store.revision().await.unwrap();
    let bad = vec![("n".repeat(65), vec!["x".to_owned()])];
    let more = vec![change(None, LimitName::TokensPerMinute, Some(6))];
    let refused = store.change_user("ann", UserChanges { attributes: bad, limits: more }).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!((of_user(&store, "ann").await, store.revision().await.unwrap()), (applied(&limits), revision));
    store.change_user("ann", limited(vec![change(None, LimitName::TokensPerMinute, None)])).await.unwrap();
    assert_eq!(of_user(&store, "ann").await, Limits::default());
    assert_eq!(store.users().await.unwrap()[0].user.attributes.len(), 1, "attributes stay");
}

#[tokio::test]
async fn what_is_revoked_unknown_too_large_or_too_much_is_refused() {
    let (_folder, _path, store) = store().await;
    let one = || vec![change(None, LimitName::Concurrent, Some(1))];
    assert!(matches!(store.change_key_limits("k1", one()).await, Err(StoreError::NoSuchKey { .. })));
    assert!(matches!(store.change_user("eve", limited(one())).await, Err(StoreError::NoSuchUser { .. })));
    let huge = vec![change(None, LimitName::Concurrent, Some(LARGEST_LIMIT + 1))];
    let made = store.create_key(NewKey { limits: huge.clone(), ..key("k1", "laptop", Some("ann")) }).await;
    assert!(matches!(made, Err(StoreError::Refused(_))), "{made:?}");
    assert!(store.keys().await.unwrap().is_empty() && store.users().await.unwrap().is_empty());

    store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
    let models = |count: usize| -> Vec<LimitChange> {
        (0..count).map(|number| change(Some(&format!("m{number}:latest")), LimitName::Concurrent, Some(1))).collect()
    };
    assert!(matches!(store.change_key_limits("k1", huge.clone()).await, Err(StoreError::Refused(_))));
    assert!(matches!(store.change_key_limits("k1", models(65)).await, Err(StoreError::Refused(_))));
    assert!(matches!(store.change_user("ann", limited(models(65))).await, Err(StoreError::Refused(_))));
    assert_eq!((of_key(&store, "k1").await, of_user(&store, "ann").await), (Limits::default(), Limits::default()));
    store.change_key_limits("k1", models(64)).await.unwrap();
    store.change_user("ann", limited(models(64))).await.unwrap();
    let another = vec![change(MODEL, LimitName::Concurrent, Some(1))];
    assert!(matches!(store.change_key_limits("k1", another).await, Err(StoreError::Refused(_))));

    store.set_key_state("k1", KeyState::Revoked).await.unwrap();
    assert!(matches!(store.change_key_limits("k1", one()).await, Err(StoreError::Revoked { key }) if key == "k1"));
}

#[tokio::test]
async fn a_removed_users_limits_go_with_them() {
    let (_folder, path, store) = store().await;
    let ann = || NewUser { name: "ann".to_owned(), attributes: Vec::new(), limits: full(), created_at_ms: 500 };
    store.create_user(ann()).await.unwrap();
    store.remove_user("ann").await.unwrap();
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    let (left,): (i64,) = sqlx::query_as("SELECT count(*) FROM limits").fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 0);
    store.create_user(NewUser { limits: Vec::new(), ..ann() }).await.unwrap();
    assert_eq!(of_user(&store, "ann").await, Limits::default());
}

#[tokio::test]
async fn a_limit_that_this_version_doesnt_know_is_an_error_and_never_no_limit() {
    let check = async |statement: &'static str, named: &str| {
        let (_folder, path, store) = store().await;
        store.create_key(NewKey { limits: full(), ..key("k1", "laptop", None) }).await.unwrap();
        tamper(&path, statement).await;
        let error = store.keys().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreadable { .. }) && error.to_string().contains(named), "{error:?}");
    };
    check("UPDATE limits SET name = 'cost-per-day' WHERE name = 'concurrent'", "\"cost-per-day\" of key \"k1\"").await;
    check("UPDATE limits SET holder = 'group' WHERE name = 'concurrent'", "\"group\"").await;
}

/// The tables as they were before limits had one of their own.
#[tokio::test]
async fn an_older_stores_requests_per_minute_keep_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut older = SqliteConnection::connect_with(&options).await.unwrap();
    let migrations = sqlx::migrate!("migrations/sqlite");
    older.ensure_migrations_table(&migrations.table_name).await.unwrap();
    for migration in migrations.iter().filter(|migration| migration.version < 4) {
        older.apply(&migrations.table_name, migration).await.unwrap();
    }
    let insert = "INSERT INTO keys (id, name, hash, state, requests_per_minute, attributes, created_at) \
                  VALUES ('k1', 'a', zeroblob(32), 'active', 60, '[]', 1), \
                         ('k2', 'b', zeroblob(32), 'active', NULL, '[]', 2), \
                         ('k3', 'c', zeroblob(32), 'disabled', 0, '[]', 3), \
                         ('k4', 'd', zeroblob(32), 'active', 9223372036854775807, '[]', 4)";
    sqlx::query(insert).execute(&mut older).await.unwrap();
    older.close().await.unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();

    let store = SqliteStore::open(&path).await.unwrap();
    let read: Vec<Option<u64>> = store
        .keys()
        .await
        .unwrap()
        .iter()
        .map(|key| key.record.limits.overall().of(LimitName::RequestsPerMinute))
        .collect();
    assert_eq!(read, [Some(60), None, Some(0), Some(LARGEST_LIMIT)]);
    store.change_key_limits("k1", vec![change(None, LimitName::RequestsPerMinute, None)]).await.unwrap();
    assert_eq!(of_key(&store, "k1").await, Limits::default());
}
