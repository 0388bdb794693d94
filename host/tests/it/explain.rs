//! Calls that are only tried: what would become of them, who decides it, and that nothing comes of asking.

use serde_json::{Value, json};
use tollgate::ports::keys::{KeyState, Scope};

use crate::support::{
    LlmServer, Log, TestProxy,
    binary::{Outcome, run},
    guest,
    redis::RedisServer,
    rpm, until,
};

/// No call is to be late only because this machine is.
const PATIENT: &str = "redis.deadline = \"10s\"";

/// What the admin API says of this call.
async fn explain(gate: &TestProxy, question: &Value) -> Value {
    let url = format!("http://{}/api/v1/explain", gate.admin_address());
    let asked = gate.client().post(url).bearer_auth(gate.admin_token()).body(question.to_string());
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{question}");
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

/// A chat of the gate's own key.
fn chat(gate: &TestProxy, model: &str) -> Value {
    json!({ "key": gate.key(), "path": "/api/chat", "body": json!({ "model": model, "messages": [] }).to_string() })
}

/// The decision of this policy: what, and its code.
fn decision<'a>(explained: &'a Value, policy: &str) -> (&'a str, &'a str) {
    let step = explained["steps"].as_array().unwrap().iter().find(|step| step["policy"] == policy);
    let step = step.unwrap_or_else(|| panic!("{policy} in {explained:#}"));
    assert!(step["version"].as_str().unwrap().starts_with("sha256:"), "{step}");
    (step["decision"].as_str().unwrap(), step["code"].as_str().unwrap_or(""))
}

/// All numbers that calls move.
async fn numbers(gate: &TestProxy) -> Vec<String> {
    let metrics = gate.admin("/metrics").await.body;
    let moved = |line: &&str| !line.starts_with("tollgate_admin") && !line.starts_with('#');
    metrics.lines().filter(moved).map(str::to_owned).collect()
}

/// Where the limits of the gate's key stand.
async fn limits(gate: &TestProxy) -> Value {
    gate.api(http::Method::GET, "/api/v1/keys/default/limits").await.json()
}

#[tokio::test]
async fn a_call_that_would_be_served_says_by_whom_and_where_and_leaves_no_trace() {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).with_key(rpm(5)).start().await;
    assert_eq!(gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await.status, 200);
    gate.until_idle().await;
    let id = limits(&gate).await["key"].as_str().unwrap().to_owned();
    let logged = ["\"message\":\"call\"", &id];
    log.says(&logged).await;
    let (before, stood, calls) = (numbers(&gate).await, limits(&gate).await, server.calls());
    let mut explained = Value::Null;
    for _ in 0..3 {
        explained = explain(&gate, &chat(&gate, "LLaMA3")).await;
    }
    assert_eq!((&explained["refusal"], &explained["backends"]), (&Value::Null, &json!(["gpu-1"])), "{explained:#}");
    assert_eq!((&explained["operation"], &explained["model"]), (&json!("POST /api/chat"), &json!("llama3:latest")));
    assert_eq!(decision(&explained, "api-key"), ("allow", ""));
    assert_eq!(decision(&explained, "rate-limit"), ("admit", ""));
    assert_eq!(decision(&explained, "round-robin"), ("rank", ""));
    let stages: Vec<&str> =
        explained["steps"].as_array().unwrap().iter().map(|step| step["stage"].as_str().unwrap()).collect();
    assert!(stages.is_sorted_by_key(|stage| ["authenticate", "admit", "route"].iter().position(|one| one == stage)));
    assert_eq!((&explained["limits"][0]["spent"], &explained["limits"][0]["remaining"]), (&json!(1), &json!(4)));

    assert_eq!((numbers(&gate).await, limits(&gate).await, server.calls()), (before, stood, calls));
    assert_eq!(log.lines_with(&logged).len(), 1, "what is tried is no call");
    assert!(log.lines_with(&[gate.key()]).is_empty(), "the key stands in no log");
    assert!(!explained.to_string().contains(gate.key()));
}

#[tokio::test]
async fn each_refusal_names_who_refuses_and_reads_as_the_caller_would_read_it() {
    let server = LlmServer::start("gpu-1", &["llama3:latest", "qwen3:4b"]).await;
    let mut builder = TestProxy::builder().backend(&server).with_key(rpm(1));
    let narrow = builder.add_key("narrow", |key| {
        key.scope = Scope::Models(["qwen3:4b".into()].into());
    });
    let gate = builder.start().await;
    let call = json!({ "model": "llama3", "messages": [] });
    assert_eq!(gate.post("/api/chat", &call).await.status, 200);
    gate.until_idle().await;
    for (key, model, stage, policy) in [
        ("op_nobody_nothing", "llama3", "authenticate", Some("api-key")),
        (narrow.as_str(), "llama3", "admit", None),
        (gate.key(), "llama3", "admit", Some("rate-limit")),
        (narrow.as_str(), "", "read", None),
        ("", "llama3", "authenticate", None),
    ] {
        let body = json!({ "model": model, "messages": [] });
        let question = json!({ "key": key, "path": "/api/chat", "body": body.to_string() });
        let question = if key.is_empty() { json!({ "path": "/api/chat", "body": body.to_string() }) } else { question };
        let explained = explain(&gate, &question).await;
        let refusal = &explained["refusal"];
        assert_eq!((&refusal["stage"], &refusal["policy"]), (&json!(stage), &json!(policy)), "{explained:#}");
        let real = match key {
            "" => {
                let request = gate.client().post(gate.url("/api/chat")).body(body.to_string());
                crate::support::Answer::of(request.send().await.unwrap()).await
            }
            key => gate.post_as(key, "/api/chat", &body).await,
        };
        assert_eq!((&refusal["status"], &refusal["body"]), (&json!(real.status), &json!(real.body)), "{explained:#}");
    }
    let scoped = explain(&gate, &json!({ "key": narrow, "path": "/api/chat", "body": call.to_string() })).await;
    let refusing = scoped["steps"].as_array().unwrap().iter().find(|step| step["code"] == "out_of_scope");
    assert!(refusing.is_some(), "an operator reads the true reason: {scoped:#}");
}

#[tokio::test]
async fn policies_that_reject_or_fail_are_named_and_breakers_learn_nothing() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let closed = guest::admitter(&guest::rejection(1, b"closed", b"come back tomorrow"));
    let gate = TestProxy::builder().backend(&server).policy("closed", &closed).start().await;
    let explained = explain(&gate, &chat(&gate, "llama3")).await;
    assert_eq!(decision(&explained, "closed"), ("reject", "closed"));
    assert_eq!((&explained["refusal"]["status"], &explained["refusal"]["policy"]), (&json!(403), &json!("closed")));

    let gate = TestProxy::builder().backend(&server).policy("breaking", &guest::router("(unreachable)")).start().await;
    for _ in 0..30 {
        let explained = explain(&gate, &chat(&gate, "llama3")).await;
        assert_eq!(decision(&explained, "breaking"), ("fault", "trap"));
        assert_eq!(
            (&explained["refusal"]["status"], &explained["refusal"]["policy"]),
            (&json!(503), &json!("breaking"))
        );
        assert!(explained["refusal"]["private"].as_str().unwrap().contains("'breaking' failed at route"));
    }
    assert_eq!(gate.policy_status("breaking").await["breaker"], "closed");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_model_without_a_backend_is_found_out_as_in_a_call() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("upstream.probe_interval = \"50ms\"").start().await;
    let unknown = explain(&gate, &chat(&gate, "nobody-has-it")).await;
    assert_eq!((&unknown["refusal"]["stage"], &unknown["refusal"]["status"]), (&json!("route"), &json!(404)));
    server.kill().await;
    gate.until_backend_is("gpu-1", false).await;
    let down = explain(&gate, &chat(&gate, "llama3")).await["refusal"].take();
    assert_eq!(
        (&down["blame"], &down["status"], &down["code"]),
        (&json!("upstream"), &json!(503), &json!("no_backend"))
    );
    assert!(down["headers"].as_array().unwrap().contains(&json!(["retry-after", "5"])), "{down}");
}

#[tokio::test]
async fn edits_are_told_and_what_is_written_in_a_policys_state_is_dropped() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let other = LlmServer::start("gpu-2", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).backend(&other);
    let gate = builder.policy("ask-admit", &guest::gallery("ask-admit")).start().await;
    let mut question = chat(&gate, "llama3");
    question["headers"] = json!({
        "x-ask-at": "admit", "x-answer": "log",
        "x-ask": "set-json /options/num_ctx 8192 | set-json /system \"secret-words\" | \
                  set-upstream-header x-team secret-blue",
    });
    let explained = explain(&gate, &question).await;
    let edits = explained["steps"].as_array().unwrap().iter().find(|step| step["policy"] == "ask-admit").unwrap();
    let expected = json!(["/options/num_ctx = 8192", "/system = a text of 12 bytes", "header for the backend: x-team"]);
    assert_eq!(edits["edits"], expected, "{explained:#}");
    assert!(!explained.to_string().contains("secret-"), "texts and header values may be anybody's: {explained:#}");

    // Round-robin keeps whose turn it is in its state: asking takes no turn.
    let mut turns = Vec::new();
    for _ in 0..4 {
        let first = explain(&gate, &chat(&gate, "llama3")).await["backends"][0].clone();
        assert_eq!(explain(&gate, &chat(&gate, "llama3")).await["backends"][0], first, "the same turn as before");
        let answer = gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
        assert_eq!(answer.headers["x-tollgate-backend"], *first.as_str().unwrap(), "a call takes the turn foreseen");
        turns.push(first);
    }
    turns.sort_by_key(ToString::to_string);
    assert_eq!(turns, ["gpu-1", "gpu-1", "gpu-2", "gpu-2"]);
}

#[tokio::test]
async fn what_policies_write_in_the_log_of_a_call_that_is_tried_is_dropped() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).policy("ask-admit", &guest::gallery("ask-admit")).start().await;
    let log = Log::listen();
    let asked = [("x-ask-at", "admit"), ("x-answer", "log"), ("x-ask", "log tried-words | print printed-words | path")];
    let mut question = chat(&gate, "llama3");
    question["headers"] = asked.into_iter().collect();
    let explained = explain(&gate, &question).await;
    assert_eq!((decision(&explained, "ask-admit"), &explained["refusal"]), (("abstain", ""), &Value::Null));
    assert!(log.lines_with(&["policy says"]).is_empty(), "{:?}", log.lines_with(&["policy says"]));
    assert!(log.lines_with(&["\"message\":\"call\""]).is_empty(), "what is tried is no call");
    // The same call in earnest writes all of it.
    let call = gate.request(http::Method::POST, "/api/chat").body(question["body"].as_str().unwrap().to_owned());
    let call = asked.into_iter().fold(call, |call, (name, value)| call.header(name, value));
    assert_eq!(call.send().await.unwrap().status(), 200);
    for words in ["tried-words", "printed-words", "answers "] {
        log.says(&["policy says", "\"policy\":\"ask-admit\"", words]).await;
    }
    log.says(&["\"message\":\"call\"", "\"principal\""]).await;
}

#[tokio::test]
async fn limits_in_redis_are_foreseen_and_nothing_is_charged_there() {
    let (redis, server) = (RedisServer::start(), LlmServer::start("gpu-1", &["llama3:latest"]).await);
    let redis_url = format!("redis.url = \"{}\"", redis.url());
    let gate = TestProxy::builder().backend(&server).with_key(rpm(2)).set(&redis_url).set(PATIENT).start().await;
    for left in [2, 1, 0] {
        for _ in 0..2 {
            let explained = explain(&gate, &chat(&gate, "llama3")).await;
            assert_eq!(explained["limits_source"], "shared", "{explained:#}");
            assert_eq!(explained["limits"][0]["remaining"], left, "{explained:#}");
            let refused = (&explained["refusal"]["status"], &explained["refusal"]["policy"]);
            let expected = if left == 0 { (json!(429), json!("rate-limit")) } else { (Value::Null, Value::Null) };
            assert_eq!(refused, (&expected.0, &expected.1), "{explained:#}");
        }
        let answer = gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
        assert_eq!(answer.status, if left == 0 { 429 } else { 200 }, "{answer:?}");
        gate.until_idle().await;
    }
}

#[tokio::test]
async fn only_the_admin_token_may_ask_and_wrong_questions_say_what_to_do() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let url = format!("http://{}/api/v1/explain", gate.admin_address());
    let unasked = gate.client().post(&url).body(chat(&gate, "llama3").to_string()).send().await.unwrap();
    assert_eq!(unasked.status(), 401);
    let mut long = chat(&gate, "llama3");
    long["body"] = json!({ "model": "llama3", "prompt": "x".repeat(500 << 10) }).to_string().into();
    assert_eq!(explain(&gate, &long).await["refusal"], Value::Null);
    for (question, status, words) in [
        (json!({ "key": "a", "key_id": "b", "path": "/api/chat" }), 422, "not both"),
        (json!({ "key_id": "nobody", "path": "/api/chat" }), 404, "there is no such key"),
        (json!({ "path": "api/chat" }), 422, "write it like /api/chat"),
        (json!({ "path": "/api/chat", "headers": { "a b": "c" } }), 422, "can't stand in a request"),
        (json!({ "path": "/api/chat", "body": "x".repeat(2 << 20) }), 413, "larger than 1048576 bytes"),
        (json!({ "pfad": "/api/chat" }), 400, "`path`"),
    ] {
        let asked = gate.client().post(&url).bearer_auth(gate.admin_token()).body(question.to_string());
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), status, "{words}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(words), "`{words}` is missing in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_who_decides_and_never_the_key() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).with_key(rpm(7)).start().await;
    let listen = format!("admin.listen={}", gate.admin_address());
    let ask = |arguments: &[&str]| -> Outcome {
        let outcome = run(gate.folder(), &[&["explain"], arguments, &["--set", &listen]].concat());
        assert!(!format!("{outcome:?}").contains(gate.key()), "{outcome:?}");
        outcome
    };
    let served = ask(&["--key", gate.key(), "--model", "llama3"]);
    assert_eq!(served.code, Some(0), "{served:?}");
    for words in
        ["POST /api/chat, model llama3:latest", "api-key@sha256:", "rate-limit@sha256:", "the call goes to gpu-1"]
    {
        assert!(served.stdout.contains(words), "`{words}` is missing in:\n{}", served.stdout);
    }
    let table = ask(&["--key-id", "default", "--model", "llama3"]);
    assert!(table.stdout.contains("(default) is taken for proven"), "{table:?}");
    let by_id = ask(&["--key-id", "default", "--model", "llama3", "--surface", "openai", "-o", "json"]).json();
    assert_eq!((&by_id["operation"], &by_id["refusal"]), (&json!("POST /v1/chat/completions"), &Value::Null));
    let stranger = ask(&["--key", "op_nobody_nothing", "--model", "llama3"]);
    assert!(stranger.stdout.contains("refused at authenticate by policy api-key (policy): 401"), "{stranger:?}");
    let listed = ask(&["--key-id", "default", "--path", "/api/tags"]);
    assert!(listed.stdout.contains("the gate answers the call itself"), "{listed:?}");

    gate.set_key_state("default", KeyState::Disabled).await;
    let refused = async || ask(&["--key", gate.key(), "--model", "llama3", "-o", "json"]).json()["refusal"].clone();
    until("the disabled key", async || refused().await["status"] == 403).await;
    for (arguments, code) in [(&["--key-id", "default"][..], 2), (&["--key-id", "nobody", "--model", "m"], 1)] {
        assert_eq!(ask(arguments).code, Some(code), "{arguments:?}");
    }
}
