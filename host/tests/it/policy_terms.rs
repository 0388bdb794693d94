//! `NAME.toml`: settings, order, budgets, and what happens on faults and removal; a change of it recompiles nothing.

use std::fs;

use serde_json::json;

use crate::support::{LlmServer, Log, TestProxy, TwoServers, guest, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn settings_reach_the_policy_and_a_change_of_them_recompiles_nothing() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| {
        builder.policy("by-settings", &guest::picking_by_settings()).policy_terms("by-settings", "settings.backend = 1")
    })
    .await;
    assert!(bench.goes_to("gpu-2").await);
    bench.gate.put_policy_terms("by-settings", "[settings]\nbackend = 0");
    bench.until_it_goes_to("gpu-1").await;
    log.says(&["the policy is in force", "by-settings", r#""code":"known""#]).await;
    // Without the file the settings are empty again, and the policy's own default holds.
    bench.gate.put_policy_terms("by-settings", "[settings]\nbackend = 1");
    bench.until_it_goes_to("gpu-2").await;
    fs::remove_file(bench.gate.policies().join("by-settings.toml")).unwrap();
    bench.until_it_goes_to("gpu-1").await;
    let known = || log.lines_with(&["the policy is in force", "by-settings", r#""code":"known""#]).len();
    until("the third line", async || known() == 3).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_file_is_said_with_its_step_and_the_old_version_serves() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| {
        builder.policy("mistaken", &guest::picking_by_settings()).policy_terms("mistaken", "settings.backend = 1")
    })
    .await;
    for (toml, step, says) in [
        ("settings.backend = 7", "configure", "it refuses its settings: 0or1"),
        ("memroy = \"1MiB\"", "terms", "mistaken.toml): unknown key; did you mean `memory`?"),
        ("= 1", "terms", "mistaken.toml: not TOML: line 1"),
        ("cpu_budget = \"1s\"", "terms", "mistaken.toml): out of range; choose from 100us to 20ms"),
        ("on_fault = \"abstain\"", "terms", "write it in [hooks.route]"),
        ("memory = \"1MiB\"\nsettings.backend = 9", "configure", "it refuses its settings"),
    ] {
        bench.gate.put_policy_terms("mistaken", toml);
        let serving = "the version before it goes on serving";
        log.says(&["policy 'mistaken' is not used", &says.replace('"', "\\\""), serving]).await;
        assert!(bench.goes_to("gpu-2").await, "{toml}");
        let failed = async || bench.gate.policy_status("mistaken").await["last_failure"]["step"] == step;
        until(&format!("{step} in the list"), failed).await;
    }
    let status = bench.gate.policy_status("mistaken").await;
    assert_eq!((status["state"].as_str(), status["breaker"].as_str()), (Some("outdated"), Some("closed")), "{status}");
    let series = r#"tollgate_policy_load_failures_total{policy="mistaken",step="terms"}"#;
    bench.gate.until_metric(series, 4.0).await;
}

#[tokio::test]
async fn a_policy_without_lifecycle_is_loaded_and_takes_no_settings() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy("unconfigurable", &guest::without_lifecycle())).await;
    assert!(bench.goes_to("gpu-1").await);
    bench.gate.put_policy_terms("unconfigurable", "[settings]\nbackend = 1");
    log.says(&["policy 'unconfigurable' is not used", "it takes no settings", "leave [settings] out"]).await;
    assert!(bench.goes_to("gpu-1").await);
}

#[tokio::test]
async fn order_decides_among_those_that_join_and_is_refused_for_a_built_in() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| {
        let builder = builder.policy("a-later", &guest::picking(0)).policy("z-sooner", &guest::picking(1));
        builder.policy_terms("z-sooner", "order = 1")
    })
    .await;
    assert!(bench.goes_to("gpu-2").await);
    bench.gate.put_policy_terms("a-later", "order = 0");
    bench.until_it_goes_to("gpu-1").await;
    bench.gate.put_policy_terms("round-robin", "order = 3");
    log.says(&["policy 'round-robin' is not used", "order (", "leave it out", "the built-in policy goes on serving"])
        .await;
}

#[tokio::test]
async fn a_file_alone_is_for_a_built_in_policy_or_for_nobody() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy_terms("api-key", "reuse = \"per-call\"")).await;
    assert_eq!(bench.chat().await.status, 200);
    bench.gate.put_policy_terms("api-key", "[settings]\nlenient = true");
    log.says(&["policy 'api-key' is not used", "it refuses its settings", "takes no settings"]).await;
    assert_eq!(bench.chat().await.status, 200);
    bench.gate.put_policy_terms("nobody-has-this", "");
    log.says(&["nobody-has-this.toml has no nobody-has-this.wasm beside it"]).await;
    until("the list", async || bench.gate.policy_status("nobody-has-this").await["state"] == "refused").await;
}

#[tokio::test]
async fn what_a_removed_file_leaves_is_as_declared() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| {
        let builder = builder.policy("kept-router", &guest::picking(1));
        builder.policy_terms("kept-router", "on_remove = \"keep\"")
    })
    .await;
    fs::remove_file(bench.gate.policies().join("kept-router.wasm")).unwrap();
    log.says(&["the file of policy 'kept-router' is gone; it is kept"]).await;
    assert!(bench.goes_to("gpu-2").await);

    let closed = guest::authenticator(&guest::rejection(1, b"closed", b"nobody comes in"));
    bench.gate.put_policy_terms("api-key", "on_remove = \"unload\"");
    bench.gate.put_policy("api-key", &closed);
    until("the doorman", async || bench.chat().await.code() == "closed").await;
    fs::remove_file(bench.gate.policies().join("api-key.wasm")).unwrap();
    until("the built-in", async || bench.chat().await.status == 200).await;
}

#[tokio::test]
async fn a_policy_may_use_what_its_file_gives_and_no_more() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let hog = "(if (i32.eq (local.get 7) (i32.const 1)) (then
            (if (i32.eq (memory.grow (i32.const 32)) (i32.const -1)) (then (unreachable)))))
        (i32.store8 (i32.const 2048) (i32.const 3)) (i32.const 2048)";
    let builder = TestProxy::builder().backend(&server).policy("hungry", &guest::router(hog));
    let gate = builder.policy_terms("hungry", "memory = \"1MiB\"").start().await;
    let chat = async || gate.post(CHAT, &json!({ "model": "llama3", "messages": [], "max_tokens": 1 })).await.status;
    assert_eq!(chat().await, 503);
    let faults = r#"tollgate_policy_faults_total{policy="hungry",hook="route",kind="memory"}"#;
    assert!(gate.metric(faults).await > 0.5);
    gate.put_policy_terms("hungry", "memory = \"8MiB\"");
    until("more memory", async || chat().await == 200).await;
}

#[tokio::test]
async fn a_policy_that_is_slow_when_warm_is_refused_with_the_figure() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| builder.policy("slow-one", &guest::picking(1))).await;
    bench.gate.put_policy("slow-one", &guest::router("(loop $again (br $again)) (unreachable)"));
    let says = ["policy 'slow-one' is not used", "its hook `route` takes", "and may take 2ms", "raise cpu_budget"];
    log.says(&says).await;
    assert!(bench.goes_to("gpu-2").await);
    until("its step", async || bench.gate.policy_status("slow-one").await["last_failure"]["step"] == "warm").await;
}

/// A policy of the gallery, whose settings are a record of its own.
#[tokio::test]
async fn office_hours_are_those_of_the_file() {
    let log = Log::listen();
    let bench = TwoServers::start(|builder| {
        let builder = builder.policy("office-hours", &guest::gallery("office-hours"));
        // It is Wednesday, 12:00 in UTC.
        builder.policy_terms("office-hours", "[settings]\nzone = \"Europe/Berlin\"\nfrom = 15\nto = 16")
    })
    .await;
    assert_eq!(bench.chat().await.code(), "outside_office_hours");
    bench.gate.put_policy_terms("office-hours", "[settings]\nform = 8");
    log.says(&["policy 'office-hours' is not used", "it refuses its settings: unknown field `form`"]).await;
    assert_eq!(bench.chat().await.code(), "outside_office_hours");
    bench.gate.put_policy_terms("office-hours", "[settings]\nzone = \"Europe/Berlin\"\nfrom = 14\nto = 15");
    until("the other hours", async || bench.chat().await.status == 200).await;
}
