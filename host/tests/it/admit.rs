//! What a call may cost.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate::ports::keys::Scope;

use crate::support::{Answer, LlmServer, Script, TestProxy, rpm};

fn chat() -> Value {
    json!({ "model": "llama3", "messages": [] })
}

/// Chats until the limit says no; how many passed, and the refusal.
async fn spend(gate: &TestProxy, key: &str) -> (usize, Answer) {
    for passed in 0.. {
        let answer = gate.post_as(key, "/api/chat", &chat()).await;
        if answer.status == 429 {
            return (passed, answer);
        }
        assert!(answer.status == 200 && passed < 200, "{passed}: {answer:?}");
    }
    unreachable!("the loop has no end of its own")
}

fn retry_after(answer: &Answer) -> Duration {
    Duration::from_secs(answer.header("retry-after").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap())
}

#[tokio::test]
async fn the_hundred_and_first_call_within_a_minute_is_429_with_a_true_retry_after() {
    const SLICE: Duration = Duration::from_secs(1);
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let (passed, refused) = spend(&gate, gate.key()).await;
    assert_eq!((passed, server.calls()), (100, 100));
    let wait = retry_after(&refused);
    gate.advance(wait - SLICE).await;
    let still = gate.post("/api/chat", &chat()).await;
    assert_eq!((still.status, retry_after(&still)), (429, SLICE), "{still:?}");
    gate.advance(SLICE).await;
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 200);
    assert_eq!(server.calls(), 101);
}

#[tokio::test]
async fn a_call_leaves_the_window_by_itself_and_not_with_the_others() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 2").start().await;
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 200);
    gate.advance(Duration::from_millis(30_500)).await;
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 200);
    let refused = gate.post("/api/chat", &chat()).await;
    assert!(refused.status == 429 && retry_after(&refused) <= Duration::from_secs(31), "{refused:?}");
    gate.advance(retry_after(&refused)).await;
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 200, "the first call has left");
    let refused = gate.post("/api/chat", &chat()).await;
    assert!(
        refused.status == 429 && retry_after(&refused) <= Duration::from_secs(31),
        "the second has not: {refused:?}"
    );
}

#[tokio::test]
async fn a_key_has_its_own_limit_else_the_configured_one() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut builder = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 4");
    let less = builder.add_key("less", rpm(2));
    let more = builder.add_key("more", rpm(7));
    let gate = builder.start().await;
    assert_eq!(spend(&gate, &less).await.0, 2);
    assert_eq!(spend(&gate, &more).await.0, 7);
    assert_eq!(spend(&gate, gate.key()).await.0, 4, "other keys have spent nothing of this one's");
}

#[tokio::test]
async fn one_limit_counts_for_all_inference_and_refuses_in_the_dialect_of_the_caller() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 6").start().await;
    let calls = [
        ("/api/chat", chat()),
        ("/api/generate", json!({ "model": "llama3", "prompt": "x" })),
        ("/api/embed", json!({ "model": "llama3", "input": "x" })),
        ("/api/embeddings", json!({ "model": "llama3", "prompt": "x" })),
        ("/v1/chat/completions", chat()),
        ("/v1/embeddings", json!({ "model": "llama3", "input": "x" })),
    ];
    for (path, body) in &calls {
        assert_eq!(gate.post(path, body).await.status, 200, "{path}");
    }
    for (path, body) in &calls {
        let refused = gate.post(path, body).await;
        let message = refused.refusal(path, 429, "rate_limit_exceeded");
        assert!(message.contains("'requests-per-minute' of 6"), "{message}");
        assert!(retry_after(&refused) <= Duration::from_secs(61), "{refused:?}");
    }
    let refused = gate.post("/v1/chat/completions", &chat()).await;
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert_eq!(server.calls(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_hundred_callers_at_once_exactly_a_hundred_pass() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = Arc::new(TestProxy::before(&[&server]).await);
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let gate = Arc::clone(&gate);
        callers.spawn(async move { gate.post("/api/chat", &chat()).await.status });
    }
    let statuses = callers.join_all().await;
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(200), count(429), server.calls()), (100, 100, 100), "{statuses:?}");
}

#[tokio::test]
async fn listings_facts_and_local_answers_are_free_and_never_refused_by_the_limit() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 1").start().await;
    let all_pass = async || {
        for path in ["/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/v1/models/llama3"] {
            assert_eq!(gate.get(path).await.status, 200, "{path}");
        }
        assert_eq!(gate.post("/api/show", &json!({ "model": "llama3" })).await.status, 200);
    };
    all_pass().await;
    all_pass().await;
    assert_eq!(spend(&gate, gate.key()).await.0, 1);
    all_pass().await;
}

#[tokio::test]
async fn a_call_that_no_backend_got_costs_nothing() {
    let server = LlmServer::start("gpu-1", &["llama3:latest", "qwen3:8b"]).await;
    let mut builder = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 1");
    let scoped = builder.add_key("scoped", |key| key.scope = Scope::Models(["llama3:latest".into()].into()));
    let gate = builder.start().await;
    for (path, body) in [
        ("/api/chat", json!({ "model": "nobody-has-it" })),
        ("/api/chat", json!({ "model": "qwen3:8b" })),
        ("/v1/chat/completions", json!({ "model": "qwen3:8b" })),
    ] {
        gate.post_as(&scoped, path, &body).await.refusal(path, 404, "model_not_found");
    }
    gate.post_as(&scoped, "/api/chat", &json!({ "model": "a:cloud" })).await.refusal("/api", 403, "cloud_model");
    gate.post_as(&scoped, "/api/chat", &json!({ "no": "model" })).await.refusal("/api", 400, "missing_model");
    let pull = gate.client().request(Method::POST, gate.url("/api/pull")).bearer_auth(&scoped);
    assert_eq!(pull.send().await.unwrap().status(), 403);
    assert_eq!(server.calls(), 0);
    assert_eq!(spend(&gate, &scoped).await.0, 1);
}

#[tokio::test]
async fn a_call_for_which_no_backend_was_up_costs_nothing() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    // Probes are rare here: the first call finds out by itself that nobody listens.
    let builder = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 1");
    let gate = builder.set("upstream.probe_interval = \"400ms\"").start().await;
    let address = server.kill().await;
    let first = gate.post("/api/chat", &chat()).await;
    assert!(matches!(first.status, 502 | 503), "{first:?}");
    gate.until_backend_is("gpu-1", false).await;
    gate.post("/v1/chat/completions", &chat()).await.refusal("/v1", 503, "no_backend");
    let server = LlmServer::start_at("gpu-1", &["llama3:latest"], address).await;
    gate.until_backend_is("gpu-1", true).await;
    assert_eq!((spend(&gate, gate.key()).await.0, server.calls()), (1, 1));
}

#[tokio::test]
async fn a_call_that_a_backend_got_costs_whatever_it_answered() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 3").start().await;
    server.script(Script::json(404, r#"{"error":"no such model"}"#));
    server.script(Script::json(500, r#"{"error":"out of memory"}"#));
    server.script(Script::raw("").reset());
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 404);
    assert_eq!(gate.post("/api/chat", &chat()).await.status, 500);
    gate.post("/v1/chat/completions", &chat()).await.refusal("/v1", 502, "bad_backend_answer");
    assert_eq!((spend(&gate, gate.key()).await.0, server.calls()), (0, 3));
}
