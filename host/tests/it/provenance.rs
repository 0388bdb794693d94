//! Every decision is traced back to its policy's version: in the log, in the metrics and, where that is wanted, in the answer.

use serde_json::{Value, json};

use crate::support::{Answer, LlmServer, Log, TestProxy, guest, rpm};

const HEADER: &str = "x-tollgate-decisions";

fn chat() -> Value {
    json!({ "model": "llama3", "messages": [] })
}

/// The version of a policy in force, as far as labels tell it.
async fn label(gate: &TestProxy, policy: &str) -> String {
    let version = gate.policy_status(policy).await["version"].as_str().unwrap().to_owned();
    format!("{policy}@{}", &version[..19])
}

/// The log's line of this call.
async fn line(log: &Log, answer: &Answer) -> Value {
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let parts = ["\"message\":\"call\"", &id];
    log.says(&parts).await;
    log.lines_with(&parts).remove(0)
}

#[tokio::test]
async fn the_log_and_the_metrics_name_who_decided_in_which_version() {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).with_key(rpm(1)).policy_folder().start().await;
    let served = gate.post("/api/chat", &chat()).await;
    assert_eq!(served.status, 200);
    let logged = line(&log, &served).await;
    for (field, policy) in
        [("authenticated_by", "api-key"), ("admitted_by", "rate-limit"), ("routed_by", "round-robin")]
    {
        assert_eq!(logged[field], label(&gate, policy).await, "{field} in {logged}");
    }
    assert_eq!((&logged["generation"], &logged["code"]), (&json!(1), &Value::Null));

    let limited = gate.post("/api/chat", &chat()).await;
    assert_eq!(limited.status, 429);
    let logged = line(&log, &limited).await;
    assert_eq!(logged["refused_by"], label(&gate, "rate-limit").await, "{logged}");
    assert_eq!((&logged["code"], &logged["routed_by"]), (&json!("rate_limit_exceeded"), &Value::Null));

    let stranger = gate.post_as("op_nobody_nothing", "/api/chat", &chat()).await;
    assert_eq!(stranger.status, 401);
    let logged = line(&log, &stranger).await;
    assert_eq!(logged["refused_by"], label(&gate, "api-key").await, "{logged}");
    let code = logged["code"].as_str().unwrap();

    let metric = |policy: &str, hook: &str, decision: &str, code: &str| {
        format!(
            "tollgate_policy_decisions_total{{policy=\"{policy}\",hook=\"{hook}\",decision=\"{decision}\",code=\"{code}\"}}"
        )
    };
    for (series, count) in [
        (metric("api-key", "authenticate", "allow", ""), 2.0),
        (metric("api-key", "authenticate", "reject", code), 1.0),
        (metric("rate-limit", "admit", "admit", ""), 2.0),
        (metric("round-robin", "route", "rank", ""), 1.0),
    ] {
        assert!((gate.metric(&series).await - count).abs() < f64::EPSILON, "{series}");
    }
    let version = gate.policy_status("api-key").await["version"].as_str().unwrap().to_owned();
    let info = format!("tollgate_policy_version_info{{policy=\"api-key\",version=\"{version}\"}}");
    assert!((gate.metric(&info).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_policy_that_refuses_or_fails_is_named_with_its_version() {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let closed = guest::admitter(&guest::rejection(1, b"closed", b"come back tomorrow"));
    for (policy, component, status, code) in
        [("closed", closed, 403, "closed"), ("breaking", guest::admitter("(unreachable)"), 503, "policy_fault")]
    {
        let gate = TestProxy::builder().backend(&server).policy(policy, &component).start().await;
        let refused = gate.post("/api/chat", &chat()).await;
        assert_eq!(refused.status, status, "{refused:?}");
        let logged = line(&log, &refused).await;
        assert_eq!(logged["refused_by"], label(&gate, policy).await, "{logged}");
        assert_eq!(logged["code"], code, "{logged}");
    }
}

#[tokio::test]
async fn answers_tell_who_decided_only_where_it_is_configured() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let quiet = TestProxy::builder().backend(&server).with_key(rpm(1)).start().await;
    for status in [200, 429] {
        let answer = quiet.post("/api/chat", &chat()).await;
        assert_eq!((answer.status, answer.headers.get(HEADER)), (status, None));
    }

    let builder = TestProxy::builder().backend(&server).with_key(rpm(1)).set("policies.provenance = \"header\"");
    let gate = builder.policy_folder().start().await;
    let [known, charged, routed] =
        [label(&gate, "api-key").await, label(&gate, "rate-limit").await, label(&gate, "round-robin").await];
    let served = gate.post("/api/chat", &chat()).await;
    let told = |answer: &Answer| answer.headers[HEADER].to_str().unwrap().to_owned();
    let who = format!("generation=1, authenticated-by=\"{known}\", admitted-by=(\"{charged}\")");
    assert_eq!((served.status, told(&served)), (200, format!("{who}, routed-by=\"{routed}\"")));
    let limited = gate.post("/api/chat", &chat()).await;
    let refused = format!("{who}, refused-by=\"{charged}\", code=\"rate_limit_exceeded\"");
    assert_eq!((limited.status, told(&limited)), (429, refused));
    // What asks no policy has nothing to tell.
    assert_eq!(gate.get("/api/version").await.headers.get(HEADER), None);
    assert_eq!(gate.get("/nowhere").await.headers.get(HEADER), None);
}
