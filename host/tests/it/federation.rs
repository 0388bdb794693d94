//! The lists of all backends as one, and what operators see.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tollgate::ports::keys::Scope;

use crate::support::{Answer, LlmServer, TestProxy, until};

/// Two servers that share one model and own one each. The second one's copy of the shared model is newer, and it says
/// more of it.
async fn two() -> (LlmServer, LlmServer) {
    let one = LlmServer::start("gpu-1", &["llama3:latest", "Phi4:14b"]).await;
    let two = LlmServer::start("gpu-2", &["bob/Qwen:7b"]).await;
    two.set_lists(&json!({ "models": [shared(), entry("bob/Qwen:7b", "2026-01-03T00:00:00Z")] }).to_string());
    (one, two)
}

fn entry(name: &str, modified_at: &str) -> Value {
    json!({ "name": name, "model": name, "modified_at": modified_at, "size": 5 })
}

fn shared() -> Value {
    json!({
        "name": "LLaMA3:Latest", "model": "LLaMA3:Latest", "modified_at": "2026-02-01T01:00:00.5+01:00",
        "size": 4_661_224_676_u64, "digest": "365c", "capabilities": ["completion", "tools"], "more": { "of": [1, 2.5, null] },
        "details": { "family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_0" },
    })
}

/// The names that a list answers, in its order.
fn names(answer: &Answer) -> Vec<String> {
    let list = answer.json();
    let entries = list.get("models").or(list.get("data")).unwrap().as_array().unwrap().clone();
    let name = |entry: Value| entry.get("model").or(entry.get("id")).unwrap().as_str().unwrap().to_owned();
    entries.into_iter().map(name).collect()
}

#[tokio::test]
async fn tags_lists_three_models_once_each_with_the_newest_copy_of_the_shared_one_as_it_was_written() {
    let (one, two) = two().await;
    for order in [[&one, &two], [&two, &one]] {
        let gate = TestProxy::before(&order).await;
        let answer = gate.get("/api/tags").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(names(&answer), ["bob/Qwen:7b", "LLaMA3:Latest", "Phi4:14b"]);
        let models = answer.json()["models"].clone();
        assert_eq!(models[1], shared());
        for model in models.as_array().unwrap() {
            assert_eq!(model["name"], model["model"], "clients ask for both");
        }
        assert_eq!(models[2]["details"]["parameter_size"], "8.0B");
    }
    assert_eq!(one.calls() + two.calls(), 0);
}

#[tokio::test]
async fn head_of_tags_says_what_get_would() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let whole = gate.get("/api/tags").await;
    let head = Answer::of(gate.request(Method::HEAD, "/api/tags").send().await.unwrap()).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()));
}

#[tokio::test]
async fn openai_s_list_shows_the_same_models_in_its_own_form() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let model =
        |id: &str, created: u64| json!({ "id": id, "object": "model", "created": created, "owned_by": "library" });
    let (qwen, llama) = (model("bob/Qwen:7b", 1_767_398_400), model("LLaMA3:Latest", 1_769_904_000));
    let phi = model("Phi4:14b", 1_767_225_600);
    let list = gate.get("/v1/models").await;
    assert_eq!(list.json(), json!({ "object": "list", "data": [qwen, llama, phi] }));
    assert_eq!(gate.get("/v1/models/phi4:14B").await.json(), phi);
    assert_eq!(gate.get("/v1/models/bob/qwen:7b").await.json(), qwen);
    assert_eq!(gate.get("/v1/models/bob%2Fqwen:7b").await.json(), qwen);
    assert_eq!(one.calls() + two.calls(), 0);
}

#[tokio::test]
async fn lists_show_what_the_key_may_use_and_nothing_else() {
    let (one, two) = two().await;
    let mut builder = TestProxy::builder().backend(&one).backend(&two);
    let mut key_for = |name: &str, models: &[&str]| {
        let scope = Scope::Models(models.iter().map(|&model| model.into()).collect());
        builder.add_key(name, |key| key.scope = scope)
    };
    let (some, none) = (key_for("some", &["llama3:latest", "phi4:14b"]), key_for("none", &["other:latest"]));
    let gate = builder.start().await;
    let get = async |key: &str, path: &str| {
        Answer::of(gate.client().get(gate.url(path)).bearer_auth(key).send().await.unwrap()).await
    };
    for path in ["/api/tags", "/v1/models"] {
        assert_eq!(names(&get(&some, path).await), ["LLaMA3:Latest", "Phi4:14b"], "{path}");
        assert_eq!(names(&get(&none, path).await), [""; 0], "{path}");
        assert_eq!(names(&gate.get(path).await).len(), 3, "{path}");
        assert_eq!(get("op_nobody", path).await.status, 401, "{path}");
    }
    assert_eq!(names(&get(&some, "/api/ps").await), ["LLaMA3:Latest"]);
    assert_eq!(names(&get(&none, "/api/ps").await), [""; 0]);
    assert_eq!(get(&some, "/v1/models/bob/qwen:7b").await.status, 404);
}

#[tokio::test]
async fn a_backend_that_is_down_contributes_nothing() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let address = two.kill().await;
    gate.until_backend_is("gpu-2", false).await;
    for path in ["/api/tags", "/v1/models"] {
        assert_eq!(names(&gate.get(path).await), ["llama3:latest", "Phi4:14b"], "{path}");
    }
    assert_eq!(names(&gate.get("/api/ps").await), ["llama3:latest"]);
    assert_eq!(gate.get("/v1/models/bob/qwen:7b").await.status, 404);
    let _two = LlmServer::start_at("gpu-2", &["bob/Qwen:7b"], address).await;
    until("its model", || async { names(&gate.get("/api/tags").await).len() == 3 }).await;
}

#[tokio::test]
async fn ps_shows_what_is_loaded_anywhere_and_is_never_older_than_a_second() {
    let one = LlmServer::start("gpu-1", &["llama3:latest", "phi4:14b"]).await;
    let two = LlmServer::start("gpu-2", &["Qwen:7b", "llama3:latest"]).await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let asked = || one.control_paths().iter().filter(|path| *path == "/api/ps").count();
    assert_eq!(names(&gate.get("/api/ps").await), ["llama3:latest", "Qwen:7b"]);

    one.set_models(&["phi4:14b"]);
    two.set_models(&["Phi4:14b"]);
    let before = asked();
    gate.hand.advance(Duration::from_millis(999));
    assert_eq!(names(&gate.get("/api/ps").await), ["llama3:latest", "Qwen:7b"]);
    assert_eq!(asked(), before, "it was asked a moment ago");
    gate.hand.advance(Duration::from_millis(1));
    assert_eq!(names(&gate.get("/api/ps").await), ["phi4:14b"]);
    assert_eq!(asked(), before + 1);

    // Unloading shows as well.
    one.set_models(&[]);
    two.set_models(&[]);
    gate.hand.advance(Duration::from_secs(1));
    assert_eq!(gate.get("/api/ps").await.json(), json!({ "models": [] }));
}

#[tokio::test]
async fn an_openai_server_s_models_stand_in_openai_s_list_only() {
    let vllm = LlmServer::start("vllm", &["Qwen/Qwen2.5-7B"]).await;
    let ollama = LlmServer::start("ollama", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&ollama).backend_at("vllm", &vllm.url(), "openai").start().await;
    assert_eq!(names(&gate.get("/api/tags").await), ["llama3:latest"]);
    assert_eq!(names(&gate.get("/api/ps").await), ["llama3:latest"]);
    let list = gate.get("/v1/models").await;
    assert_eq!(names(&list), ["Qwen/Qwen2.5-7B", "llama3:latest"]);
    assert_eq!(list.json()["data"][0]["owned_by"], "me");
    assert_eq!(gate.get("/v1/models/Qwen/Qwen2.5-7B").await.status, 200);
    assert_eq!(gate.get("/v1/models/qwen/qwen2.5-7b").await.status, 404);
}

#[tokio::test]
async fn a_gate_without_backends_lists_nothing_and_is_alive_but_not_ready() {
    let gate = TestProxy::builder().start().await;
    assert_eq!(gate.get("/api/tags").await.json(), json!({ "models": [] }));
    assert_eq!(gate.get("/api/ps").await.json(), json!({ "models": [] }));
    assert_eq!(gate.get("/v1/models").await.json(), json!({ "object": "list", "data": [] }));
    assert_eq!(gate.post("/api/chat", &json!({ "model": "llama3" })).await.status, 404);
    assert_eq!((gate.admin("/healthz").await.status, gate.admin("/readyz").await.status), (200, 503));
}

#[tokio::test]
async fn the_gate_is_ready_while_a_backend_is_up() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let readiness = async |status: u16, up: u64| {
        let answer = gate.admin("/readyz").await;
        let wanted = json!({ "ready": up > 0, "keys": "fresh", "limits": "memory", "backends_up": up, "backends": 2, "draining": false });
        assert_eq!((answer.status, answer.json()), (status, wanted));
    };
    readiness(200, 2).await;
    let address = two.kill().await;
    gate.until_backend_is("gpu-2", false).await;
    readiness(200, 1).await;
    one.kill().await;
    gate.until_backend_is("gpu-1", false).await;
    readiness(503, 0).await;
    assert_eq!((gate.admin("/healthz").await.status, gate.admin("/healthz").await.body.as_str()), (200, "ok\n"));
    let _two = LlmServer::start_at("gpu-2", &["llama3:latest"], address).await;
    gate.until_backend_is("gpu-2", true).await;
    readiness(200, 1).await;
}

#[tokio::test]
async fn metrics_count_requests_policy_calls_backends_and_what_is_in_flight() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    two.kill().await;
    gate.until_backend_is("gpu-2", false).await;
    let chat = json!({ "model": "llama3", "messages": [] });
    for _ in 0..2 {
        assert_eq!(gate.post("/api/chat", &chat).await.status, 200);
    }
    assert_eq!(gate.post("/v1/chat/completions", &json!({ "model": "nosuch" })).await.status, 404);
    assert_eq!(gate.post_as("op_wrong", "/api/generate", &chat).await.status, 401);
    assert_eq!(gate.get("/api/tags").await.status, 200);
    gate.until_idle().await;

    let answer = gate.admin("/metrics").await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)));
    assert!(answer.body.ends_with("# EOF\n"));
    assert!(!answer.body.contains("op_"), "no key in it");
    for line in [
        r#"tollgate_requests_total{surface="ollama",operation="chat",status="2xx"} 2"#,
        r#"tollgate_requests_total{surface="openai",operation="chat",status="4xx"} 1"#,
        r#"tollgate_requests_total{surface="ollama",operation="generate",status="4xx"} 1"#,
        r#"tollgate_requests_total{surface="ollama",operation="listing",status="2xx"} 1"#,
        "tollgate_requests_in_flight 0",
        r#"tollgate_backend_up{backend="gpu-1"} 1"#,
        r#"tollgate_backend_up{backend="gpu-2"} 0"#,
        r#"tollgate_policy_call_duration_seconds_count{policy="api-key",hook="authenticate"} 5"#,
        r#"tollgate_policy_call_duration_seconds_count{policy="rate-limit",hook="admit"} 4"#,
        r#"tollgate_policy_call_duration_seconds_count{policy="round-robin",hook="route"} 2"#,
    ] {
        assert!(answer.body.lines().any(|other| other == line), "{line} is missing in:\n{}", answer.body);
    }
}

#[tokio::test]
async fn cloud_models_stand_in_no_list_unless_they_may_be_used() {
    let server = LlmServer::start("gpu-1", &["a:cloud", "llama3:latest", "b:120b-cloud"]).await;
    for (line, others) in [("", 0), ("models.allow_cloud = true", 2)] {
        let gate = TestProxy::builder().backend(&server).set(line).start().await;
        for path in ["/api/tags", "/v1/models"] {
            let answer = gate.get(path).await;
            let is_listed = |name: &str| answer.body.contains(&format!("\"{name}\""));
            assert!(is_listed("llama3:latest"), "{path}: {answer:?}");
            let cloud = ["a:cloud", "b:120b-cloud"].into_iter().filter(|name| is_listed(name)).count();
            assert_eq!(cloud, others, "{path}: {answer:?}");
        }
        let status = gate.get("/v1/models/a:cloud").await.status;
        assert_eq!(status, if others == 0 { 403 } else { 200 });
    }
}
