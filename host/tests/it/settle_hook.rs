//! The hook `settle`: policies are told what each call came to, off its path; what they do there, or fail to do, changes
//! nothing of any call.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{LlmServer, Log, Script, TestProxy, guest, proxy::Builder, rpm, soon, until, wat};

const CHAT: &str = "/api/chat";

async fn gate_with(policy: &str, more: impl FnOnce(Builder) -> Builder) -> (TestProxy, LlmServer) {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = more(TestProxy::builder().backend(&server));
    (builder.policy(policy, &guest::gallery(policy)).start().await, server)
}

/// Loops at every call but those that are made up before it is asked, whose model has seven letters: one that loops at those
/// isn't loaded.
const LOOPS: &str = "(if (i32.ne (i32.load offset=8 (local.get 0)) (i32.const 7)) (then (loop $again (br $again))))";

/// An observer whose `done` does this.
fn observer(body: &str) -> Vec<u8> {
    guest::component("observer", &guest::module_that("", "(i32.const 1024)", &wat::hook(wat::SETTLE, body)))
}

fn told(policy: &str) -> String {
    format!("tollgate_policy_call_duration_seconds_count{{policy=\"{policy}\",hook=\"settle\"}}")
}

fn faults(policy: &str, kind: &str) -> String {
    format!("tollgate_policy_faults_total{{policy=\"{policy}\",hook=\"settle\",kind=\"{kind}\"}}")
}

async fn chat(gate: &TestProxy) {
    let answer = gate.post(CHAT, &json!({ "model": "llama3", "messages": [] })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Calls until this is so; how often that was.
async fn calls_until(gate: &TestProxy, is_so: impl AsyncFn() -> bool) -> f64 {
    let mut calls = 0.0;
    loop {
        chat(gate).await;
        calls += 1.0;
        if is_so().await {
            return calls;
        }
    }
}

#[tokio::test]
async fn an_observer_is_told_once_of_every_call_and_what_it_came_to() {
    let log = Log::listen();
    let (gate, server) = gate_with("ask-settle", |builder| builder).await;
    let list = gate.api(Method::GET, "/api/v1/policies").await.json();
    assert_eq!(list["policies"][0]["hooks"], json!(["settle"]), "{list}");
    let key = gate.key()[3..13].to_owned();
    let go_on = Arc::new(Notify::new());
    let piece = "{\"message\":{\"content\":\"a\"},\"done\":false}\n";
    let last = "{\"done\":true,\"prompt_eval_count\":26,\"eval_count\":3}\n";
    server.script(Script::ndjson().chunk(piece).wait(&go_on).chunk(last).end());
    let body = r#"{"model":"llama3","messages":[],"options":{"num_predict":9}}"#;
    let mut response = gate.request(Method::POST, CHAT).body(body).send().await.unwrap();
    soon("the first piece", response.chunk()).await.unwrap().unwrap();
    gate.hand.advance(Duration::from_millis(1500));
    go_on.notify_one();
    soon("the rest", response.bytes()).await.unwrap();
    let call = format!(
        "settled Call {{ surface: Surface::Ollama, operation: Operation::Chat, model: \\\"llama3:latest\\\", body-bytes: {}, \
         input-tokens: {}, output-cap: Some(9), streaming: true }} Principal {{ subject: \\\"{key}\\\", user: None }}",
        body.len(),
        body.len().div_ceil(4)
    );
    let outcome = "Outcome { end: End::Complete, status: 200, backend: Some(0), input-tokens: 26, output-tokens: 3, \
                   estimated: false, first-token-us: Some(0), total-us: 1500000 }";
    log.says(&[&call, outcome]).await;

    server.script(Script::json(503, r#"{"error":"busy"}"#));
    gate.request(Method::POST, CHAT).body(body).send().await.unwrap();
    let outcome = "status: 503, backend: Some(0), input-tokens: 0, output-tokens: 0, estimated: false, \
                   first-token-us: None";
    log.says(&[&key, outcome]).await;
    gate.get("/api/tags").await;
    log.says(&[&key, "operation: Operation::Listing", "status: 200, backend: None"]).await;
    gate.until_metric(&told("ask-settle"), 3.0).await;
    assert_eq!(log.lines_with(&["settled Call", &key]).len(), 3);
}

#[tokio::test]
async fn an_observer_asks_the_store_and_the_catalogue_but_the_request_is_gone() {
    let answered = [
        ("limit key requests-per-minute", "100"),
        ("attribute team", "red+blue"),
        ("add count 2 0 | add count 3 0", "2 | 5"),
        ("size-bytes llama3", "4000000000"),
        ("backend-name 0", "gpu-1"),
        ("now", "1781092800000"),
    ];
    let refused = [
        ("request.header", "header host"),
        ("request.json", "json /model"),
        ("request.peer", "peer"),
        ("request.peer-in", "peer-in 10.0.0.0/8"),
        ("request.path", "path"),
        ("request.prefix-hash", "prefix-hash 1"),
        ("keys.verify", "verify"),
        ("catalogue.candidates", "candidates llama3"),
    ];
    let log = Log::listen();
    let mut keys = Vec::new();
    let (gate, _server) = gate_with("ask-settle", |mut builder| {
        // What is asked stands in the key's own attribute.
        let asked = answered.iter().map(|(asked, _)| *asked).chain(refused.iter().map(|(_, asked)| *asked));
        for (number, asked) in asked.enumerate() {
            let team = vec!["red".to_owned(), "blue".to_owned()];
            let attributes = vec![("ask".to_owned(), vec![asked.to_owned()]), ("team".to_owned(), team)];
            keys.push(builder.add_key(&format!("asks-{number}"), |key| key.attributes = attributes));
        }
        builder
    })
    .await;
    let body = json!({ "model": "llama3", "messages": [] });
    for ((asked, answer), key) in answered.iter().zip(&keys) {
        assert_eq!(gate.post_as(key, CHAT, &body).await.status, 200);
        log.says(&[&format!("asked {asked}: {answer}")]).await;
    }
    let mut failed = 0.0;
    for ((import, asked), key) in refused.iter().zip(&keys[answered.len()..]) {
        assert_eq!(gate.post_as(key, CHAT, &body).await.status, 200, "{asked}");
        failed += 1.0;
        gate.until_metric(&faults("ask-settle", "trap"), failed).await;
        let why = format!("it called `{import}`, which may not be called in settle");
        log.says(&["a policy failed to take what a call came to", &why]).await;
    }
}

#[tokio::test]
async fn an_observer_that_fails_is_counted_and_changes_nothing() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder()
        .backend(&server)
        .policy("loops", &observer(LOOPS))
        .policy("traps", &observer("(unreachable)"))
        .policy("works", &observer(""))
        .start()
        .await;
    for _ in 0..3 {
        chat(&gate).await;
    }
    gate.until_metric(&faults("loops", "budget"), 3.0).await;
    gate.until_metric(&faults("traps", "trap"), 3.0).await;
    gate.until_metric(&told("works"), 3.0).await;
    let metrics = gate.admin("/metrics").await.body;
    assert!(!metrics.contains(r#"policy_faults_total{policy="works""#), "{metrics}");
}

#[tokio::test]
async fn when_too_many_wait_calls_are_served_and_not_told_of() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).set("policies.settle_queue = 1");
    let builder = builder.set("policies.cpu_budget = \"100ms\"").with_key(rpm(1_000_000));
    let gate = builder.policy("slow", &observer(LOOPS)).start().await;
    let lost = "tollgate_bound_reached_total{bound=\"settle_queue\"}";
    let calls = soon("a call that nobody hears of", calls_until(&gate, async || gate.metric(lost).await > 0.0)).await;
    until("the telling of all others", async || gate.metric(lost).await + gate.metric(&told("slow")).await == calls)
        .await;
}

#[tokio::test]
async fn a_call_is_told_to_the_policies_with_which_it_began() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).policy("older", &observer(""));
    let gate = builder.with_key(rpm(1_000_000)).start().await;
    let go_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{}\n").wait(&go_on).chunk("{\"done\":true}\n").end());
    let body = r#"{"model":"llama3","messages":[]}"#;
    let mut response = gate.request(Method::POST, CHAT).body(body).send().await.unwrap();
    soon("the first piece", response.chunk()).await.unwrap().unwrap();
    gate.put_policy("newer", &observer(""));
    let is_there = async || gate.metric(&told("newer")).await > 0.0;
    let calls = soon("the new set", calls_until(&gate, is_there)).await;
    // In each call the older comes last, by its name.
    gate.until_metric(&told("older"), calls).await;
    let newer = gate.metric(&told("newer")).await;
    go_on.notify_one();
    soon("the rest", response.bytes()).await.unwrap();
    gate.until_metric(&told("older"), calls + 1.0).await;
    assert_eq!(gate.metric(&told("newer")).await, newer, "it came later than the call");
}

#[tokio::test]
async fn spend_alert_warns_once_when_a_million_tokens_are_used() {
    let log = Log::listen();
    let (gate, server) = gate_with("spend-alert", |builder| builder).await;
    let key = gate.key()[3..13].to_owned();
    for _ in 0..4 {
        server.script(Script::json(200, r#"{"done":true,"prompt_eval_count":300000,"eval_count":100000}"#));
        chat(&gate).await;
    }
    gate.until_metric(&told("spend-alert"), 4.0).await;
    let warnings = log.lines_with(&["policy says", &format!("{key} has used 1200000 tokens today")]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(log.lines_with(&["policy says", &key]).len(), 1);
}
