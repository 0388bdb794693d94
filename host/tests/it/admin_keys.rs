//! Keys and users through the admin API: what the commands do, for programs.

use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use crate::support::{Answer, LlmServer, Log, TestProxy, until};

async fn gate() -> (TestProxy, LlmServer) {
    let server = LlmServer::start("gpu-1", &["llama3:latest", "qwen3:8b"]).await;
    (TestProxy::before(&[&server]).await, server)
}

/// An answer to a request with this body, as it stands.
async fn ask_text(gate: &TestProxy, method: Method, path: &str, body: &str) -> Answer {
    let url = format!("http://{}/api/v1/{path}", gate.admin_address());
    let request = gate.client().request(method, url).bearer_auth(gate.admin_token()).body(body.to_owned());
    Answer::of(request.send().await.unwrap()).await
}

async fn post(gate: &TestProxy, path: &str, body: &Value) -> Answer {
    ask_text(gate, Method::POST, path, &body.to_string()).await
}

/// The value of an answer with this status.
#[track_caller]
fn value(answer: &Answer, status: u16) -> Value {
    assert_eq!((answer.status, answer.header("cache-control")), (status, Some("no-store")), "{answer:?}");
    answer.json()
}

/// A refusal, which says all of these words and nothing of what was sent.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, words: &[&str]) {
    let json = value(answer, status);
    assert_eq!((&json["code"], answer.header("content-type")), (&json!(code), Some("application/problem+json")));
    let detail = json["detail"].as_str().unwrap();
    assert!(words.iter().all(|word| detail.contains(word)), "{words:?} in: {detail}");
    assert!(!answer.body.contains("hunter2"), "{answer:?}");
}

async fn status(gate: &TestProxy, key: &str, model: &str) -> u16 {
    gate.post_as(key, "/api/chat", &json!({ "model": model, "messages": [] })).await.status
}

async fn until_status(gate: &TestProxy, key: &str, expected: u16) {
    until(&format!("a {expected}"), async || status(gate, key, "llama3").await == expected).await;
}

#[tokio::test]
async fn a_key_is_shown_once_serves_within_two_seconds_and_can_be_switched_rotated_and_revoked() {
    let (gate, _server) = gate().await;
    let wanted = json!({
        "name": "laptop", "user": "ann", "models": ["LLaMA3", "llama3:latest"],
        "limits": { "requests_per_minute": 60_000, "models": { "LLaMA3": { "concurrent": 2 } } }, "expires": "30d", "may_manage": true, "attributes": { "groups": ["staff", "night"] },
    });
    let made = value(&post(&gate, "keys", &wanted).await, 201);
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    until_status(&gate, key, 200).await;
    assert_eq!(status(&gate, key, "qwen3:8b").await, 404, "out of scope");
    let shown = json!({
        "id": id, "name": "laptop", "user": "ann", "state": "active", "limits": {
            "requests_per_minute": 60_000, "tokens_per_minute": null, "concurrent": null, "tokens_per_day": null,
            "tokens_per_month": null, "models": { "llama3:latest": { "concurrent": 2 } },
        },
        "models": ["llama3:latest"], "may_manage": true, "attributes": { "groups": ["staff", "night"] },
        "former_secret_until": null, "expires_at": "2026-07-10T12:00:00Z", "created_at": "2026-06-10T12:00:00Z",
    });
    assert_eq!(value(&gate.api(Method::GET, &format!("/api/v1/keys/{id}")).await, 200), shown);
    let list = gate.api(Method::GET, "/api/v1/keys").await;
    assert_eq!(value(&list, 200)["keys"].as_array().unwrap().iter().filter(|one| **one == shown).count(), 1);
    assert!(!list.body.contains(&key[14..]), "a secret is shown once: {list:?}");

    assert_eq!(value(&post(&gate, "keys/laptop/disable", &json!({})).await, 200)["state"], "disabled");
    until_status(&gate, key, 403).await;
    assert_eq!(value(&ask_text(&gate, Method::POST, &format!("keys/{id}/enable"), "").await, 200)["state"], "active");
    until_status(&gate, key, 200).await;

    let rotated = value(&post(&gate, "keys/laptop/rotate", &json!({ "overlap": "0" })).await, 200);
    let second = rotated["key"].as_str().unwrap();
    assert_eq!((&rotated["id"], &rotated["former_secret_until"]), (&json!(id), &Value::Null));
    until_status(&gate, second, 200).await;
    until_status(&gate, key, 401).await;
    let third = value(&ask_text(&gate, Method::POST, "keys/laptop/rotate", "").await, 200);
    assert_eq!(third["former_secret_until"], "2026-06-11T12:00:00Z");
    until_status(&gate, third["key"].as_str().unwrap(), 200).await;
    assert_eq!(status(&gate, second, "llama3").await, 200, "within the overlap");

    assert_eq!(value(&post(&gate, "keys/laptop/revoke", &json!({})).await, 200)["state"], "revoked");
    until_status(&gate, second, 403).await;
    refused(&post(&gate, &format!("keys/{id}/enable"), &json!({})).await, 409, "revoked", &["create a new one"]);
    refused(&post(&gate, "keys/laptop/rotate", &json!({})).await, 409, "revoked", &[]);
}

#[tokio::test]
async fn what_can_t_be_a_key_is_refused_with_what_to_do() {
    let (gate, _server) = gate().await;
    let check = async |body: &str, status: u16, code: &str, words: &[&str]| {
        refused(&ask_text(&gate, Method::POST, "keys", body).await, status, code, words);
    };
    for body in [
        "",
        "{",
        "[]",
        "{\"name\":7}",
        "{\"name\":\"a\",\"hunter2\":1}",
        "{\"name\":\"a\",\"name\":\"b\"}",
        "{\"name\":\"a\",\"limits\":{\"requests_per_minute\":-1}}",
        "{\"name\":\"a\",\"limits\":{\"requests_per_minute\":1.5}}",
        "{\"name\":\"a\",\"models\":\"hunter2\"}",
    ] {
        check(body, 400, "bad_body", &["`name`", "`limits`", "line"]).await;
    }
    check(r#"{"name":""}"#, 422, "unfit", &["`name`", "1 to 200 characters"]).await;
    check(r#"{"name":"a\nb"}"#, 422, "unfit", &["`name`"]).await;
    check(r#"{"name":"a","user":""}"#, 422, "unfit", &["`user`"]).await;
    check(r#"{"name":"a","limits":{"hunter2":1}}"#, 422, "unfit", &["`limits`", "tokens_per_month"]).await;
    check(r#"{"name":"a","limits":{"models":{"":{"concurrent":1}}}}"#, 422, "unfit", &["`limits`"]).await;
    check(r#"{"name":"a","limits":{"concurrent":9007199254740992}}"#, 422, "unfit", &["from 0 to 9007199254740991"])
        .await;
    check(r#"{"name":"a","models":[]}"#, 422, "unfit", &["`models`", "leave it out"]).await;
    check(r#"{"name":"a","models":["x","hunter2@sha256:0"]}"#, 422, "unfit", &["`models` at 2", "digest"]).await;
    check(r#"{"name":"a","expires":"hunter2"}"#, 422, "unfit", &["`expires`", "30d"]).await;
    check(r#"{"name":"a","expires":"0"}"#, 422, "unfit", &["`expires`", "longer than no time"]).await;
    check(r#"{"name":"a","expires":"99999y"}"#, 422, "unfit", &["`expires`", "9999"]).await;
    check(r#"{"name":"a","attributes":{"":["x"]}}"#, 422, "unfit", &["attribute", "1 to 64"]).await;
    check(r#"{"name":"default"}"#, 409, "name_taken", &["another name"]).await;
    refused(&post(&gate, "keys/hunter2/revoke", &json!({})).await, 404, "no_such_key", &["GET /api/v1/keys"]);
    let long = json!({ "overlap": "31d" });
    refused(&post(&gate, "keys/default/rotate", &long).await, 422, "unfit", &["`overlap`", "at most 30d"]);
    for user in ["ann", "bob"] {
        value(&post(&gate, "keys", &json!({ "name": "twin", "user": user })).await, 201);
    }
    refused(&post(&gate, "keys/twin/disable", &json!({})).await, 409, "ambiguous", &["id"]);
    assert_eq!(gate.api(Method::DELETE, "/api/v1/keys/twin").await.status, 405);
    let keys = value(&gate.api(Method::GET, "/api/v1/keys").await, 200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 3, "nothing was made by halves");
}

#[tokio::test]
async fn users_are_created_listed_changed_disabled_and_removed() {
    let (gate, _server) = gate().await;
    let made = value(&post(&gate, "users", &json!({ "name": "ann b", "attributes": { "a": ["1"] } })).await, 201);
    let mut limits = json!({
        "requests_per_minute": null, "tokens_per_minute": null, "concurrent": null, "tokens_per_day": null,
        "tokens_per_month": null, "models": {},
    });
    let shown = json!({
        "name": "ann b", "state": "active", "attributes": { "a": ["1"] }, "limits": limits, "live_keys": 0,
        "created_at": "2026-06-10T12:00:00Z",
    });
    assert_eq!(made, shown);
    assert_eq!(value(&gate.api(Method::GET, "/api/v1/users").await, 200), json!({ "users": [shown] }));
    refused(&post(&gate, "users", &json!({ "name": "ann b" })).await, 409, "user_taken", &["/api/v1/users"]);
    refused(&post(&gate, "users", &json!({ "name": "\u{7}" })).await, 422, "unfit", &["`name`"]);
    refused(&post(&gate, "users", &json!({ "nam": "hunter2" })).await, 400, "bad_body", &["`name`"]);

    // Waiting takes many calls, which the default limit must not refuse.
    let wanted = json!({ "name": "laptop", "user": "ann b", "limits": { "requests_per_minute": 1_000_000 } });
    let made = value(&post(&gate, "keys", &wanted).await, 201);
    let key = made["key"].as_str().unwrap();
    until_status(&gate, key, 200).await;
    assert_eq!(value(&post(&gate, "users/ann%20b/disable", &json!({})).await, 200)["state"], "disabled");
    until_status(&gate, key, 403).await;
    refused(
        &post(&gate, "keys", &json!({ "name": "x", "user": "ann b" })).await,
        409,
        "user_disabled",
        &["enable them first"],
    );
    let user = "users/ann%20b";
    assert_eq!(value(&post(&gate, &format!("{user}/enable"), &json!({})).await, 200)["live_keys"], 1);
    until_status(&gate, key, 200).await;
    let changes = json!({
        "attributes": { "a": [], "b": ["2", "3"] }, "limits": { "tokens_per_day": 9, "models": { "M": { "concurrent": 1 } } },
    });
    let changed = value(&ask_text(&gate, Method::PATCH, user, &changes.to_string()).await, 200);
    (limits["tokens_per_day"], limits["models"]) = (json!(9), json!({ "m:latest": { "concurrent": 1 } }));
    assert_eq!((&changed["attributes"], &changed["limits"]), (&json!({ "b": ["2", "3"] }), &limits));
    let changes = json!({ "limits": { "tokens_per_day": null } }).to_string();
    let changed = value(&ask_text(&gate, Method::PATCH, user, &changes).await, 200);
    assert_eq!((&changed["limits"]["tokens_per_day"], &changed["attributes"]["b"]), (&Value::Null, &json!(["2", "3"])));
    refused(&ask_text(&gate, Method::PATCH, user, "{}").await, 400, "bad_body", &["`attributes`"]);

    refused(&gate.api(Method::DELETE, "/api/v1/users/ann%20b").await, 409, "user_has_keys", &["(1)", "revoke"]);
    value(&post(&gate, "keys/laptop/revoke", &json!({})).await, 200);
    let removed = value(&gate.api(Method::DELETE, "/api/v1/users/ann%20b").await, 200);
    assert_eq!(removed, json!({ "name": "ann b", "removed": true }));
    refused(&post(&gate, &format!("{user}/enable"), &json!({})).await, 404, "no_such_user", &["GET /api/v1/users"]);
}

#[tokio::test]
async fn the_log_says_what_was_changed_and_no_secret() {
    let log = Log::listen();
    let (gate, _server) = gate().await;
    let made = value(&post(&gate, "keys", &json!({ "name": "logged" })).await, 201);
    let renewed = value(&post(&gate, "keys/logged/rotate", &json!({})).await, 200);
    value(&post(&gate, "keys/logged/disable", &json!({})).await, 200);
    let id = made["id"].as_str().unwrap();
    for words in ["was created", "a new secret", "was changed"] {
        log.says(&[id, words]).await;
    }
    for key in [&made["key"], &renewed["key"]] {
        let secret = key.as_str().unwrap().rsplit_once('_').unwrap().1;
        assert!(log.lines_with(&[secret]).is_empty());
    }
}

#[tokio::test]
async fn a_store_that_can_t_be_used_is_503() {
    let log = Log::listen();
    let (gate, _server) = gate().await;
    let file = format!("sqlite://{}", gate.folder().join("state/tollgate.db").display());
    let mut store = SqliteConnection::connect(&file).await.unwrap();
    sqlx::query("ALTER TABLE users RENAME TO elsewhere").execute(&mut store).await.unwrap();
    for (method, path) in [(Method::GET, "users"), (Method::GET, "keys"), (Method::POST, "users/ann/disable")] {
        refused(&ask_text(&gate, method, path, "").await, 503, "store_failed", &["the log"]);
    }
    log.says(&["could not use the store", "users"]).await;
}
