//! A key gets a new secret while both work for a while: by the gate, and by the command.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tempfile::tempdir;
use tollgate::{
    identity::{FreshKey, ParsedKey, Pepper},
    ports::store::{Rotated, Rotation, Store},
};

use crate::support::{
    LlmServer, TestProxy,
    binary::{Outcome, run},
    proxy::START_UNIX_MS,
    rpm, until,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn chat() -> Value {
    json!({ "model": "llama3", "messages": [] })
}

/// Gives the gate's key a new secret, as the command does; answers the key's new text.
async fn rotate(gate: &TestProxy, now_ms: u64, overlap: Option<Duration>) -> (String, Rotated) {
    let id = ParsedKey::parse(gate.key()).unwrap().id();
    let key = FreshKey::renew(id).unwrap().unwrap();
    let hash = Pepper::load_or_create(&gate.folder().join("state")).unwrap().hash(id, key.secret());
    let former_until_ms = overlap.map(|time| now_ms + u64::try_from(time.as_millis()).unwrap());
    let store = gate.store().await;
    let rotated = store.rotate_key(Rotation { id: id.to_owned(), hash, now_ms, former_until_ms }).await.unwrap();
    store.close().await;
    (key.text().to_owned(), rotated)
}

async fn status(gate: &TestProxy, key: &str) -> u16 {
    gate.post_as(key, "/api/chat", &chat()).await.status
}

#[tokio::test]
async fn both_secrets_pass_within_the_overlap_and_only_the_new_one_after_it() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let (new, rotated) = rotate(&gate, START_UNIX_MS, Some(DAY)).await;
    assert!(!rotated.has_ended_former && new != gate.key());
    until("the new secret", async || status(&gate, &new).await == 200).await;
    assert_eq!(status(&gate, gate.key()).await, 200);

    gate.advance(DAY - Duration::from_millis(1)).await;
    assert_eq!((status(&gate, gate.key()).await, status(&gate, &new).await), (200, 200));
    gate.advance(Duration::from_millis(1)).await;
    assert_eq!((status(&gate, gate.key()).await, status(&gate, &new).await), (401, 200));
}

#[tokio::test]
async fn a_second_rotation_ends_the_first_secret_at_once_and_one_without_overlap_ends_all_others() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let (second, _) = rotate(&gate, START_UNIX_MS, Some(DAY)).await;
    let (third, rotated) = rotate(&gate, START_UNIX_MS, Some(DAY)).await;
    assert!(rotated.has_ended_former);
    until("the third secret", async || status(&gate, &third).await == 200).await;
    assert_eq!((status(&gate, gate.key()).await, status(&gate, &second).await), (401, 200));
    let (fourth, _) = rotate(&gate, START_UNIX_MS, None).await;
    until("the fourth secret", async || status(&gate, &fourth).await == 200).await;
    assert_eq!((status(&gate, &second).await, status(&gate, &third).await), (401, 401));
}

#[tokio::test]
async fn calls_with_either_secret_count_against_one_limit() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).with_key(rpm(4));
    let gate = builder.start().await;
    for _ in 0..3 {
        assert_eq!(status(&gate, gate.key()).await, 200);
    }
    let (new, _) = rotate(&gate, START_UNIX_MS, Some(DAY)).await;
    until("the new secret", async || status(&gate, &new).await == 200).await;
    assert_eq!((status(&gate, &new).await, status(&gate, gate.key()).await), (429, 429));
}

#[tokio::test]
async fn the_old_secret_tells_no_more_than_a_wrong_one_once_its_time_is_up() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let (new, _) = rotate(&gate, START_UNIX_MS, None).await;
    until("the new secret", async || status(&gate, &new).await == 200).await;
    let stranger = FreshKey::generate().unwrap();
    let told = async |key: &str| gate.post_as(key, "/v1/chat/completions", &chat()).await.json();
    assert_eq!(told(gate.key()).await, told(stranger.text()).await);
}

#[tokio::test]
async fn the_command_rotates_a_key_of_a_running_gate() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let folder = gate.folder().to_owned();
    let rotated = tokio::task::spawn_blocking(move || run(&folder, &["keys", "rotate", "default"])).await.unwrap();
    let new = printed(&rotated);
    until("the new secret", async || status(&gate, &new).await == 200).await;
    assert_eq!(status(&gate, gate.key()).await, 200);
}

/// The key that stands alone on stdout.
#[track_caller]
fn printed(outcome: &Outcome) -> String {
    let (key, rest) = outcome.stdout.split_once('\n').unwrap_or_default();
    assert_eq!((outcome.code, rest), (Some(0), ""), "{outcome:?}");
    assert!(ParsedKey::parse(key).is_some() && outcome.stderr.contains("shown once"), "{outcome:?}");
    key.to_owned()
}

fn list(folder: &Path) -> Value {
    run(folder, &["keys", "list", "-o", "json"]).json()
}

#[test]
fn a_rotated_key_keeps_its_id_and_the_command_says_what_ends() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let first = printed(&run(folder, &["keys", "create", "--name", "laptop", "--rpm", "7", "--user", "ann"]));
    let before = list(folder)[0].clone();
    let outcome = run(folder, &["keys", "rotate", "laptop"]);
    let second = printed(&outcome);
    let id = |key: &str| ParsedKey::parse(key).unwrap().id().to_owned();
    let secret = |key: &str| ParsedKey::parse(key).unwrap().secret().to_owned();
    assert!(id(&second) == id(&first) && secret(&second) != secret(&first));
    assert!(outcome.stderr.contains("works until 20") && !outcome.stderr.contains("ends now"), "{}", outcome.stderr);
    let mut after = list(folder)[0].clone();
    assert!(after["former_secret_until"].as_str().is_some_and(|time| time.ends_with('Z')), "{after}");
    after["former_secret_until"] = Value::Null;
    assert_eq!(after, before);

    let again = run(folder, &["keys", "rotate", &id(&first), "--overlap", "1h"]);
    assert!(again.stderr.contains("the secret before that one ends now"), "{}", again.stderr);
    let third = run(folder, &["keys", "rotate", "laptop", "--overlap", "0", "-o", "json"]).json();
    assert_eq!((&third["former_secret_until"], &third["ended_earlier_secret"]), (&Value::Null, &json!(true)));
    let key = third["key"].as_str().unwrap();
    assert_eq!((third["id"].as_str().unwrap(), id(key)), (id(&first).as_str(), id(&first)));
    assert_eq!(list(folder)[0]["former_secret_until"], Value::Null);
    for shown in [&first, &second, &printed(&again), key] {
        assert!(!list(folder).to_string().contains(&secret(shown)));
    }
}

#[test]
fn a_rotation_that_cannot_be_meant_changes_nothing() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    printed(&run(folder, &["keys", "create", "--name", "laptop"]));
    let before = list(folder);
    let fails = |arguments: &[&str], code: i32, word: &str| {
        let outcome = run(folder, &[&["keys", "rotate"], arguments].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{outcome:?}");
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    };
    fails(&[], 2, "Usage");
    fails(&["laptop", "--overlap", "31d"], 2, "at most 30d");
    fails(&["laptop", "--overlap", "soon"], 2, "--overlap");
    fails(&["phone"], 1, "no key 'phone'");
    assert_eq!(list(folder), before);
    std::fs::remove_file(folder.join("tollgate-state/pepper")).unwrap();
    fails(&["laptop"], 78, "put it back from a backup");
    assert!(!folder.join("tollgate-state/pepper").exists(), "a new pepper would end all other keys");
    assert_eq!(run(folder, &["keys", "create", "--name", "x"]).code, Some(78));

    assert_eq!(run(folder, &["keys", "revoke", "laptop"]).code, Some(0));
    fails(&["laptop"], 78, "backup");
}

#[test]
fn a_disabled_key_can_be_rotated_and_is_said_to_stay_so() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    printed(&run(folder, &["keys", "create", "--name", "laptop"]));
    run(folder, &["keys", "disable", "laptop"]);
    let rotated = run(folder, &["keys", "rotate", "laptop"]);
    printed(&rotated);
    assert!(rotated.stderr.contains("The key is disabled, and stays so"), "{}", rotated.stderr);
    run(folder, &["keys", "revoke", "laptop"]);
    let revoked = run(folder, &["keys", "rotate", "laptop"]);
    assert_eq!((revoked.code, revoked.stdout.as_str()), (Some(1), ""));
    assert!(revoked.stderr.contains("revoked for good"), "{}", revoked.stderr);
}
