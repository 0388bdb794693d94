//! What the default policy makes of the limits of keys, users and models.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tollgate::ports::limits::{LimitChange, LimitName};

use crate::support::{
    Answer, LlmServer, Script, TestProxy,
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

/// An answer of a backend that spent this many tokens.
fn answer(input: u32, output: u32) -> Script {
    let usage = json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output });
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    let body = json!({ "id": "1", "object": "chat.completion", "choices": [choice], "usage": usage });
    Script::json(200, &body.to_string())
}

/// Lets the server spend 520 tokens on each of so many calls: far more than a caller's cap of ten makes one expect.
fn spends(server: &LlmServer, calls: usize) {
    (0..calls).for_each(|_| server.script(answer(20, 500)));
}

#[tokio::test]
async fn tokens_in_any_minute_are_limited_by_what_was_used() {
    let server = server().await;
    let gate = TestProxy::builder().backend(&server).set("limits.tokens_per_minute = 1000").start().await;
    spends(&server, 4);
    assert_eq!(spend(&gate, gate.key(), "llama3", "tokens-per-minute").await, 2);
    gate.advance(Duration::from_secs(121)).await;
    assert_eq!(gate.post("/v1/chat/completions", &chat("llama3")).await.status, 200, "what was owed is paid");
}

#[tokio::test]
async fn a_days_budget_starts_anew_at_midnight_and_a_months_on_the_first() {
    // The clock starts on the tenth of June at noon, UTC.
    const NOON_TO_MIDNIGHT: Duration = Duration::from_secs(12 * 3600);
    for (line, limit, rest) in [
        ("limits.tokens_per_day = 1000", "tokens-per-day", NOON_TO_MIDNIGHT),
        ("limits.tokens_per_month = 1000", "tokens-per-month", NOON_TO_MIDNIGHT + Duration::from_secs(20 * 86_400)),
    ] {
        let server = server().await;
        let gate = TestProxy::builder().backend(&server).set(line).start().await;
        spends(&server, 4);
        assert_eq!(spend(&gate, gate.key(), "llama3", limit).await, 2, "{line}");
        gate.advance(rest - Duration::from_secs(1)).await;
        let refused = gate.post("/v1/chat/completions", &chat("llama3")).await;
        assert!(refused.status == 429 && names(&refused, limit), "{refused:?}");
        gate.advance(Duration::from_secs(1)).await;
        assert_eq!(gate.post("/v1/chat/completions", &chat("llama3")).await.status, 200, "{line}");
    }
}

#[tokio::test]
async fn a_users_budget_counts_all_of_their_keys_and_a_models_budget_that_model() {
    let server = server().await;
    let user = vec![overall(LimitName::TokensPerDay, 2_000)];
    let mut builder = TestProxy::builder().backend(&server).user("ann", user);
    let laptop = builder.add_key("laptop", |key| {
        key.user = Some("ann".to_owned());
        key.limits.push(of_model("small:1b", LimitName::TokensPerMinute, 500));
    });
    let phone = builder.add_key("phone", |key| key.user = Some("ann".to_owned()));
    let gate = builder.start().await;
    spends(&server, 5);
    assert_eq!(spend(&gate, &laptop, "small:1b", "model-tokens-per-minute").await, 1);
    assert_eq!(gate.post_as(&laptop, "/v1/chat/completions", &chat("llama3")).await.status, 200);
    assert_eq!(spend(&gate, &phone, "llama3", "user-tokens-per-day").await, 2);
    let refused = gate.post_as(&laptop, "/v1/chat/completions", &chat("llama3")).await;
    assert!(refused.status == 429 && names(&refused, "user-tokens-per-day"), "{refused:?}");
}

/// A stream that began; it ends with the script.
async fn stream(gate: &TestProxy, key: &str, model: &str, server: &LlmServer) -> (reqwest::Response, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{}\n").wait(&go_on).end());
    let request = gate.client().post(gate.url("/api/generate")).bearer_auth(key);
    let mut response = request.body(json!({ "model": model, "prompt": "x" }).to_string()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.chunk().await.unwrap();
    (response, go_on)
}

#[tokio::test]
async fn calls_at_the_same_time_are_limited_for_key_user_and_model() {
    let server = server().await;
    let user = vec![overall(LimitName::Concurrent, 3), of_model("small:1b", LimitName::Concurrent, 1)];
    let mut builder = TestProxy::builder().backend(&server).set("limits.concurrent = 1").user("ann", user);
    let laptop = builder.add_key("laptop", |key| {
        key.user = Some("ann".to_owned());
        key.limits.push(overall(LimitName::Concurrent, 2));
    });
    let phone = builder.add_key("phone", |key| key.user = Some("ann".to_owned()));
    let gate = builder.start().await;
    let refused = async |key: &str, model: &str, limit: &str| {
        let answer = gate.post_as(key, "/v1/chat/completions", &chat(model)).await;
        assert!(answer.status == 429 && names(&answer, limit), "{limit}: {answer:?}");
    };
    let (first, first_goes_on) = stream(&gate, &laptop, "llama3", &server).await;
    let (second, _second_waits) = stream(&gate, &laptop, "small:1b", &server).await;
    refused(&laptop, "llama3", "concurrent").await;
    refused(&phone, "small:1b", "user-model-concurrent").await;
    let (third, _third_waits) = stream(&gate, &phone, "llama3", &server).await;
    refused(&phone, "llama3", "user-concurrent").await;
    // One ends, one caller leaves: both give back their place.
    first_goes_on.notify_one();
    assert_eq!(first.text().await.unwrap(), "");
    let passes = async |key: &str, model: &str| gate.post_as(key, "/api/generate", &chat(model)).await.status == 200;
    until("the end of the first", async || passes(&phone, "llama3").await).await;
    drop(second);
    until("the leaving of the second", async || passes(&phone, "small:1b").await).await;
    drop(third);
    let (_alone, _waits) = stream(&gate, gate.key(), "llama3", &server).await;
    refused(gate.key(), "llama3", "concurrent").await;
}

#[tokio::test]
async fn all_limits_that_there_are_can_be_charged_together() {
    let server = server().await;
    let all = || -> Vec<LimitChange> {
        let names = LimitName::ALL.into_iter();
        names.flat_map(|name| [overall(name, 1_000_000), of_model("llama3:latest", name, 1_000_000)]).collect()
    };
    let builder = TestProxy::builder().backend(&server).user("ann", all()).with_key(|key| {
        key.user = Some("ann".to_owned());
        key.limits = all();
    });
    let gate = builder.start().await;
    assert_eq!(gate.post("/v1/chat/completions", &chat("llama3")).await.status, 200);
}
