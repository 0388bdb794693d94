//! New secrets for keys that stay the same.

use super::{change, key, store};
use crate::ports::{
    keys::{KeyState, Scope},
    limits::LimitName,
    store::{FormerSecret, NewKey, Rotation, Store, StoreError},
};

fn rotation(hash: u8, now_ms: u64, former_until_ms: Option<u64>) -> Rotation {
    Rotation { id: "k1".to_owned(), hash: [hash; 32], now_ms, former_until_ms }
}

#[tokio::test]
async fn a_rotation_changes_the_secret_and_keeps_all_else() {
    let (_folder, _path, store) = store().await;
    let new = NewKey {
        limits: vec![change(Some("a:latest"), LimitName::Concurrent, Some(60))],
        scope: Scope::Models(["a".into()].into()),
        may_manage: true,
        attributes: vec![("groups".into(), vec!["x".into()])],
        expires_at_ms: Some(5_000),
        ..key("k1", "laptop", Some("ann"))
    };
    store.create_key(new).await.unwrap();
    let (before, revision) = (store.key("k1").await.unwrap(), store.revision().await.unwrap());
    let rotated = store.rotate_key(rotation(8, 1_000, Some(2_000))).await.unwrap();
    assert!(!rotated.has_ended_former && store.revision().await.unwrap() > revision);
    let after = store.key("k1").await.unwrap();
    assert_eq!(format!("{:?}", after.record), format!("{:?}", before.record));
    assert_eq!((after.hash, after.former), ([8; 32], Some(FormerSecret { hash: [7; 32], until_ms: 2_000 })));
    assert_eq!(format!("{after:?}"), format!("{:?}", store.keys().await.unwrap()[0]));
}

#[tokio::test]
async fn a_second_rotation_ends_the_secret_before_the_last() {
    let (_folder, _path, store) = store().await;
    store.create_key(key("k1", "laptop", None)).await.unwrap();
    let rotate = async |hash, now_ms, until, has_ended| {
        let rotated = store.rotate_key(rotation(hash, now_ms, until)).await.unwrap();
        assert_eq!(rotated.has_ended_former, has_ended, "{hash}");
        store.key("k1").await.unwrap().former.map(|former| (former.hash[0], former.until_ms))
    };
    assert_eq!(rotate(8, 1_000, Some(2_000), false).await, Some((7, 2_000)));
    assert_eq!(rotate(9, 1_999, Some(3_000), true).await, Some((8, 3_000)));
    assert_eq!(rotate(10, 3_000, Some(4_000), false).await, Some((9, 4_000)), "its time was up anyway");
    assert_eq!(rotate(11, 3_500, None, true).await, None, "without an overlap both end");
    assert_eq!(rotate(12, 3_600, None, false).await, None);
}

#[tokio::test]
async fn a_disabled_key_can_be_rotated_and_a_revoked_or_unknown_one_cannot() {
    let (_folder, _path, store) = store().await;
    let unknown = store.rotate_key(rotation(8, 0, None)).await;
    assert!(matches!(unknown, Err(StoreError::NoSuchKey { key }) if key == "k1"));
    store.create_key(key("k1", "laptop", None)).await.unwrap();
    store.set_key_state("k1", KeyState::Disabled).await.unwrap();
    store.rotate_key(rotation(8, 0, None)).await.unwrap();
    assert_eq!(store.key("k1").await.unwrap().record.state, KeyState::Disabled);
    store.set_key_state("k1", KeyState::Revoked).await.unwrap();
    let revoked = store.rotate_key(rotation(9, 0, None)).await;
    assert!(matches!(revoked, Err(StoreError::Revoked { key }) if key == "k1"));
    assert_eq!(store.key("k1").await.unwrap().hash, [8; 32]);
}

#[tokio::test]
async fn debug_shows_no_hash_of_a_rotation() {
    let (_folder, _path, store) = store().await;
    store.create_key(NewKey { hash: [231; 32], ..key("k1", "laptop", None) }).await.unwrap();
    let rotation = rotation(232, 0, Some(9));
    let shown = format!("{rotation:?}");
    store.rotate_key(rotation).await.unwrap();
    let shown = format!("{shown} {:?}", store.key("k1").await.unwrap());
    assert!(!shown.contains("231") && !shown.contains("232"), "{shown}");
}
