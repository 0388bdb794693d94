//! What the default policy makes of the limits of keys, users and models.

use std::path::Path;

use serde_json::{Value, json};
use tollgate::ports::limits::LimitName;

use crate::support::{
    Answer, LlmServer, TestProxy,
    binary::run,
    proxy::{of_model, overall},
    rpm, until,
};

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [], "max_tokens": 10 })
}

async fn server() -> LlmServer {
    LlmServer::start("gpu-1", &["llama3:latest", "small:1b"]).await
}

/// Calls until a limit says no; how many passed.
async fn spend(gate: &TestProxy, key: &str, model: &str, limit: &str) -> usize {
    for passed in 0..200 {
        let answer = gate.post_as(key, "/v1/chat/completions", &chat(model)).await;
        if answer.status == 429 {
            assert!(names(&answer, limit), "'{limit}' is not named: {answer:?}");
            return passed;
        }
        assert_eq!(answer.status, 200, "{passed}: {answer:?}");
    }
    panic!("'{limit}' does not hold")
}

fn names(answer: &Answer, limit: &str) -> bool {
    answer.body.contains(&format!("'{limit}'"))
}

#[tokio::test]
async fn a_users_limit_counts_all_of_their_keys_and_stands_in_for_the_default() {
    let server = server().await;
    let builder = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 1");
    let mut builder = builder.user("ann", vec![overall(LimitName::RequestsPerMinute, 5)]);
    let laptop = builder.add_key("laptop", |key| key.user = Some("ann".to_owned()));
    let phone = builder.add_key("phone", |key| {
        key.user = Some("ann".to_owned());
        key.limits.push(overall(LimitName::RequestsPerMinute, 2));
    });
    let bobs = builder.add_key("laptop", |key| key.user = Some("bob".to_owned()));
    let gate = builder.start().await;
    assert_eq!(spend(&gate, &phone, "llama3", "requests-per-minute").await, 2, "the key's own limit is the smaller");
    assert_eq!(spend(&gate, &laptop, "llama3", "user-requests-per-minute").await, 3, "what the phone left");
    assert_eq!(spend(&gate, &bobs, "llama3", "requests-per-minute").await, 1, "bob has no limit, so the default holds");
    assert_eq!(server.calls(), 6);
}

#[tokio::test]
async fn a_models_limit_holds_for_that_model_alone_in_whatever_spelling() {
    let server = server().await;
    let user = vec![of_model("llama3:latest", LimitName::RequestsPerMinute, 3)];
    let mut builder = TestProxy::builder().backend(&server).user("ann", user);
    let key = builder.add_key("laptop", |key| {
        key.user = Some("ann".to_owned());
        key.limits.push(of_model("small:1b", LimitName::RequestsPerMinute, 2));
        key.limits.push(overall(LimitName::RequestsPerMinute, 6));
    });
    let gate = builder.start().await;
    assert_eq!(gate.post_as(&key, "/api/chat", &chat("Library/SMALL:1B")).await.status, 200);
    assert_eq!(spend(&gate, &key, "small:1b", "model-requests-per-minute").await, 1);
    assert_eq!(spend(&gate, &key, "LLaMA3", "user-model-requests-per-minute").await, 3);
    assert_eq!(server.calls(), 5, "what was refused is not charged to the key's own limit either");
}

#[tokio::test]
async fn a_limit_of_zero_admits_nothing() {
    let server = server().await;
    let gate = TestProxy::builder().backend(&server).with_key(rpm(0)).start().await;
    assert_eq!(spend(&gate, gate.key(), "llama3", "requests-per-minute").await, 0);
    assert_eq!((gate.get("/v1/models").await.status, server.calls()), (200, 0), "listings are free");
}

#[tokio::test]
async fn a_limit_that_is_set_by_command_holds_while_the_gate_runs() {
    let server = server().await;
    // Waiting takes many calls, which the default must not refuse.
    let builder = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 1000000");
    let gate = builder.with_key(|key| key.user = Some("ann".to_owned())).start().await;
    let folder: &Path = gate.folder();
    let set = async |arguments: &[&str], status: u16| {
        let done = run(folder, arguments);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let comes = async || gate.post("/v1/chat/completions", &chat("llama3")).await.status == status;
        until(&format!("{arguments:?}"), comes).await;
    };
    set(&["keys", "set", "default", "--rpm", "0"], 429).await;
    set(&["keys", "set", "default", "--rpm", "none"], 200).await;
    set(&["users", "set", "ann", "--model-limit", "LLaMA3:rpm=0"], 429).await;
    set(&["users", "set", "ann", "--model-limit", "llama3:latest:rpm=none"], 200).await;
}
