//! Users: who owns keys, and what that does to them.

use super::{ids, key, state, store, tamper};
use crate::{
    ports::{
        keys::{Attributes, KeyState, Standing, UserState},
        store::{NewAttributes, NewKey, NewUser, Store, StoreError, UserChanges},
    },
    store::SqliteStore,
};

fn user(name: &str) -> NewUser {
    NewUser { name: name.to_owned(), attributes: NewAttributes::new(), limits: Vec::new(), created_at_ms: 500 }
}

fn said(attributes: NewAttributes) -> UserChanges {
    UserChanges { attributes, ..UserChanges::default() }
}

fn values(name: &str, values: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
}

fn stored(attributes: &[(&str, &[&str])]) -> Attributes {
    attributes
        .iter()
        .map(|(name, values)| ((*name).into(), values.iter().map(|value| (*value).into()).collect()))
        .collect()
}

async fn names(store: &SqliteStore) -> Vec<(String, u64)> {
    store.users().await.unwrap().iter().map(|stored| (stored.user.name.to_string(), stored.live_keys)).collect()
}

#[tokio::test]
async fn a_user_comes_back_as_they_were_made_also_by_their_keys() {
    let (_folder, path, store) = store().await;
    let attributes = vec![values("groups", &["staff", "night shift"]), values("team", &["é"])];
    store.create_user(NewUser { attributes, ..user("ann") }).await.unwrap();
    store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
    store.create_key(key("k2", "phone", Some("ann"))).await.unwrap();
    store.create_key(key("k3", "phone", Some("bob"))).await.unwrap();
    store.close().await;

    let store = SqliteStore::open(&path).await.unwrap();
    let users = store.users().await.unwrap();
    assert_eq!(names(&store).await, [("ann".to_owned(), 2), ("bob".to_owned(), 1)]);
    let ann = &users[0].user;
    assert_eq!((ann.state, ann.created_at_ms), (UserState::Active, 500));
    assert_eq!(ann.attributes, stored(&[("groups", &["staff", "night shift"]), ("team", &["é"])]));
    assert_eq!(users[1].user.created_at_ms, 1_000, "a key's creation made bob");
    let keys = store.keys().await.unwrap();
    assert!(keys[..2].iter().all(|key| key.record.user.as_deref() == Some(ann)));
    assert_eq!(keys[2].record.user_name(), Some("bob"));
    assert_eq!(store.key("laptop").await.unwrap().record.user.as_deref(), Some(ann));
}

#[tokio::test]
async fn a_name_is_one_users() {
    let (_folder, _path, store) = store().await;
    store.create_user(user("ann")).await.unwrap();
    let revision = store.revision().await.unwrap();
    let again = store.create_user(user("ann")).await;
    assert!(matches!(again, Err(StoreError::UserTaken { name }) if name == "ann"));
    assert_eq!(store.revision().await.unwrap(), revision);
    store.create_user(user("Ann")).await.unwrap();
}

#[tokio::test]
async fn disabling_a_user_disables_their_keys_until_they_are_enabled() {
    let (_folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", Some("ann"))).await.unwrap();
    store.create_key(key("k2", "laptop", Some("bob"))).await.unwrap();
    let standings =
        async || -> Vec<Standing> { store.keys().await.unwrap().iter().map(|key| key.record.standing(0)).collect() };
    store.set_user_state("ann", UserState::Disabled).await.unwrap();
    assert_eq!(standings().await, [Standing::Disabled, Standing::Active]);
    assert_eq!(state(&store, "k1").await, KeyState::Active, "the key itself is as it was");

    let revision = store.revision().await.unwrap();
    store.set_user_state("ann", UserState::Disabled).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision, "what changes nothing leaves the revision");
    let refused = store.create_key(key("k3", "phone", Some("ann"))).await;
    assert!(matches!(refused, Err(StoreError::UserDisabled { user }) if user == "ann"));
    assert_eq!(ids(&store).await, ["k1", "k2"]);

    store.set_user_state("ann", UserState::Active).await.unwrap();
    assert_eq!(standings().await, [Standing::Active, Standing::Active]);
    store.create_key(key("k3", "phone", Some("ann"))).await.unwrap();
}

#[tokio::test]
async fn attributes_are_put_in_place_name_by_name() {
    let (_folder, _path, store) = store().await;
    store.create_user(user("ann")).await.unwrap();
    let check = async |changes: NewAttributes, expected: &[(&str, &[&str])]| {
        store.change_user("ann", said(changes)).await.unwrap();
        assert_eq!(store.users().await.unwrap()[0].user.attributes, stored(expected));
    };
    check(vec![values("groups", &["a", "b"])], &[("groups", &["a", "b"])]).await;
    check(vec![values("team", &["x"])], &[("groups", &["a", "b"]), ("team", &["x"])]).await;
    check(vec![values("groups", &["c"])], &[("groups", &["c"]), ("team", &["x"])]).await;
    check(vec![values("groups", &[]), values("none", &[])], &[("team", &["x"])]).await;
    let revision = store.revision().await.unwrap();
    check(vec![values("team", &["x"])], &[("team", &["x"])]).await;
    assert_eq!(store.revision().await.unwrap(), revision);
    let long = vec![values(&"n".repeat(65), &["x"])];
    assert!(matches!(store.change_user("ann", said(long)).await, Err(StoreError::Refused(_))));
    check(Vec::new(), &[("team", &["x"])]).await;
}

#[tokio::test]
async fn a_user_with_a_live_key_stays_and_one_without_goes() {
    let (_folder, _path, store) = store().await;
    for (id, state) in [("k1", KeyState::Active), ("k2", KeyState::Disabled), ("k3", KeyState::Revoked)] {
        store.create_key(key(id, id, Some("ann"))).await.unwrap();
        store.set_key_state(id, state).await.unwrap();
    }
    let refused = store.remove_user("ann").await.unwrap_err();
    assert!(matches!(&refused, StoreError::UserHasKeys { user, live_keys: 2 } if user == "ann"), "{refused:?}");
    for id in ["k1", "k2"] {
        store.set_key_state(id, KeyState::Revoked).await.unwrap();
    }
    store.remove_user("ann").await.unwrap();
    assert_eq!(names(&store).await, []);
    let keys = store.keys().await.unwrap();
    assert!(keys.len() == 3 && keys.iter().all(|key| key.record.standing(0) == Standing::Revoked));
    store.create_key(NewKey { created_at_ms: 9_000, ..key("k4", "laptop", Some("ann")) }).await.unwrap();
    assert_eq!(names(&store).await, [("ann".to_owned(), 1)], "who comes back has none of the old keys");
}

#[tokio::test]
async fn whoever_is_not_there_is_not_made_by_a_change() {
    let (_folder, _path, store) = store().await;
    let unknown = |answer| matches!(answer, Err(StoreError::NoSuchUser { user }) if user == "eve");
    assert!(unknown(store.set_user_state("eve", UserState::Disabled).await));
    assert!(unknown(store.change_user("eve", said(vec![values("groups", &["staff"])])).await));
    assert!(unknown(store.remove_user("eve").await));
    assert_eq!((names(&store).await, store.revision().await.unwrap()), (Vec::new(), 0));
}

#[tokio::test]
async fn an_unknown_state_of_a_user_is_never_overwritten() {
    let (_folder, path, store) = store().await;
    store.create_user(user("ann")).await.unwrap();
    tamper(&path, "UPDATE users SET state = 'paused'").await;
    let unreadable = |answer| matches!(answer, Err(StoreError::Unreadable { .. }));
    assert!(unreadable(store.set_user_state("ann", UserState::Active).await));
    assert!(unreadable(store.change_user("ann", said(vec![values("groups", &["x"])])).await));
    assert!(unreadable(store.remove_user("ann").await));
    assert!(unreadable(store.create_key(key("k1", "laptop", Some("ann"))).await));
}
