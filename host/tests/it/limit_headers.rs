//! What answers tell of limits: the standard's headers on every surface, and those that the surface's clients read.

use serde_json::json;
use tollgate::ports::limits::LimitName;

use crate::support::{Answer, LlmServer, Script, TestProxy, proxy::overall};

/// A gate at noon whose key has these limits, and its backend.
async fn gate(limits: &[(LimitName, u64)]) -> (TestProxy, LlmServer) {
    let server = LlmServer::start("gpu-1", &["llama3"]).await;
    let limits: Vec<_> = limits.iter().map(|(name, limit)| overall(*name, *limit)).collect();
    let builder = TestProxy::builder().backend(&server);
    (builder.with_key(move |key| key.limits = limits).start().await, server)
}

async fn chat(gate: &TestProxy, path: &str, model: &str) -> Answer {
    let body = json!({ "model": model, "messages": [], "max_tokens": 10, "stream": false });
    gate.post(path, &body).await
}

#[track_caller]
fn check(answer: &Answer, status: u16, headers: &[(&str, Option<&str>)]) {
    assert_eq!(answer.status, status, "{answer:?}");
    for (name, value) in headers {
        assert_eq!(answer.header(name), *value, "{name} of {answer:?}");
    }
}

#[tokio::test]
async fn an_answer_tells_what_is_left_and_when_it_is_back() {
    let (gate, _server) = gate(&[(LimitName::RequestsPerMinute, 5), (LimitName::Concurrent, 3)]).await;
    let ollama = chat(&gate, "/api/chat", "llama3").await;
    let policy = "\"requests-per-minute\";q=5;w=60, \"concurrent\";q=3;qu=\"concurrent-requests\"";
    let left = "\"requests-per-minute\";r=4;t=61, \"concurrent\";r=2";
    check(&ollama, 200, &[("ratelimit-policy", Some(policy)), ("ratelimit", Some(left))]);
    check(&ollama, 200, &[("x-ratelimit-limit-requests", None)]);
    let openai = chat(&gate, "/v1/chat/completions", "llama3").await;
    check(
        &openai,
        200,
        &[
            ("ratelimit", Some("\"requests-per-minute\";r=3;t=61, \"concurrent\";r=2")),
            ("x-ratelimit-limit-requests", Some("5")),
            ("x-ratelimit-remaining-requests", Some("3")),
            ("x-ratelimit-reset-requests", Some("1m1s")),
            ("x-ratelimit-limit-tokens", None),
            ("anthropic-ratelimit-requests-limit", None),
        ],
    );
}

#[tokio::test]
async fn a_refused_call_is_told_the_same_and_to_wait_no_shorter_and_no_longer() {
    let (gate, server) = gate(&[(LimitName::RequestsPerMinute, 1)]).await;
    assert_eq!(chat(&gate, "/api/chat", "llama3").await.status, 200);
    let refused = chat(&gate, "/v1/chat/completions", "llama3").await;
    check(
        &refused,
        429,
        &[
            ("retry-after", Some("61")),
            ("ratelimit", Some("\"requests-per-minute\";r=0;t=61")),
            ("x-ratelimit-remaining-requests", Some("0")),
            ("x-ratelimit-reset-requests", Some("1m1s")),
        ],
    );
    let anthropic = chat(&gate, "/v1/messages", "llama3").await;
    check(
        &anthropic,
        429,
        &[
            ("retry-after", Some("61")),
            ("anthropic-ratelimit-requests-limit", Some("1")),
            ("anthropic-ratelimit-requests-remaining", Some("0")),
            ("anthropic-ratelimit-requests-reset", Some("2026-06-10T12:01:01Z")),
            ("x-ratelimit-limit-requests", None),
        ],
    );
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_spent_budget_says_when_its_period_ends_and_not_to_try_before() {
    let (gate, server) = gate(&[(LimitName::TokensPerDay, 100)]).await;
    let usage = json!({ "prompt_tokens": 20, "completion_tokens": 500, "total_tokens": 520 });
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    server.script(Script::json(
        200,
        &json!({ "object": "chat.completion", "choices": [choice], "usage": usage }).to_string(),
    ));
    check(&chat(&gate, "/v1/chat/completions", "llama3").await, 200, &[("x-ratelimit-limit-tokens", Some("100"))]);
    let refused = chat(&gate, "/v1/chat/completions", "llama3").await;
    check(
        &refused,
        429,
        &[
            ("retry-after", Some("43200")),
            ("x-should-retry", Some("false")),
            ("x-ratelimit-remaining-tokens", Some("0")),
            ("x-ratelimit-reset-tokens", Some("12h0m0s")),
        ],
    );
    assert_eq!(refused.json()["error"]["code"], "insufficient_quota");
    let policy = refused.header("ratelimit-policy").unwrap();
    assert!(policy.contains("\"tokens-per-day\";q=100;qu=\"tollgate-tokens\";w=86400"), "{policy}");
}

#[tokio::test]
async fn what_costs_nothing_tells_of_no_limit() {
    let (gate, _server) = gate(&[(LimitName::RequestsPerMinute, 5)]).await;
    check(&gate.get("/api/tags").await, 200, &[("ratelimit", None), ("ratelimit-policy", None)]);
    // What it had reserved is given back, so no number would be true.
    check(&chat(&gate, "/api/chat", "unknown").await, 404, &[("ratelimit", None)]);
    let answer = chat(&gate, "/api/chat", "llama3").await;
    check(&answer, 200, &[("ratelimit", Some("\"requests-per-minute\";r=4;t=61"))]);
}
