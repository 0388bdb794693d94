//! Backends that were added by command, and draining.

use super::{store, tamper};
use crate::{
    ports::store::{Declared, Store, StoreError, StoredBackend},
    store::SqliteStore,
};

fn backend(name: &str, url: &str) -> StoredBackend {
    StoredBackend {
        name: name.to_owned(),
        url: url.to_owned(),
        kind: "openai".to_owned(),
        weight: 3,
        anthropic: false,
        created_at_ms: 1_000,
    }
}

#[tokio::test]
async fn an_added_backend_comes_back_as_it_went_in_and_goes_when_it_is_removed() {
    let (_folder, _path, store) = store().await;
    assert_eq!(store.declared_backends().await.unwrap(), Declared::default());
    let second = backend("gpu-1", "http://b");
    let first = StoredBackend { anthropic: true, created_at_ms: 999, ..backend("gpu-2", "http://a") };
    for backend in [&second, &first] {
        store.add_backend(backend.clone()).await.unwrap();
    }
    let declared = store.declared_backends().await.unwrap();
    assert_eq!((declared.backends, declared.drained), (vec![first, second.clone()], vec![]));
    let revision = store.revision().await.unwrap();
    store.remove_backend("gpu-2").await.unwrap();
    assert_eq!(store.declared_backends().await.unwrap().backends, [second]);
    assert!(store.revision().await.unwrap() > revision && revision == 2);
    let again = store.remove_backend("gpu-2").await;
    assert!(matches!(again, Err(StoreError::NoSuchBackend { name }) if name == "gpu-2"));
}

#[tokio::test]
async fn a_backend_of_an_older_version_said_nothing_of_anthropic() {
    let (_folder, path, store) = store().await;
    store.add_backend(StoredBackend { anthropic: true, ..backend("gpu-1", "http://a") }).await.unwrap();
    store.close().await;
    for undoing in ["ALTER TABLE backends DROP COLUMN anthropic", "DELETE FROM _sqlx_migrations WHERE version = 5"] {
        tamper(&path, undoing).await;
    }
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.declared_backends().await.unwrap().backends, [backend("gpu-1", "http://a")]);
}

#[tokio::test]
async fn a_name_and_an_address_are_one_backends() {
    let (_folder, _path, store) = store().await;
    store.add_backend(backend("gpu-1", "http://a")).await.unwrap();
    store.add_backend(backend("gpu-2", "http://b")).await.unwrap();
    let check = async |name: &str, url: &str, expected: (&str, &str)| match store.add_backend(backend(name, url)).await
    {
        Err(StoreError::BackendTaken { what, name }) => assert_eq!((what, name.as_str()), expected),
        other => panic!("{other:?}"),
    };
    check("gpu-1", "http://c", ("name", "gpu-1")).await;
    check("gpu-3", "http://b", ("URL", "gpu-2")).await;
    check("gpu-2", "http://a", ("name", "gpu-2")).await;
    assert_eq!(store.revision().await.unwrap(), 2);
}

#[tokio::test]
async fn added_and_configured_backends_can_be_drained_and_others_cannot() {
    let (_folder, _path, store) = store().await;
    store.add_backend(backend("gpu-1", "http://a")).await.unwrap();
    let configured = ["main".to_owned()];
    let drained = async || store.declared_backends().await.unwrap().drained;
    for name in ["main", "gpu-1"] {
        store.set_backend_drained(name, true, &configured).await.unwrap();
    }
    assert_eq!(drained().await, ["gpu-1", "main"]);
    let unknown = store.set_backend_drained("gpu-9", true, &configured).await;
    assert!(matches!(unknown, Err(StoreError::NoSuchBackend { name }) if name == "gpu-9"));

    let revision = store.revision().await.unwrap();
    store.set_backend_drained("main", true, &configured).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision, "what changes nothing leaves the revision");
    store.set_backend_drained("gpu-1", false, &configured).await.unwrap();
    assert_eq!(drained().await, ["main"]);
    store.set_backend_drained("main", false, &[]).await.unwrap();
    assert!(drained().await.is_empty(), "the mark of a backend that left the configuration can go");
}

#[tokio::test]
async fn a_backend_that_is_removed_while_drained_comes_back_undrained() {
    let (_folder, _path, store) = store().await;
    store.add_backend(backend("gpu-1", "http://a")).await.unwrap();
    store.set_backend_drained("gpu-1", true, &[]).await.unwrap();
    store.remove_backend("gpu-1").await.unwrap();
    store.add_backend(backend("gpu-1", "http://a")).await.unwrap();
    assert!(store.declared_backends().await.unwrap().drained.is_empty());
}

#[tokio::test]
async fn there_is_an_end_to_adding() {
    let (_folder, path, store) = store().await;
    tamper(
        &path,
        "INSERT INTO backends SELECT 'b' || value, 'http://b' || value, 'ollama', 1, 0, 0 \
         FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 1024) SELECT value FROM n)",
    )
    .await;
    let one_more = store.add_backend(backend("gpu-1", "http://a")).await;
    assert!(matches!(&one_more, Err(StoreError::Refused(text)) if text.contains("1024")), "{one_more:?}");
    store.remove_backend("b7").await.unwrap();
    store.add_backend(backend("gpu-1", "http://a")).await.unwrap();
}
