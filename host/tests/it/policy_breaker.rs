//! A policy that keeps failing is no longer asked; its version before takes its place, or it is tried again after a while.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::support::{Answer, LlmServer, Log, TestProxy, guest, proxy::Builder, until};

async fn chat(gate: &TestProxy, cap: u32) -> Answer {
    gate.post("/v1/chat/completions", &json!({ "model": "llama3", "messages": [], "max_tokens": cap })).await
}

async fn servers() -> [LlmServer; 2] {
    [LlmServer::start("gpu-1", &["llama3:latest"]).await, LlmServer::start("gpu-2", &["llama3:latest"]).await]
}

/// A gate whose breakers open after so many faults; 0: never.
fn builder(servers: &[LlmServer], faults: u32) -> Builder {
    let builder = servers.iter().fold(TestProxy::builder(), Builder::backend);
    builder.set(&format!("policies.breaker.faults = {faults}")).set("limits.requests_per_minute = 1000000")
}

async fn open_faults(gate: &TestProxy, policy: &str) -> f64 {
    gate.metric(&format!(r#"tollgate_policy_faults_total{{policy="{policy}",hook="route",kind="open"}}"#)).await
}

#[tokio::test]
async fn a_policy_that_keeps_failing_is_left_alone_and_tried_again() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = builder(&servers, 3).policy("often-failing", &guest::picking_unless(1, 1)).start().await;
    for _ in 0..3 {
        assert_eq!(chat(&gate, 1).await.code(), "policy_fault");
    }
    assert_eq!(chat(&gate, 2).await.code(), "policy_fault", "what would go well isn't asked either");
    assert!(open_faults(&gate, "often-failing").await > 0.5);
    until("the list", async || gate.policy_status("often-failing").await["breaker"] == "open").await;
    let open = r#"tollgate_policy_breaker_open{policy="often-failing"}"#;
    gate.until_metric(open, 1.0).await;
    assert_eq!(gate.admin("/readyz").await.status, 200, "the gate is as ready as before");

    gate.advance(Duration::from_millis(1_000)).await;
    assert_eq!(chat(&gate, 1).await.code(), "policy_fault");
    assert_eq!(chat(&gate, 2).await.code(), "policy_fault", "the try failed");
    gate.advance(Duration::from_millis(2_000)).await;
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-2"), "the try went well");
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-2"));
    gate.until_metric(open, 0.0).await;
    gate.until_metric(r#"tollgate_policy_breaker_openings_total{policy="often-failing"}"#, 2.0).await;
    assert_eq!(log.lines_with(&["often-failing", "it isn't asked for a while"]).len(), 2, "once for each change");
    log.says(&["often-failing", "it is asked as before"]).await;
}

#[tokio::test]
async fn a_policy_that_fails_whenever_it_is_tried_is_quarantined_until_its_file_changes() {
    let (log, servers) = (Log::listen(), servers().await);
    let builder = builder(&servers, 3).set("policies.breaker.quarantine_after = 2");
    let gate = builder.policy("hopeless", &guest::picking_unless(1, 1)).start().await;
    for _ in 0..3 {
        chat(&gate, 1).await;
    }
    gate.advance(Duration::from_secs(1)).await;
    chat(&gate, 1).await;
    log.says(&["hopeless", "it isn't asked any more"]).await;
    until("the list", async || gate.policy_status("hopeless").await["breaker"] == "quarantined").await;
    gate.advance(Duration::from_secs(3600)).await;
    assert_eq!(chat(&gate, 2).await.code(), "policy_fault");
    gate.put_policy("hopeless", &guest::picking(1));
    until("the mended one", async || chat(&gate, 1).await.backend() == Some("gpu-2")).await;
}

#[tokio::test]
async fn a_reload_that_is_asked_for_lifts_a_quarantine() {
    let (log, servers) = (Log::listen(), servers().await);
    let builder = builder(&servers, 3).set("policies.breaker.quarantine_after = 1");
    let gate = builder.policy("excused", &guest::picking_unless(1, 1)).start().await;
    for _ in 0..3 {
        chat(&gate, 1).await;
    }
    until("the list", async || gate.policy_status("excused").await["breaker"] == "quarantined").await;
    gate.advance(Duration::from_secs(3600)).await;
    assert_eq!(chat(&gate, 2).await.code(), "policy_fault", "time alone lifts nothing");
    assert_eq!(gate.api(Method::POST, "/api/v1/policies/reload").await.status, 200);
    log.says(&["excused", "a reload was asked for: the policy is tried again"]).await;
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-2"));
    until("the list", async || gate.policy_status("excused").await["breaker"] == "closed").await;
}

#[tokio::test]
async fn what_a_policy_can_do_is_listed_and_measured() {
    let servers = servers().await;
    let gate = builder(&servers, 3).policy("modest", &guest::picking(1)).start().await;
    assert_eq!(gate.policy_status("modest").await["capabilities"], json!([]));
    let checks = gate.policy_status("api-key").await;
    assert!(checks["capabilities"].as_array().unwrap().contains(&json!("keys")), "{checks}");
    let series = |policy: &str| format!(r#"tollgate_policy_capability{{policy="{policy}",capability="keys"}}"#);
    assert!((gate.metric(&series("api-key")).await - 1.0).abs() < 0.5);
    assert!(gate.metric(&series("modest")).await < 0.5);
}

#[tokio::test]
async fn charges_that_can_t_be_counted_are_failures_too() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = builder(&servers, 3).policy("ask-admit", &guest::gallery("ask-admit")).start().await;
    for _ in 0..3 {
        let request = gate.request(Method::POST, "/v1/chat/completions").json(&json!({ "model": "llama3" }));
        let request =
            request.header("x-ask-at", "admit").header("x-ask", "rules twice=concurrent:1 twice=concurrent:2");
        assert_eq!(Answer::of(request.send().await.unwrap()).await.code(), "policy_fault");
    }
    log.says(&["ask-admit", "it isn't asked for a while"]).await;
    assert_eq!(chat(&gate, 1).await.code(), "policy_fault", "it isn't asked");
}

#[tokio::test]
async fn the_version_before_takes_the_place_of_one_that_keeps_failing() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = builder(&servers, 3).policy("worsened", &guest::picking(1)).start().await;
    gate.put_policy("worsened", &guest::picking_unless(0, 1));
    until("the new version", async || chat(&gate, 2).await.backend() == Some("gpu-1")).await;
    for _ in 0..3 {
        chat(&gate, 1).await;
    }
    until("the version before", async || chat(&gate, 1).await.backend() == Some("gpu-2")).await;
    log.says(&["worsened", "the version before it serves again"]).await;
    gate.until_metric(r#"tollgate_policy_steps_back_total{policy="worsened"}"#, 1.0).await;
    // It is listed once the look at the folder is over, and calls go by it before.
    until("the list", async || gate.policy_status("worsened").await["state"] == "outdated").await;
    let status = gate.policy_status("worsened").await;
    assert_eq!(status["breaker"], "closed", "{status}");
    assert!(status["complaint"].as_str().unwrap().contains("it kept failing"), "{status}");
    // Who asks for a reload wants it tried again; what served well is kept meanwhile.
    assert_eq!(gate.api(Method::POST, "/api/v1/policies/reload").await.status, 200);
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-1"));
    for _ in 0..3 {
        chat(&gate, 1).await;
    }
    until("the version before, again", async || chat(&gate, 1).await.backend() == Some("gpu-2")).await;
    gate.put_policy("worsened", &guest::padded(&guest::picking(0), 1));
    until("the mended version", async || chat(&gate, 1).await.backend() == Some("gpu-1")).await;
}

#[tokio::test]
async fn a_step_back_waits_for_no_other_policy_to_load() {
    let (log, servers) = (Log::listen(), servers().await);
    let builder = builder(&servers, 3).set("policies.max_cpu_budget = \"100ms\"");
    let gate = builder.policy("urgent", &guest::picking(1)).start().await;
    gate.put_policy("urgent", &guest::picking_unless(0, 1));
    until("the new version", async || chat(&gate, 2).await.backend() == Some("gpu-1")).await;
    // It is asked a hundred times while it warms up: half a second or more.
    let slow = guest::picking_after(3_000_000);
    gate.put_policy_terms("slow-to-load", "cpu_budget = \"100ms\"\n");
    gate.put_policy("slow-to-load", &slow);
    log.says(&["slow-to-load", "the policy is about to be loaded, and callers come first"]).await;
    for _ in 0..3 {
        chat(&gate, 1).await;
    }
    log.says(&["urgent", "the version before it serves again"]).await;
    assert_eq!(chat(&gate, 1).await.backend(), Some("gpu-2"));
    let of_the_other = ["slow-to-load", "the next set has the policy"];
    assert!(log.lines_with(&of_the_other).is_empty(), "its load ended before the step back: that proves nothing");
    log.says(&of_the_other).await;
    until("the list", async || gate.policy_status("urgent").await["state"] == "outdated").await;
    let slow = gate.policy_status("slow-to-load").await;
    assert_eq!((&slow["state"], &slow["complaint"]), (&json!("in-force"), &json!(null)), "{slow}");
    let loads = r#"tollgate_policy_loads_total{policy="slow-to-load"}"#;
    gate.until_metric(loads, 1.0).await;
}

#[tokio::test]
async fn a_version_that_decides_less_is_not_brought_back_by_calls_that_fail() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = builder(&servers, 3).policy("widened", &guest::picking(1)).start().await;
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-2"));
    // What it is there to refuse would pass without it.
    gate.put_policy("widened", &guest::authenticator("(unreachable)"));
    until("the new version", async || chat(&gate, 2).await.code() == "policy_fault").await;
    for _ in 0..3 {
        chat(&gate, 2).await;
    }
    log.says(&["widened", "it isn't asked for a while"]).await;
    until("the list", async || gate.policy_status("widened").await["breaker"] == "open").await;
    let reloaded = gate.api(Method::POST, "/api/v1/policies/reload").await;
    assert_eq!((reloaded.status, &reloaded.json()["changes"]), (200, &json!([])), "{reloaded:?}");
    assert_eq!(chat(&gate, 2).await.code(), "policy_fault", "the version before stays away");
}

#[tokio::test]
async fn a_change_of_terms_is_not_undone_by_calls_that_fail() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = builder(&servers, 3).policy("retold", &guest::picking_unless(1, 1)).start().await;
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-2"));
    gate.put_policy_terms("retold", "order = 7");
    until("the terms", async || log.lines_with(&["the policy is in force", "\"retold\""]).len() == 2).await;
    for _ in 0..3 {
        chat(&gate, 1).await;
    }
    log.says(&["retold", "it isn't asked for a while"]).await;
    let reloaded = gate.api(Method::POST, "/api/v1/policies/reload").await;
    assert_eq!((reloaded.status, &reloaded.json()["changes"]), (200, &json!([])), "{reloaded:?}");
    let status = gate.policy_status("retold").await;
    assert_eq!((&status["state"], &status["breaker"]), (&json!("in-force"), &json!("open")), "{status}");
    assert_eq!(chat(&gate, 2).await.code(), "policy_fault", "the same code with other terms fails as well");
}

#[tokio::test]
async fn a_version_with_other_grants_is_not_brought_back_by_calls_that_fail() {
    let (log, servers) = (Log::listen(), servers().await);
    let gate = builder(&servers, 3).policy("narrowed", &guest::picking(1)).start().await;
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-2"));
    // In one look: a version between the two would be the version before.
    gate.put_policy("narrowed", &guest::picking_unless(0, 1));
    gate.put_policy_terms("narrowed", "[grants]\nheaders = []");
    log.says(&["the policy is in force", "\"narrowed\"", "no headers"]).await;
    assert_eq!(log.lines_with(&["the policy is in force", "\"narrowed\""]).len(), 2);
    until("both", async || chat(&gate, 2).await.backend() == Some("gpu-1")).await;
    for _ in 0..3 {
        chat(&gate, 1).await;
    }
    log.says(&["narrowed", "it isn't asked for a while"]).await;
    let reloaded = gate.api(Method::POST, "/api/v1/policies/reload").await;
    assert_eq!((reloaded.status, &reloaded.json()["changes"]), (200, &json!([])), "{reloaded:?}");
    assert_eq!(chat(&gate, 2).await.code(), "policy_fault", "the version before stays away");
}

#[tokio::test]
async fn values_that_are_too_large_for_a_policy_are_their_callers_doing() {
    let servers = servers().await;
    let gate = builder(&servers, 3).policy("ask-admit", &guest::gallery("ask-admit")).start().await;
    let ask = async |bytes: usize| {
        let body = json!({ "model": "llama3", "messages": [], "metadata": { "a": "a".repeat(bytes) } });
        let request = gate.request(Method::POST, "/v1/chat/completions").json(&body);
        let request = request.header("x-ask-at", "admit").header("x-ask", "json-length /metadata/a");
        Answer::of(request.send().await.unwrap()).await
    };
    for _ in 0..10 {
        let refused = ask(64 << 10).await;
        assert_eq!((refused.status, refused.code().as_ref()), (413, "value_too_large"));
    }
    assert_eq!(gate.policy_status("ask-admit").await["breaker"], "closed");
    let faults = r#"tollgate_policy_faults_total{policy="ask-admit",hook="admit",kind="oversized"}"#;
    assert!((gate.metric(faults).await - 10.0).abs() < 0.5);
    let told = ask(1 << 10).await;
    assert!(told.json().to_string().contains("1026"), "quotes included: {told:?}");
}

#[tokio::test]
async fn a_router_that_may_abstain_refuses_nobody() {
    let (log, servers) = (Log::listen(), servers().await);
    let builder = builder(&servers, 3).policy("may-abstain", &guest::picking_unless(1, 1));
    let gate = builder.policy_terms("may-abstain", "hooks.route.on_fault = \"abstain\"").start().await;
    for _ in 0..10 {
        assert_eq!(chat(&gate, 1).await.status, 200);
    }
    log.says(&["the call goes on without a policy's opinion", "may-abstain"]).await;
    assert_eq!(
        log.lines_with(&["without a policy's opinion", "may-abstain"]).len(),
        3,
        "until it isn't asked any more"
    );
    assert!((open_faults(&gate, "may-abstain").await - 7.0).abs() < 0.5);
}

#[tokio::test]
async fn with_the_breaker_off_every_call_is_a_fault_of_its_own() {
    let servers = servers().await;
    let gate = builder(&servers, 0).policy("always-asked", &guest::picking_unless(1, 1)).start().await;
    for _ in 0..50 {
        assert_eq!(chat(&gate, 1).await.code(), "policy_fault");
    }
    assert!(open_faults(&gate, "always-asked").await < 0.5);
    assert_eq!(chat(&gate, 2).await.backend(), Some("gpu-2"));
}
