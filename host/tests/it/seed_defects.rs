//! The 32 defects of the proxy that inspired this one: each is held by a named test, or waits for what would have it.

use std::{fs, path::Path};

use serde_json::json;

use crate::support::{LlmServer, TestProxy, guest::root};

enum Defect {
    /// These tests hold that it is not here: `file::test`, in `host/tests/it` or `host/src`.
    Held(&'static [&'static str]),
    /// Nothing that could have it is built yet; this will.
    Waits(&'static str),
}

use Defect::{Held, Waits};

const HARDENED: &str = "Hardened, measured, and on TLS";
const LIMITS: &str = "Limits that hold, with Redis or without";
const ADMIN: &str = "the admin pages";

/// In the order of their numbers, from D1.
const DEFECTS: [Defect; 32] = [
    Held(&["admit::"]),
    Waits(ADMIN),
    Held(&["bad_input::"]),
    Held(&["operations::"]),
    Held(&["route::"]),
    Held(&["key_table::"]),
    Held(&["seed_defects::calls_write_nothing_to_the_store"]),
    Held(&["upstream_failure::"]),
    Held(&["client_disconnect::"]),
    Held(&["pepper::"]),
    Held(&["upstream_failure::"]),
    Held(&["bad_input::"]),
    Held(&["route::"]),
    Held(&["operations::"]),
    Held(&["authenticate::"]),
    Held(&["authenticate::"]),
    Waits(ADMIN),
    Held(&["authenticate::"]),
    Waits(LIMITS),
    Held(&["window::"]),
    Waits(ADMIN),
    Waits(HARDENED),
    Waits(LIMITS),
    Waits(ADMIN),
    Held(&["quota::"]),
    Waits(HARDENED),
    Held(&["config::"]),
    Held(&["store::"]),
    Held(&["federation::"]),
    Waits(ADMIN),
    Waits(ADMIN),
    Held(&["command_line::"]),
];

#[test]
fn every_defect_is_held_by_a_test_that_exists_or_waits_for_something() {
    let mut missing = Vec::new();
    for (defect, number) in DEFECTS.iter().zip(1..) {
        match defect {
            Waits(what) => assert!(!what.is_empty()),
            Held(tests) => {
                assert!(!tests.is_empty(), "D{number}");
                missing.extend(tests.iter().filter(|test| !exists(test)).map(|test| format!("D{number}: {test}")));
            }
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}

/// Whether a test function of this name stands in a file (or folder) of this name.
fn exists(test: &str) -> bool {
    let (file, function) = test.split_once("::").unwrap();
    let needle = format!("fn {function}(");
    let host = root().join("host");
    sources(&host.join("tests/it")).chain(sources(&host.join("src"))).any(|path| {
        let is_it = path.file_stem().is_some_and(|stem| stem == file)
            || path.parent().is_some_and(|folder| folder.file_name().is_some_and(|name| name == file));
        is_it && fs::read_to_string(&path).unwrap().contains(&needle)
    })
}

fn sources(folder: &Path) -> Box<dyn Iterator<Item = std::path::PathBuf>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    Box::new(entries.flat_map(|path| if path.is_dir() { sources(&path) } else { Box::new(std::iter::once(path)) }))
}

#[tokio::test]
async fn calls_write_nothing_to_the_store() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let state = || {
        let files = sources(&gate.folder().join("state"));
        let mut files: Vec<_> = files
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tollgate.db")))
            .filter(|path| path.extension().is_some_and(|extension| extension != "db-shm"))
            .map(|path| (fs::read(&path).unwrap(), path))
            .collect();
        files.sort();
        files
    };
    let before = state();
    assert!(!before.is_empty());
    for _ in 0..50 {
        assert_eq!(gate.post("/api/chat", &json!({ "model": "llama3" })).await.status, 200);
    }
    assert!(before == state(), "a call has written to the store");
}
