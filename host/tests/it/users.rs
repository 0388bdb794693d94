//! Users: what disabling one does to their keys, what policies are told of them, and the commands.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;
use tollgate::ports::{
    keys::UserState,
    store::{NewAttributes, Store, UserChanges},
};

use crate::support::{
    Asking, LlmServer, TestProxy,
    asking::told,
    binary::{Outcome, run},
    rpm, until,
};

fn chat() -> Value {
    json!({ "model": "llama3", "messages": [] })
}

async fn set_state(gate: &TestProxy, user: &str, state: UserState) {
    let store = gate.store().await;
    store.set_user_state(user, state).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_disabled_users_keys_are_refused_as_disabled_ones_are_until_the_user_is_enabled() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut builder = TestProxy::builder().backend(&server).with_key(|key| {
        key.user = Some("ann".to_owned());
        // Waiting takes many calls, which the default limit must not refuse.
        rpm(1_000_000)(key);
    });
    let second = builder.add_key("phone", |key| key.user = Some("ann".to_owned()));
    let bobs = builder.add_key("phone", |key| key.user = Some("bob".to_owned()));
    let gate = builder.start().await;
    let status = async |key: &str| gate.post_as(key, "/v1/chat/completions", &chat()).await.status;

    set_state(&gate, "ann", UserState::Disabled).await;
    until("disabling", async || status(gate.key()).await == 403).await;
    let refused = gate.post("/v1/chat/completions", &chat()).await;
    assert!(refused.refusal("/v1/chat/completions", 403, "key_disabled").contains("disabled"));
    assert_eq!((status(&second).await, status(&bobs).await), (403, 200));
    // Another key's secret behind this id: it takes the secret to learn that the key is disabled.
    let mixed = format!("{}{}", &gate.key()[..14], &bobs[14..]);
    assert_eq!(status(&mixed).await, 401);

    set_state(&gate, "ann", UserState::Active).await;
    until("enabling", async || status(gate.key()).await == 200).await;
    assert_eq!(status(&second).await, 200);
}

#[tokio::test]
async fn policies_are_told_that_a_disabled_users_key_is_disabled() {
    let asking = Asking::start_with(|builder| builder.with_key(|key| key.user = Some("ann".to_owned()))).await;
    let gate = &asking.gate;
    let verify = async || {
        let request = gate.client().get(gate.url("/v1/models")).header("x-ask-at", "authenticate");
        told(request.header("x-ask", "verify").bearer_auth(gate.key())).await
    };
    assert!(verify().await.contains("standing: Standing::Active"));
    set_state(gate, "ann", UserState::Disabled).await;
    until("disabling", async || verify().await.contains("user: Some(\"ann\"), standing: Standing::Disabled")).await;
}

#[tokio::test]
async fn attributes_are_the_keys_or_else_its_users() {
    let own = ("team".to_owned(), vec!["red".to_owned()]);
    let asking = Asking::start_with(|builder| {
        builder.with_key(|key| {
            key.user = Some("ann".to_owned());
            key.attributes = vec![own];
        })
    })
    .await;
    let questions = "attribute groups | attribute team";
    assert_eq!(asking.ask("admit", questions).await, " | red");
    let set = async |changes: &[(&str, &[&str])]| {
        let text = |text: &&str| (*text).to_owned();
        let changes: NewAttributes =
            changes.iter().map(|(name, values)| ((*name).to_owned(), values.iter().map(text).collect())).collect();
        let store = asking.gate.store().await;
        store.change_user("ann", UserChanges { attributes: changes, ..UserChanges::default() }).await.unwrap();
        store.close().await;
    };
    set(&[("groups", &["staff", "night shift"]), ("team", &["blue"])]).await;
    for hook in ["admit", "route"] {
        until("the user's", async || asking.ask(hook, questions).await == "staff+night shift | red").await;
    }
    set(&[("groups", &[])]).await;
    until("clearing", async || asking.ask("admit", questions).await == " | red").await;
}

#[track_caller]
fn done(folder: &Path, arguments: &[&str]) -> Outcome {
    let outcome = run(folder, arguments);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    outcome
}

#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32, words: &str) {
    let outcome = run(folder, arguments);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", outcome.stderr);
    assert!(outcome.stderr.contains(words), "`{words}` is missing in:\n{}", outcome.stderr);
}

#[test]
fn users_are_created_changed_listed_and_removed_by_command() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let staff = ["users", "create", "ann", "--attribute", "groups=staff", "--attribute", "groups=night"];
    let created = done(folder, &[&staff[..], &["-o", "json"]].concat()).json();
    let when = created["created_at"].clone();
    assert_eq!(
        created,
        json!({
            "name": "ann", "state": "active", "attributes": { "groups": ["staff", "night"] }, "live_keys": 0,
            "limits": created["limits"], "created_at": when,
        })
    );
    done(folder, &["keys", "create", "--name", "laptop", "--user", "ann"]);
    done(folder, &["keys", "create", "--name", "laptop", "--user", "bob"]);
    let list = || done(folder, &["users", "list", "-o", "json"]).json();
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|user| format!("{} {}", user["name"], user["live_keys"])).collect()
    };
    assert_eq!(names(&list()), ["\"ann\" 1", "\"bob\" 1"]);

    let set = ["users", "set", "ann", "--attribute", "team=red", "--clear", "groups", "-o", "json"];
    assert_eq!(done(folder, &set).json()["attributes"], json!({ "team": ["red"] }));
    let disabled = done(folder, &["users", "disable", "ann"]);
    assert!(disabled.stdout.is_empty() && disabled.stderr.contains("within two seconds"), "{disabled:?}");
    let keys = done(folder, &["keys", "list", "-o", "json"]).json();
    assert_eq!((&keys[0]["state"], &keys[1]["state"]), (&json!("disabled"), &json!("active")));
    let table = done(folder, &["users", "list"]).stdout;
    let ann: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(ann, ["ann", "disabled", "1", "-", "team=red", when.as_str().unwrap()], "{table}");

    fails(folder, &["keys", "create", "--name", "phone", "--user", "ann"], 1, "run `tollgate users enable` first");
    let key = keys[0]["id"].as_str().unwrap();
    let enabled = done(folder, &["keys", "enable", key]);
    assert!(enabled.stderr.contains("its user 'ann' is disabled"), "{}", enabled.stderr);
    assert_eq!(done(folder, &["users", "enable", "ann", "-o", "json"]).json()["state"], "active");

    fails(folder, &["users", "remove", "ann"], 1, "has keys that are not revoked (1)");
    done(folder, &["keys", "revoke", key]);
    let removed = done(folder, &["users", "remove", "ann", "-o", "json"]).json();
    assert_eq!(removed, json!({ "name": "ann", "removed": true }));
    assert_eq!(names(&list()), ["\"bob\" 1"]);
    let keys = done(folder, &["keys", "list", "-o", "json"]).json();
    assert_eq!((&keys[0]["state"], &keys[0]["user"]), (&json!("revoked"), &Value::Null));
}

#[test]
fn a_user_that_is_not_meant_clearly_is_not_touched() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    done(folder, &["users", "create", "ann"]);
    let before = done(folder, &["users", "list", "-o", "json"]).json();
    fails(folder, &["users", "create", "ann"], 1, "a user named 'ann' already");
    fails(folder, &["users", "create", ""], 2, "1 to 200 characters");
    fails(folder, &["users", "create", &"x".repeat(201)], 2, "1 to 200 characters");
    fails(folder, &["users", "create", "eve", "--attribute", "groups"], 2, "NAME=VALUE");
    let long = format!("{}=x", "n".repeat(65));
    fails(folder, &["users", "create", "eve", "--attribute", &long], 1, "1 to 64 characters");
    fails(folder, &["users", "set", "ann"], 2, "--attribute");
    let both = ["users", "set", "ann", "--attribute", "team=red", "--clear", "team"];
    fails(folder, &both, 2, "leave one out");
    for verb in ["disable", "enable", "remove"] {
        fails(folder, &["users", verb, "eve"], 1, "no user 'eve'");
    }
    fails(folder, &["users", "set", "eve", "--clear", "x"], 1, "no user 'eve'");
    assert_eq!(done(folder, &["users", "list", "-o", "json"]).json(), before);
}
