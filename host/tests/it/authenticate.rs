//! Who may pass.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tollgate::{
    identity::{FreshKey, ParsedKey, Pepper},
    ports::{
        keys::{KeyState, Scope},
        store::{NewKey, Store},
    },
};

use crate::support::{
    Answer, LlmServer, TestProxy,
    proxy::START_UNIX_MS,
    raw::{Raw, exchange},
    rpm, until,
};

/// An inference path of each dialect.
const PATHS: [&str; 2] = ["/api/chat", "/v1/chat/completions"];

/// A change of the store is in force after this long: what is promised, so that the time itself is the matter here.
const IN_FORCE: Duration = Duration::from_secs(2);

fn chat() -> Value {
    json!({ "model": "llama3", "messages": [] })
}

/// A chat with these headers and no others that tell who calls.
async fn chat_with(gate: &TestProxy, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = gate.client().post(gate.url(path)).body(chat().to_string());
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::of(request.send().await.unwrap()).await
}

/// A well-formed key of this id and secret: what an attacker can make too. The last digits are its CRC-32 in base62.
fn forged(id: &str, secret: &str) -> String {
    let body = format!("op_{id}_{secret}");
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    let mut crc = !body.bytes().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc)));
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(crc % 62) as usize]);
        crc /= 62;
    }
    let text: String = body.chars().chain(digits.into_iter().rev().map(char::from)).collect();
    assert!(ParsedKey::parse(&text).is_some(), "{text}");
    text
}

/// A key with the id of this one and the secret of nobody.
fn with_wrong_secret(key: &str) -> String {
    let other = FreshKey::generate().unwrap();
    forged(ParsedKey::parse(key).unwrap().id(), other.secret())
}

#[tokio::test]
async fn a_valid_key_passes_and_its_text_never_reaches_the_backend() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let answer = gate.post("/api/chat", &chat()).await;
    assert_eq!((answer.status, answer.backend()), (200, Some("gpu-1")), "{answer:?}");
    let seen = server.seen().await;
    assert_eq!(seen.path, "/api/chat");
    assert!(!format!("{seen:?}").contains(gate.key()), "{seen:?}");
}

#[tokio::test]
async fn without_a_key_every_operation_that_needs_one_is_401_in_its_dialect() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let operations = [
        (Method::POST, "/api/chat"),
        (Method::POST, "/v1/chat/completions"),
        (Method::POST, "/api/show"),
        (Method::GET, "/api/tags"),
        (Method::GET, "/api/ps"),
        (Method::GET, "/v1/models"),
        (Method::GET, "/v1/models/llama3"),
        (Method::POST, "/api/pull"),
        (Method::POST, "/api/me"),
    ];
    for (method, path) in operations {
        let request = gate.client().request(method, gate.url(path)).body(chat().to_string());
        let answer = Answer::of(request.send().await.unwrap()).await;
        let message = answer.refusal(path, 401, "invalid_api_key");
        assert!(message.contains("a key is needed"), "{path}: {message}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn what_is_no_valid_key_of_this_gate_is_401() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let key = gate.key();
    let (mut cut, longer, shouted) = (key.to_owned(), format!("{key}x"), key.to_uppercase());
    cut.pop();
    let (unknown, wrong_secret) = (FreshKey::generate().unwrap(), with_wrong_secret(key));
    let tokens = ["sk-abc", "op_", "op_x_y", &cut, &longer, &shouted, unknown.text(), &wrong_secret];
    let bearer = tokens.map(|token| ("authorization", format!("Bearer {token}")));
    let api_key = tokens.map(|token| ("x-api-key", token.to_owned()));
    let others = [
        ("authorization", "Basic b3A6eA==".to_owned()),
        ("authorization", "Digest username=x".to_owned()),
        ("x-api-key", String::new()),
        // What else carries a key somewhere is no credential here.
        ("cookie", format!("key={key}")),
        ("proxy-authorization", format!("Bearer {key}")),
        ("api-key", key.to_owned()),
    ];
    for (name, value) in bearer.into_iter().chain(api_key).chain(others) {
        for path in PATHS {
            let answer = chat_with(&gate, path, &[(name, &value)]).await;
            answer.refusal(path, 401, "invalid_api_key");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{name}: {value}");
        }
    }
    let in_query = chat_with(&gate, &format!("/api/chat?api_key={key}"), &[]).await;
    in_query.refusal("/api/chat", 401, "invalid_api_key");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn an_unknown_id_a_wrong_secret_and_a_mangled_key_answer_alike_byte_for_byte() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut builder = TestProxy::builder().backend(&server);
    let revoked = builder.add_key("revoked", |_| {});
    let gate = builder.start().await;
    gate.set_key_state("revoked", KeyState::Revoked).await;
    let is_revoked = async || chat_with(&gate, "/api/chat", &[("x-api-key", &revoked)]).await.status == 403;
    until("the revocation", is_revoked).await;
    let unknown = FreshKey::generate().unwrap();
    let mut mangled = gate.key().to_owned();
    mangled.pop();
    for path in PATHS {
        let mut answers = Vec::new();
        for key in [unknown.text(), &with_wrong_secret(gate.key()), &with_wrong_secret(&revoked), &mangled] {
            let body = chat().to_string();
            let request = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: r-1\r\n\
                 authorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut raw = Raw::connect(&gate).await;
            raw.send(request).await;
            let answer = raw.text().await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
            // The second in which it was answered is nobody's secret.
            answers.push(answer.lines().filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("\n"));
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    }
}

#[tokio::test]
async fn what_became_of_a_key_shows_only_to_who_holds_its_secret() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut builder = TestProxy::builder().backend(&server);
    let disabled = builder.add_key("off", |_| {});
    let revoked = builder.add_key("gone", |_| {});
    let expired = builder.add_key("over", |key| key.expires_at_ms = Some(START_UNIX_MS));
    let gate = builder.start().await;
    gate.set_key_state("off", KeyState::Disabled).await;
    gate.set_key_state("gone", KeyState::Revoked).await;
    let (one, other) = (&disabled, &revoked);
    let both_refused = async || {
        let (one, other) = (gate.post_as(one, PATHS[0], &chat()).await, gate.post_as(other, PATHS[0], &chat()).await);
        (one.status, other.status) == (403, 403)
    };
    until("the change of both keys", both_refused).await;
    let calls = server.calls();
    for (key, code) in [(&disabled, "key_disabled"), (&revoked, "key_revoked"), (&expired, "key_expired")] {
        for path in PATHS {
            let word = code.trim_start_matches("key_");
            let told = gate.post_as(key, path, &chat()).await.refusal(path, 403, code);
            assert!(told.contains(word), "{told}");
            let kept = gate.post_as(&with_wrong_secret(key), path, &chat()).await.refusal(path, 401, "invalid_api_key");
            assert!(!kept.contains(word), "{kept}");
        }
    }
    assert_eq!(server.calls(), calls);
}

#[tokio::test]
async fn a_key_ends_at_its_time() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder()
        .backend(&server)
        .with_key(|key| key.expires_at_ms = Some(START_UNIX_MS + 30_000))
        .start()
        .await;
    gate.hand.advance(Duration::from_millis(29_999));
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 200);
    gate.hand.advance(Duration::from_millis(1));
    gate.post("/v1/chat/completions", &chat()).await.refusal("/v1", 403, "key_expired");
}

#[tokio::test]
async fn a_key_is_taken_from_either_header_or_from_both_when_they_agree() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let (key, bearer, shouted) = (gate.key(), format!("Bearer {}", gate.key()), format!("BEARER  {}", gate.key()));
    for headers in [
        &[("x-api-key", key)][..],
        &[("authorization", &bearer)],
        &[("authorization", &shouted)],
        &[("authorization", &bearer), ("x-api-key", key)],
    ] {
        for path in PATHS {
            assert_eq!(chat_with(&gate, path, headers).await.status, 200, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn a_key_under_another_scheme_than_bearer_is_no_key() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    for scheme in ["Basic", "Digest", "Token", "Bearer:"] {
        let credential = format!("{scheme} {}", gate.key());
        for path in PATHS {
            chat_with(&gate, path, &[("authorization", &credential)]).await.refusal(path, 401, "invalid_api_key");
        }
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn two_credentials_are_400_even_if_both_are_good() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut builder = TestProxy::builder().backend(&server);
    let second = builder.add_key("second", |_| {});
    let gate = builder.start().await;
    let (key, bearer, other) = (gate.key(), format!("Bearer {}", gate.key()), format!("Bearer {second}"));
    for headers in [
        [("authorization", bearer.as_str()), ("x-api-key", second.as_str())],
        [("authorization", &bearer), ("x-api-key", "")],
        [("authorization", &bearer), ("authorization", &bearer)],
        [("authorization", &bearer), ("authorization", &other)],
        [("authorization", &bearer), ("authorization", "Basic eA==")],
        [("authorization", "Basic eA=="), ("x-api-key", key)],
        [("x-api-key", key), ("x-api-key", key)],
        [("x-api-key", key), ("x-api-key", &second)],
    ] {
        for path in PATHS {
            chat_with(&gate, path, &headers).await.refusal(path, 400, "two_credentials");
        }
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_credential_that_cannot_be_read_is_400() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    for (line, path) in [("authorization: Bearer", PATHS[0]), ("x-api-key: \u{e9}", PATHS[1])] {
        let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{line}\r\n\r\n");
        exchange(&gate, request).await.refusal(path, 400, "unreadable_credential");
    }
}

#[tokio::test]
async fn a_stranger_is_answered_before_a_byte_of_the_body_is_read() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut raw = Raw::connect(&gate).await;
        raw.send(format!("POST /api/chat HTTP/1.1\r\nhost: x\r\n{expect}content-length: 1000\r\n\r\n")).await;
        let text = raw.text().await;
        assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
    }
}

#[tokio::test]
async fn a_change_of_the_store_is_in_force_within_two_seconds() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    // Waiting takes many calls, which the default limit must not refuse.
    let gate = TestProxy::builder().backend(&server).with_key(rpm(1_000_000)).start().await;
    let comes = async |key: &str, status: u16, what: &str| {
        let asked = async || gate.post_as(key, "/api/chat", &chat()).await.status == status;
        tokio::time::timeout(IN_FORCE, until(what, asked)).await.unwrap_or_else(|_| panic!("{what} takes too long"));
    };
    gate.set_key_state("default", KeyState::Disabled).await;
    comes(gate.key(), 403, "disabling").await;
    gate.set_key_state("default", KeyState::Active).await;
    comes(gate.key(), 200, "enabling").await;
    let fresh = FreshKey::generate().unwrap();
    let pepper = Pepper::load_or_create(&gate.folder().join("state")).unwrap();
    let store = gate.store().await;
    let new = NewKey {
        id: fresh.id().to_owned(),
        name: "fresh".to_owned(),
        user: Some("ann".to_owned()),
        limits: Vec::new(),
        scope: Scope::AllModels,
        may_manage: false,
        attributes: Vec::new(),
        expires_at_ms: None,
        created_at_ms: START_UNIX_MS,
        hash: pepper.hash(fresh.id(), fresh.secret()),
    };
    store.create_key(new).await.unwrap();
    store.close().await;
    comes(fresh.text(), 200, "a new key").await;
    gate.set_key_state("default", KeyState::Revoked).await;
    comes(gate.key(), 403, "revoking").await;
}

#[tokio::test]
async fn keys_that_were_not_confirmed_for_a_minute_prove_nobody_until_the_store_is_back() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let file = gate.folder().join("state/tollgate.db");
    let mut store = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    sqlx::query("ALTER TABLE revision RENAME TO elsewhere").execute(&mut store).await.unwrap();
    gate.hand.advance(Duration::from_secs(60));
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 200, "the last keys serve for a minute");
    gate.hand.advance(Duration::from_millis(1));
    for path in PATHS {
        assert_eq!(gate.post(path, &chat()).await.status, 503, "{path}");
    }
    let readiness = gate.admin("/readyz").await;
    assert_eq!((readiness.status, &readiness.json()["keys"]), (503, &json!("stale")));
    let stranger = chat_with(&gate, "/api/chat", &[("x-api-key", "sk-foreign")]).await;
    assert_eq!(stranger.status, 401, "who presents no key of ours needs no store to be refused");
    assert_eq!(server.calls(), 1);
    sqlx::query("ALTER TABLE elsewhere RENAME TO revision").execute(&mut store).await.unwrap();
    until("the store's return", async || gate.post("/api/chat", &chat()).await.status == 200).await;
}
