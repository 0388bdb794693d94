//! What is left of limits when Redis has lost what it counted, and what operators see of it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tollgate::ports::limits::LimitName;

use crate::support::{
    LlmServer, Log, Script, TestProxy,
    binary::run,
    proxy::{Builder, overall},
    redis::RedisServer,
};

async fn server() -> LlmServer {
    LlmServer::start("gpu-1", &["llama3:latest"]).await
}

fn sharing(server: &LlmServer, redis: &RedisServer) -> Builder {
    let builder = TestProxy::builder().backend(server).set(&format!("redis.url = \"{}\"", redis.url()));
    builder.set("redis.deadline = \"10s\"")
}

/// A call that takes 520 tokens, if it is admitted; its status.
async fn call(gate: &TestProxy, server: &LlmServer) -> u16 {
    let usage = json!({ "prompt_tokens": 20, "completion_tokens": 500, "total_tokens": 520 });
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    let answer = json!({ "id": "1", "object": "chat.completion", "choices": [choice], "usage": usage });
    server.script(Script::json(200, &answer.to_string()));
    let body = json!({ "model": "llama3", "messages": [], "max_tokens": 500 });
    gate.post("/v1/chat/completions", &body).await.status
}

async fn shown(gate: &TestProxy) -> Value {
    gate.api(Method::GET, "/api/v1/keys/default/limits").await.json()
}

/// Capacity, spent, reserved and remaining of this limit, and where the figures come from.
fn of(list: &Value, name: &str) -> ([u64; 4], String) {
    let limit = list["limits"].as_array().unwrap().iter().find(|limit| limit["limit"] == name).unwrap();
    let figures = ["capacity", "spent", "reserved", "remaining"].map(|field| limit[field].as_u64().unwrap());
    (figures, list["source"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_is_spent_stays_spent_through_a_redis_that_comes_back_empty_and_a_restart() {
    let (redis, server) = (RedisServer::start(), server().await);
    let gate = sharing(&server, &redis).set("redis.tag = \"spent-day\"").set("limits.tokens_per_day = 1000");
    let gate = gate.start().await;
    let log = Log::listen();
    assert_eq!([call(&gate, &server).await, call(&gate, &server).await], [200, 429]);
    // What is settled waits for Redis; what isn't yet doesn't wait there either.
    gate.until_idle().await;
    gate.until_metric("tollgate_redis_waiting", 0.0).await;
    assert_eq!(of(&shown(&gate).await, "tokens-per-day"), ([1_000, 520, 0, 480], "shared".to_owned()));

    let port = redis.port();
    drop(redis);
    gate.until_metric("tollgate_redis_degraded", 1.0).await;
    let redis = RedisServer::start_at(port);
    gate.until_metric("tollgate_redis_degraded", 0.0).await;
    assert_eq!(call(&gate, &server).await, 429, "520 of 1,000 tokens are spent");
    assert_eq!(of(&shown(&gate).await, "tokens-per-day"), ([1_000, 520, 0, 480], "shared".to_owned()));
    for (series, value) in [("losses", 1.0), ("restored", 1.0), ("unwritten_units", 0.0), ("forgotten_units", 0.0)] {
        assert_eq!(gate.metric(&format!("tollgate_redis_{series}_total")).await, value, "{series}");
    }
    assert_eq!(gate.metric("tollgate_limits_overshoot_units_total").await, 0.0);
    log.says(&["Redis has lost its counters", "\"budgets\":1"]).await;

    // And when nobody is left who knew.
    let port = redis.port();
    drop(redis);
    let redis = RedisServer::start_at(port);
    let gate = gate.restart().await;
    gate.until_metric("tollgate_redis_degraded", 0.0).await;
    assert_eq!(call(&gate, &server).await, 429);
    assert_eq!(of(&shown(&gate).await, "tokens-per-day").0, [1_000, 520, 0, 480]);
    drop(redis);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_what_redis_holds_and_this_gates_share_without_it() {
    let (redis, server) = (RedisServer::start(), server().await);
    let gate = sharing(&server, &redis).set("redis.replicas = 2").with_key(|key| {
        key.limits.push(overall(LimitName::RequestsPerMinute, 8));
        key.limits.push(overall(LimitName::TokensPerDay, 9_000));
    });
    let gate = gate.start().await;
    let listen = format!("admin.listen={}", gate.admin_address());
    let show = |format: &str| run(gate.folder(), &["limits", "show", "default", "-o", format, "--set", &listen]);
    for _ in 0..3 {
        assert_eq!(call(&gate, &server).await, 200);
    }
    gate.until_idle().await;
    gate.until_metric("tollgate_redis_waiting", 0.0).await;
    let keys = redis.keys();
    let list = show("json").json();
    assert_eq!(of(&list, "requests-per-minute"), ([8, 3, 0, 5], "shared".to_owned()));
    assert_eq!(of(&list, "tokens-per-day").0, [9_000, 1_560, 0, 7_440]);
    assert!(list["limits"].as_array().unwrap().iter().all(|limit| limit["resets_at"].is_string()), "{list}");
    let table = show("table");
    assert!(table.code == Some(0) && table.stderr.contains("figures: shared"), "{table:?}");
    assert_eq!(redis.keys(), keys, "looking leaves nothing behind");
    for _ in 0..6 {
        call(&gate, &server).await;
    }
    let limits = "{policy=\"rate-limit\",limit=\"requests-per-minute\"}";
    assert_eq!(gate.metric(&format!("tollgate_limit_refusals_total{limits}")).await, 1.0);
    let admitted = gate.metric("tollgate_limits_admitted_total").await;
    let refused = gate.metric("tollgate_limits_refused_total").await;
    assert_eq!((admitted, refused), (8.0, 1.0));
    assert!(gate.metric("tollgate_redis_duration_seconds_count").await >= 9.0);

    drop(redis);
    gate.until_metric("tollgate_redis_degraded", 1.0).await;
    assert_eq!(of(&show("json").json(), "requests-per-minute"), ([4, 0, 0, 4], "this process, degraded".to_owned()));
    let table = show("table");
    assert!(table.stderr.contains("figures: this process, degraded"), "{table:?}");
    gate.advance(Duration::from_secs(7)).await;
    assert_eq!(gate.metric("tollgate_redis_degraded_seconds_total").await, 7.0);
}

#[tokio::test]
async fn a_second_gate_on_a_folder_says_once_that_they_count_apart_unless_they_share() {
    const APART: &str = "another gate uses this state folder";
    let server = server().await;
    let log = Log::listen();
    let alone = TestProxy::builder().backend(&server).start().await;
    let folder = |gate: &TestProxy| gate.folder().join("state").display().to_string();
    let said = |gate: &TestProxy| log.lines_with(&[APART, &folder(gate)]).len();
    assert_eq!(said(&alone), 0);
    let second = alone.beside().await;
    assert_eq!(said(&alone), 1);
    second.stop().await;
    let redis = RedisServer::start();
    let sharing = sharing(&server, &redis).start().await;
    let second = sharing.beside().await;
    assert_eq!(said(&sharing), 0);
    second.stop().await;
}
