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
    Held(&["admit::the_hundred_and_first_call_within_a_minute_is_429_with_a_true_retry_after"]),
    Waits(ADMIN),
    Held(&["bad_input::no_second_spelling_of_a_path_reaches_a_backend"]),
    Held(&[
        "authenticate::a_valid_key_passes_and_its_text_never_reaches_the_backend",
        "headers::credentials_cookies_and_forwarding_headers_never_pass",
    ]),
    Held(&["route::calls_alternate_on_the_shared_model_and_go_to_the_owner_otherwise_in_any_order_and_spelling"]),
    Held(&[
        "key_table::a_key_is_proven_by_its_secret_whatever_its_state",
        "pepper::the_hash_is_hmac_sha_256_of_id_separator_and_secret",
    ]),
    Held(&["seed_defects::calls_write_nothing_to_the_store"]),
    Held(&[
        "upstream_failure::a_backend_that_breaks_before_its_head_is_a_502_and_no_other_is_tried",
        "upstream_failure::a_busy_backend_s_answer_is_passed_on_and_no_other_is_tried",
    ]),
    Held(&["client_disconnect::a_caller_who_leaves_before_the_first_byte_frees_the_backend"]),
    Held(&["pepper::it_is_made_once_for_its_owner_alone_and_read_ever_after", "pepper::two_folders_have_two_peppers"]),
    Held(&["upstream_failure::a_backend_leaves_the_rotation_and_comes_back_with_its_new_models"]),
    Held(&["bad_input::a_body_over_the_cap_is_413_and_one_at_the_cap_passes"]),
    Held(&[
        "route::a_tag_is_a_part_of_the_name",
        "route::an_unknown_model_is_a_404_in_each_dialect_after_one_look_at_the_lists",
    ]),
    Held(&["operations::facts_of_a_model_come_from_its_owner_by_either_field"]),
    Held(&["authenticate::a_key_ends_at_its_time"]),
    Held(&["authenticate::what_became_of_a_key_shows_only_to_who_holds_its_secret"]),
    Waits(ADMIN),
    Held(&["authenticate::a_change_of_the_store_is_in_force_within_two_seconds"]),
    Waits(LIMITS),
    Held(&["window::a_minute_of_a_hundred_is_full_for_a_minute_and_free_within_one_second_more"]),
    Waits(ADMIN),
    Waits(HARDENED),
    Waits(LIMITS),
    Waits(ADMIN),
    Held(&["admit::of_two_hundred_callers_at_once_exactly_a_hundred_pass"]),
    Waits(HARDENED),
    Held(&["tests::the_store_is_a_sqlite_file"]),
    Held(&["tests::revoked_is_for_good"]),
    Held(&[
        "federation::lists_show_what_the_key_may_use_and_nothing_else",
        "operations::who_asks_whether_there_is_an_ollama_needs_no_key",
    ]),
    Waits(ADMIN),
    Waits(ADMIN),
    Held(&["command_line::the_demo_prints_a_key_and_a_call_that_works_and_leaves_nothing_behind"]),
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
