//! What operators see of a key's limits in a running gate.

use std::{net::TcpListener, sync::Arc};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tollgate::ports::{
    keys::{KeyState, Scope},
    limits::LimitName,
};

use crate::support::{
    Answer, LlmServer, Script, TestProxy,
    binary::run,
    guest,
    proxy::{of_model, overall},
    rpm, until,
};

async fn look(gate: &TestProxy, key: &str, query: &str) -> Answer {
    gate.api(Method::GET, &format!("/api/v1/keys/{key}/limits{query}")).await
}

/// The numbers of each limit: capacity, spent, reserved, remaining.
fn numbers(list: &Value) -> Vec<(String, [u64; 4])> {
    let number = |limit: &Value, field: &str| limit[field].as_u64().unwrap();
    let all = |limit: &Value| ["capacity", "spent", "reserved", "remaining"].map(|field| number(limit, field));
    list["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| (limit["limit"].as_str().unwrap().to_owned(), all(limit)))
        .collect()
}

#[tokio::test]
async fn a_keys_limits_tell_what_is_spent_reserved_and_left_and_asking_charges_nothing() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let user = vec![overall(LimitName::TokensPerDay, 50_000)];
    let gate = TestProxy::builder().backend(&server).user("ann", user).with_key(|key| {
        key.user = Some("ann".to_owned());
        key.limits.push(overall(LimitName::RequestsPerMinute, 10));
        key.limits.push(overall(LimitName::Concurrent, 3));
        key.limits.push(of_model("llama3:latest", LimitName::RequestsPerMinute, 4));
    });
    let gate = gate.start().await;
    let go_on = Arc::new(Notify::new());
    let usage = "{\"done\":true,\"prompt_eval_count\":20,\"eval_count\":100}\n";
    server.script(Script::ndjson().chunk("{}\n").wait(&go_on).chunk(usage).end());
    let body = json!({ "model": "llama3", "prompt": "x", "options": { "num_predict": 500 } });
    let mut running = gate.request(Method::POST, "/api/generate").body(body.to_string()).send().await.unwrap();
    running.chunk().await.unwrap();

    let during = look(&gate, "default", "?model=LLaMA3").await;
    assert_eq!(during.status, 200, "{during:?}");
    let list = during.json();
    assert_eq!((&list["state"], &list["model"]), (&json!("active"), &json!("llama3:latest")));
    let of = |list: &Value, name: &str| numbers(list).into_iter().find(|(limit, _)| limit == name).unwrap().1;
    assert_eq!(of(&list, "requests-per-minute"), [10, 0, 1, 9]);
    assert_eq!(of(&list, "model-requests-per-minute"), [4, 0, 1, 3]);
    assert_eq!(of(&list, "concurrent"), [3, 0, 1, 2]);
    let [capacity, spent, reserved, remaining] = of(&list, "user-tokens-per-day");
    assert!(capacity == 50_000 && spent == 0 && reserved >= 500 && remaining == 50_000 - reserved, "{list}");

    go_on.notify_one();
    running.text().await.unwrap();
    gate.until_idle().await;
    let tokens = async || of(&look(&gate, "default", "").await.json(), "user-tokens-per-day");
    until("the settlement", async || tokens().await == [50_000, 120, 0, 49_880]).await;
    let list = look(&gate, "default", "").await.json();
    assert_eq!(of(&list, "requests-per-minute"), [10, 1, 0, 9], "asking three times charged nothing");
    assert!(numbers(&list).iter().all(|(limit, _)| !limit.starts_with("model-")), "no model was named: {list}");
    let day = list["limits"].as_array().unwrap().iter().find(|limit| limit["limit"] == "user-tokens-per-day").unwrap();
    assert_eq!(
        (&day["resets_at"], &day["unit"], &day["policy"]),
        (&json!("2026-06-11T00:00:00Z"), &json!("tokens"), &json!("rate-limit"))
    );
}

#[tokio::test]
async fn what_was_used_beyond_a_limit_is_told_in_full() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("limits.tokens_per_month = 100");
    let gate = gate.start().await;
    let usage = json!({ "prompt_tokens": 50, "completion_tokens": 200, "total_tokens": 250 });
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    let body = json!({ "id": "1", "object": "chat.completion", "choices": [choice], "usage": usage });
    server.script(Script::json(200, &body.to_string()));
    let call = json!({ "model": "llama3", "messages": [], "max_tokens": 5 });
    assert_eq!(gate.post("/v1/chat/completions", &call).await.status, 200);
    gate.until_idle().await;
    let month = async || {
        let list = look(&gate, "default", "").await.json();
        numbers(&list).into_iter().find(|(limit, _)| limit == "tokens-per-month").unwrap().1
    };
    until("the debt", async || month().await == [100, 250, 0, 0]).await;
}

#[tokio::test]
async fn what_cant_be_told_is_said_and_nothing_is_hidden() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut builder = TestProxy::builder().backend(&server);
    builder.add_key("narrow", |key| {
        key.scope = Scope::Models(["llama3:latest".into()].into());
    });
    let gate = builder.policy_folder().start().await;
    for (key, query, status, code) in [
        ("nobody", "", 404, "no_such_key"),
        ("default", "?model=a%00b", 422, "unfit"),
        ("default", "?models=a", 400, "bad_query"),
        ("narrow", "?model=qwen3", 409, "out_of_scope"),
        ("narrow", "?model=llama3", 200, ""),
    ] {
        let answer = look(&gate, key, query).await;
        assert_eq!(answer.status, status, "{key} {query}: {answer:?}");
        assert_eq!(answer.json()["code"].as_str().unwrap_or(""), code, "{key} {query}");
    }
    let unasked = gate.admin("/api/v1/keys/default/limits").await;
    assert_eq!(unasked.status, 401);
    gate.put_policy("breaking", &guest::admitter("(unreachable)"));
    until("the policy", async || look(&gate, "default", "").await.status == 500).await;
    let fault = look(&gate, "default", "").await;
    assert!(fault.body.contains("policy 'breaking' failed at admit (trap)"), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_shows_a_table_or_json_and_says_why_it_cant() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).with_key(rpm(7)).start().await;
    let listen = format!("admin.listen={}", gate.admin_address());
    let show = |arguments: &[&str]| run(gate.folder(), &[&["limits", "show"], arguments, &["--set", &listen]].concat());
    assert_eq!(gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await.status, 200);
    gate.until_idle().await;

    let table = show(&["default"]);
    let rows: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let head = ["POLICY", "LIMIT", "UNIT", "CAPACITY", "SPENT", "RESERVED", "REMAINING", "RESET"];
    assert_eq!((table.code, &rows[0][..]), (Some(0), &head[..]), "{table:?}");
    assert_eq!(rows[1][..7], ["rate-limit", "requests-per-minute", "requests", "7", "1", "0", "6"], "{table:?}");
    let shown = show(&["default", "--model", "LLaMA3", "-o", "json"]).json();
    assert_eq!((&shown["model"], &shown["limits"][0]["spent"]), (&json!("llama3:latest"), &json!(1)));

    gate.set_key_state("default", KeyState::Disabled).await;
    let disabled = show(&["default"]);
    assert!(disabled.code == Some(0) && disabled.stderr.contains("the key is disabled"), "{disabled:?}");
    for (key, code, words) in [("nobody", 1, "there is no such key"), ("..", 2, "write the key's id")] {
        let refused = show(&[key]);
        assert!(refused.code == Some(code) && refused.stderr.contains(words), "{refused:?}");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let absent = run(gate.folder(), &["limits", "show", "default", "--set", &format!("admin.listen={nobody}")]);
    assert!(absent.code == Some(1) && absent.stderr.contains("no gate listens at"), "{absent:?}");
}
