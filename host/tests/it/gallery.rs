//! The policies of `examples/gallery` do what their names say, each with its defaults. Those that do nothing without settings
//! are in `gallery_settings`.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{Answer, LlmServer, Script, TestProxy, guest, proxy::Builder, until};

/// A builder with one policy of the gallery, before these servers.
fn with(name: &str, servers: &[&LlmServer]) -> Builder {
    let builder = TestProxy::builder().set("limits.requests_per_minute = 1000");
    let builder = servers.iter().fold(builder, |builder, server| builder.backend(server));
    builder.policy(name, &guest::gallery(name))
}

async fn server(name: &str) -> LlmServer {
    LlmServer::start(name, &["llama3:latest", "small:1b"]).await
}

async fn chat(gate: &TestProxy, model: &str) -> Answer {
    gate.post("/v1/chat/completions", &json!({ "model": model, "messages": [] })).await
}

/// Which backend serves the next calls.
async fn backends(gate: &TestProxy, body: &Value, calls: usize) -> Vec<String> {
    let mut served = Vec::new();
    for _ in 0..calls {
        let answer = gate.post("/v1/chat/completions", body).await;
        served.push(answer.backend().unwrap_or_else(|| panic!("{answer:?}")).to_owned());
    }
    served
}

/// Starts a stream on the server that gets it, which is that one's next answer; it ends when the script may go on.
async fn stream_on(gate: &TestProxy, server: &LlmServer, key: &str) -> (reqwest::Response, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{}\n").wait(&go_on).end());
    let request = gate.client().post(gate.url("/api/generate")).bearer_auth(key).body(r#"{"model":"llama3"}"#);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.headers()["x-tollgate-backend"], server.name());
    response.chunk().await.unwrap();
    (response, go_on)
}

#[tokio::test]
async fn pin_num_ctx_gives_every_call_of_ollama_s_the_same_context_length() {
    let mut gpu = server("gpu-1").await;
    let gate = with("pin-num-ctx", &[&gpu]).start().await;
    for (path, body, expected) in [
        ("/api/chat", r#"{"model":"llama3:latest"}"#, r#"{"options":{"num_ctx":8192},"model":"llama3:latest"}"#),
        (
            "/api/generate",
            r#"{"model":"llama3:latest","options":{ "seed":1, "num_ctx":131072 }}"#,
            r#"{"model":"llama3:latest","options":{ "seed":1, "num_ctx":8192 }}"#,
        ),
        (
            "/api/chat",
            r#"{"model":"llama3:latest","options":null}"#,
            r#"{"model":"llama3:latest","options":{"num_ctx":8192}}"#,
        ),
        ("/v1/chat/completions", r#"{"model":"llama3:latest"}"#, r#"{"model":"llama3:latest"}"#),
    ] {
        assert_eq!(gate.post_text(path, body).await.status, 200);
        assert_eq!(gpu.seen().await.body, expected, "{path}");
    }
    let refused = gate.post_text("/api/chat", r#"{"model":"llama3","options":7}"#).await;
    assert!(refused.refusal("/api", 400, "bad_options").contains("correct `options`"), "{refused:?}");
}

#[tokio::test]
async fn clamp_keep_alive_keeps_a_model_for_half_an_hour_at_most() {
    let mut gpu = server("gpu-1").await;
    let gate = with("clamp-keep-alive", &[&gpu]).start().await;
    for (asked, sent) in [
        ("-1", "1800"),
        ("0", "1800"),
        (r#""24h""#, "1800"),
        (r#""never""#, "1800"),
        ("60", "60"),
        (r#""5m""#, r#""5m""#),
    ] {
        let body = |keep: &str| format!(r#"{{"model":"llama3:latest", "keep_alive" : {keep} ,"prompt":"a"}}"#);
        assert_eq!(gate.post_text("/api/generate", body(asked)).await.status, 200);
        assert_eq!(gpu.seen().await.body, body(sent), "{asked}");
    }
    let silent = r#"{"model":"llama3:latest"}"#;
    assert_eq!(gate.post_text("/api/chat", silent).await.status, 200);
    assert_eq!(gpu.seen().await.body, silent, "who asks for nothing gets the backend's own");
}

/// Refusing can't be seen from here: every caller of a test comes from a network that is allowed by default.
#[tokio::test]
async fn allow_network_lets_private_networks_go_on_to_the_next_policy() {
    let gpu = server("gpu-1").await;
    let gate = with("allow-network", &[&gpu]).start().await;
    assert_eq!(chat(&gate, "llama3").await.status, 200);
    let keyless = Answer::of(gate.client().get(gate.url("/v1/models")).send().await.unwrap()).await;
    assert_eq!((keyless.status, keyless.code().as_str()), (401, "invalid_api_key"), "it lets nobody in by itself");
    let asked = r#"tollgate_policy_call_duration_seconds_count{policy="allow-network",hook="authenticate"} 2"#;
    assert!(gate.admin("/metrics").await.body.contains(asked));
}

#[tokio::test]
async fn charge_by_size_charges_a_unit_for_eight_billion_parameters() {
    let gpu = server("gpu-1").await;
    let entry = |name: &str, size: &str| {
        json!({ "name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 1, "digest": "d",
            "details": { "parameter_size": size } })
    };
    gpu.set_lists(&json!({ "models": [entry("llama3:latest", "150B"), entry("small:1b", "1B")] }).to_string());
    let gate = with("charge-by-size", &[&gpu]).start().await;
    // 19 units each, of 60 in a minute; then three are left.
    for (model, status) in [("llama3", 200), ("llama3", 200), ("llama3", 200), ("llama3", 429)] {
        assert_eq!(chat(&gate, model).await.status, status);
    }
    for status in [200, 200, 200, 429] {
        let answer = chat(&gate, "small:1b").await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert!(chat(&gate, "llama3").await.body.contains("model-units"));
    gate.hand.advance(Duration::from_secs(61));
    until("the next minute", async || chat(&gate, "llama3").await.status == 200).await;
}

#[tokio::test]
async fn deny_cloud_refuses_cloud_models_where_the_gate_allows_them() {
    let gpu = LlmServer::start("gpu-1", &["llama3:latest", "gpt-oss:cloud", "gpt-oss:120b-cloud"]).await;
    let gate = with("deny-cloud", &[&gpu]).set("models.allow_cloud = true").start().await;
    for model in ["gpt-oss:cloud", "gpt-oss:120b-cloud"] {
        let answer = chat(&gate, model).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "cloud_model"), "{answer:?}");
        assert!(answer.body.contains("cloud models are not served here: choose a local one"), "{answer:?}");
    }
    assert_eq!(gpu.calls(), 0);
    assert_eq!(chat(&gate, "llama3").await.status, 200);
}

#[tokio::test]
async fn double_at_night_admits_twice_as_many_requests_a_minute_in_place_of_the_built_in_policy() {
    let gpu = server("gpu-1").await;
    let builder = TestProxy::builder().backend(&gpu).set("limits.requests_per_minute = 2");
    let gate = builder.policy("rate-limit", &guest::gallery("double-at-night")).start().await;
    let admitted = async || {
        for passed in 0..10 {
            let answer = chat(&gate, "llama3").await;
            if answer.status == 429 {
                assert!(answer.body.contains("requests-per-minute"), "{answer:?}");
                return passed;
            }
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        panic!("the limit does not hold")
    };
    // 12:00, 21:59, 22:00, 5:59 and 6:00.
    assert_eq!(admitted().await, 2);
    for (minutes, expected) in [(9 * 60 + 59, 2), (1, 2), (8 * 60 - 1, 4), (1, 0), (1, 2)] {
        gate.advance(Duration::from_secs(minutes * 60)).await;
        assert_eq!(admitted().await, expected, "after {minutes} minutes more");
    }
}

#[tokio::test]
async fn end_user_quota_counts_each_user_behind_one_key() {
    let gpu = server("gpu-1").await;
    let gate = with("end-user-quota", &[&gpu]).start().await;
    let call = async |user: Option<&str>| {
        let body = json!({ "model": "llama3", "messages": [] }).to_string();
        let request = gate.request(Method::POST, "/v1/chat/completions").body(body);
        let request = match user {
            Some(user) => request.header("x-openwebui-user-id", user),
            None => request,
        };
        Answer::of(request.send().await.unwrap()).await
    };
    for _ in 0..30 {
        assert_eq!(call(Some("ann")).await.status, 200);
    }
    let answer = call(Some("ann")).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limit_exceeded"), "{answer:?}");
    assert!(answer.body.contains("end-user-requests"), "{answer:?}");
    assert_eq!(call(Some("ben")).await.status, 200, "another user");
    assert_eq!(call(None).await.status, 200, "those without a name have a quota too");
    assert_eq!(gate.get("/v1/models").await.status, 200, "lists are free");
}

#[tokio::test]
async fn model_groups_refuses_models_to_who_is_in_no_group() {
    let gpu = server("gpu-1").await;
    let groups = ("groups".to_owned(), vec!["staff".to_owned()]);
    let gate = with("model-groups", &[&gpu]).with_key(|key| key.attributes = vec![groups]).start().await;
    let answer = chat(&gate, "llama3").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "model_not_in_group"), "{answer:?}");
    assert_eq!(gpu.calls(), 0);
    assert_eq!(gate.get("/v1/models").await.status, 200, "a call that names no model passes");
}

#[tokio::test]
async fn office_hours_end_at_six() {
    let gpu = server("gpu-1").await;
    let gate = with("office-hours", &[&gpu]).start().await;
    // Wednesday, 12:00.
    assert_eq!(chat(&gate, "llama3").await.status, 200);
    // After each leap the keys must be read again before they are trusted.
    let opens = async |hours: u64, status: u16| {
        gate.hand.advance(Duration::from_secs(hours * 3600));
        until("the keys are fresh", async || gate.get("/v1/models").await.status == 200).await;
        let answer = chat(&gate, "llama3").await;
        assert_eq!(answer.status, status, "after {hours} hours more: {answer:?}");
        answer.code()
    };
    opens(5, 200).await;
    assert_eq!(opens(1, 403).await, "outside_office_hours");
    opens(13, 403).await;
    opens(1, 200).await;
    // Friday, Saturday and Monday at 8:00.
    opens(24, 200).await;
    opens(24, 403).await;
    opens(48, 200).await;
}

#[tokio::test]
async fn least_busy_prefers_the_backend_with_fewer_calls() {
    let (one, two) = (server("gpu-1").await, server("gpu-2").await);
    let gate = with("least-busy", &[&one, &two]).start().await;
    let body = json!({ "model": "llama3", "messages": [] });
    assert_eq!(backends(&gate, &body, 4).await, ["gpu-1"; 4], "of two idle ones the first");
    let (stream, go_on) = stream_on(&gate, &one, gate.key()).await;
    assert_eq!(backends(&gate, &body, 4).await, ["gpu-2"; 4], "the other is busy");
    go_on.notify_one();
    assert_eq!(stream.text().await.unwrap(), "");
    until("the first is idle again", async || backends(&gate, &body, 1).await == ["gpu-1"]).await;
}

#[tokio::test]
async fn prefix_affinity_keeps_prompts_that_begin_alike_together() {
    let servers = [server("gpu-1").await, server("gpu-2").await, server("gpu-3").await];
    let gate = with("prefix-affinity", &servers.each_ref()).start().await;
    let prompt = |topic: usize, question: usize| {
        let content = format!("{} question {question}", format!("about topic {topic} ").repeat(200));
        json!({ "model": "llama3", "messages": [{ "role": "user", "content": content }] })
    };
    let mut homes = std::collections::BTreeSet::new();
    for topic in 0..12 {
        let home = backends(&gate, &prompt(topic, 0), 1).await.remove(0);
        for question in 1..4 {
            assert_eq!(backends(&gate, &prompt(topic, question), 1).await, [home.as_str()], "topic {topic}");
        }
        homes.insert(home);
    }
    assert!(homes.len() > 1, "the topics are spread: {homes:?}");
    let short = backends(&gate, &json!({ "model": "llama3", "messages": [] }), 3).await;
    assert_eq!(
        short.iter().collect::<std::collections::BTreeSet<_>>().len(),
        3,
        "a short prompt takes turns: {short:?}"
    );
}

#[tokio::test]
async fn sticky_keeps_a_caller_where_it_was() {
    let (one, two) = (server("gpu-1").await, server("gpu-2").await);
    let mut builder = with("sticky", &[&one, &two]);
    let other = builder.add_key("other", |_| {});
    let gate = builder.start().await;
    let body = json!({ "model": "llama3", "messages": [] });
    let (stream, go_on) = stream_on(&gate, &one, &other).await;
    assert_eq!(backends(&gate, &body, 1).await, ["gpu-2"], "the first backend is busy with another caller");
    go_on.notify_one();
    assert_eq!(stream.text().await.unwrap(), "");
    assert_eq!(backends(&gate, &body, 3).await, ["gpu-2"; 3], "both are idle, and the caller stays");
    let answer = gate.post_as(&other, "/v1/chat/completions", &body).await;
    assert_eq!(answer.backend(), Some("gpu-1"), "and so does the other");
    let small = json!({ "model": "small:1b", "messages": [] });
    assert_eq!(backends(&gate, &small, 1).await, ["gpu-1"], "another model has a place of its own");
}

#[tokio::test]
async fn weigh_by_size_lets_a_token_of_a_big_model_cost_more_of_the_day() {
    let gpu = server("gpu-1").await;
    let entry = |name: &str, size: &str| {
        json!({ "name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 1, "digest": "d",
            "details": { "parameter_size": size } })
    };
    gpu.set_lists(&json!({ "models": [entry("llama3:latest", "80B"), entry("small:1b", "1B")] }).to_string());
    let gate = with("weigh-by-size", &[&gpu]).start().await;
    let spends = |tokens: u32| {
        let usage = json!({ "prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": tokens + 20 });
        let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
        gpu.script(Script::json(200, &json!({ "id": "1", "choices": [choice], "usage": usage }).to_string()));
    };
    let call = async |model: &str| {
        gate.post("/v1/chat/completions", &json!({ "model": model, "messages": [], "max_tokens": 10 })).await
    };
    // Of 8,000,000 units in a day: 50,020 units, then 4,001,600 twice, which is more than are left.
    for (model, tokens) in [("small:1b", 50_000), ("llama3", 50_000), ("llama3", 50_000)] {
        spends(tokens);
        assert_eq!(call(model).await.status, 200, "{model}");
    }
    for model in ["llama3", "small:1b"] {
        let answer = call(model).await;
        assert!(answer.status == 429 && answer.body.contains("weighted-tokens"), "{answer:?}");
    }
    // From noon to midnight.
    gate.advance(Duration::from_secs(12 * 3600)).await;
    assert_eq!(call("llama3").await.status, 200);
}

#[tokio::test]
async fn weights_spread_calls_in_proportion() {
    let (light, heavy) = (server("gpu-1").await, server("gpu-2").await);
    let builder = TestProxy::builder().backend(&light).weighted_backend(&heavy, 1000);
    let gate = builder.policy("weights", &guest::gallery("weights")).start().await;
    let served = backends(&gate, &json!({ "model": "llama3", "messages": [] }), 60).await;
    // Of a thousand and one calls one goes to the light one: five of sixty never do.
    let to_heavy = served.iter().filter(|name| **name == "gpu-2").count();
    assert!(to_heavy >= 55, "{to_heavy} of 60 went to the heavy one");
}
