//! What changes a backend: who may, which backend, which models, and what is known of it afterwards.

use std::sync::Arc;

use http::Method;
use tokio::sync::Notify;
use tollgate::ports::{keys::Scope, store::Store};

use crate::support::{Answer, LlmServer, Log, Script, TestProxy, guest, rpm, until};

/// Every operation with a body that Ollama takes, spelled as nobody else would.
const CALLS: [(Method, &str, &str); 8] = [
    (Method::POST, "/api/pull", r#"{ "model":"Mine-1:Q4" , "insecure":false}"#),
    (Method::POST, "/api/pull", r#"{"name":"Mine-1:Q4","stream":false}"#),
    (Method::POST, "/api/push", r#"{"model":"bob/Mine:latest"}"#),
    (
        Method::POST,
        "/api/create",
        r#"{"model":"mine","from":"Llama3","files":{"A.gguf":"sha256:00"},"parameters":{"num_ctx":1},"system":"x"}"#,
    ),
    (Method::POST, "/api/create", r#"{"name":"mine","files":{"A.gguf":"sha256:00"},"quantize":"q4_K_M"}"#),
    (Method::POST, "/api/copy", r#"{"source":"Llama3","destination":"MINE"}"#),
    (Method::DELETE, "/api/delete", r#"{"model":"LLaMA3:latest"}"#),
    (Method::DELETE, "/api/delete", r#"{"name":"llama3"}"#),
];

async fn server(name: &str) -> LlmServer {
    LlmServer::start(name, &["llama3:latest"]).await
}

async fn send(gate: &TestProxy, method: &Method, path: &str, body: &str) -> Answer {
    Answer::of(gate.request(method.clone(), path).body(body.to_owned()).send().await.unwrap()).await
}

async fn send_to(gate: &TestProxy, backends: &[&str]) -> Answer {
    let request = gate.request(Method::DELETE, "/api/delete").body(r#"{"model":"llama3"}"#);
    let request = backends.iter().fold(request, |request, name| request.header("x-tollgate-backend", *name));
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_backend_that_is_silent_about_a_change_for_too_long_is_given_up_and_counted() {
    let mut server = server("gpu-1").await;
    let builder = TestProxy::builder().backend(&server).managing().set("upstream.management_timeout = \"400ms\"");
    let gate = builder.start().await;
    let reached = "tollgate_bound_reached_total{bound=\"upstream_management_timeout\"}";
    server.script(Script::silence());
    send_to(&gate, &[]).await.refusal("/api", 504, "backend_timeout");
    gate.until_metric(reached, 1.0).await;
    server.closed().await;
    server.script(Script::ndjson().chunk("{}\n").stall());
    let pull = gate.request(Method::POST, "/api/pull").body(r#"{"model":"llama3"}"#);
    let half = pull.send().await.unwrap().text().await;
    assert!(half.is_err(), "half an answer looks whole: {half:?}");
    gate.until_metric(reached, 2.0).await;
    for other in ["upstream_first_byte_timeout", "upstream_idle_timeout"] {
        assert_eq!(gate.metric(&format!("tollgate_bound_reached_total{{bound=\"{other}\"}}")).await, 0.0, "{other}");
    }
}

#[tokio::test]
async fn every_operation_reaches_the_one_backend_byte_for_byte() {
    let mut server = server("gpu-1").await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    for (method, path, body) in &CALLS {
        server.script(Script::json(200, r#"{"status":"success"}"#));
        let answer = send(&gate, method, path, body).await;
        assert_eq!((answer.status, answer.backend()), (200, Some("gpu-1")), "{path}: {answer:?}");
        assert_eq!(answer.body, r#"{"status":"success"}"#);
        let seen = server.seen().await;
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.body.as_str()), (method.as_str(), *path, *body));
        assert_eq!((seen.header("content-type"), seen.header("authorization")), (Some("application/json"), None));
    }
    server.script(Script::json(404, r#"{"error":"theirs"}"#));
    let (method, path, body) = &CALLS[6];
    let answer = send(&gate, method, path, body).await;
    assert_eq!((answer.status, answer.body.as_str()), (404, r#"{"error":"theirs"}"#));
}

#[tokio::test]
async fn progress_comes_as_it_is_made() {
    let server = server("gpu-1").await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    let go_on = Arc::new(Notify::new());
    let (first, last) = ("{\"status\":\"pulling\",\"total\":9,\"completed\":1}\n", "{\"status\":\"success\"}\n");
    server.script(Script::ndjson().chunk(first).wait(&go_on).chunk(last).end());
    let mut response = gate.request(Method::POST, "/api/pull").body(CALLS[0].2).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert_eq!(response.chunk().await.unwrap().unwrap(), first);
    go_on.notify_one();
    assert_eq!(response.text().await.unwrap(), last);
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_pull() {
    let mut server = server("gpu-1").await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    server.script(Script::ndjson().chunk("{\"status\":\"pulling\"}\n").stall());
    let mut response = gate.request(Method::POST, "/api/pull").body(CALLS[0].2).send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    server.closed().await;
    gate.until_idle().await;
}

#[tokio::test]
async fn of_several_backends_the_caller_names_one() {
    let (one, two) = (server("gpu-1").await, server("gpu-2").await);
    let vllm = LlmServer::start("vllm", &["org/model"]).await;
    let gate = TestProxy::builder().backend(&one).backend(&two).managing();
    let gate = gate.backend_at("vllm", &vllm.url(), "openai").start().await;
    for name in ["gpu-2", "gpu-1", "gpu-2"] {
        let answer = send_to(&gate, &[name]).await;
        assert_eq!((answer.status, answer.backend()), (200, Some(name)));
    }
    for (names, status) in [
        (&[][..], 400),
        (&["gpu-3"], 400),
        (&["GPU-1"], 400),
        (&[""], 400),
        (&["vllm"], 400),
        (&["gpu-1, gpu-2"], 400),
        (&["gpu-1", "gpu-2"], 400),
        (&["gpu-1", "gpu-1"], 400),
    ] {
        let told = send_to(&gate, names).await.refusal("/api/delete", status, "");
        assert!(told.contains("x-tollgate-backend") && told.contains("gpu-1, gpu-2"), "{names:?}: {told}");
        assert!(!told.contains("vllm"), "{told}");
    }
    assert_eq!((one.calls(), two.calls(), vllm.calls()), (1, 2, 0));

    two.kill().await;
    gate.until_backend_is("gpu-2", false).await;
    let down = send_to(&gate, &["gpu-2"]).await;
    let told = down.refusal("/api/delete", 503, "");
    assert!(told.contains("'gpu-2' is down") && down.header("retry-after").is_some(), "{down:?}");
    assert_eq!(send_to(&gate, &["gpu-1"]).await.status, 200);
}

#[tokio::test]
async fn a_drained_backend_can_be_managed() {
    let server = server("gpu-1").await;
    // Waiting takes many calls, which the default limit must not refuse.
    let gate = TestProxy::builder().backend(&server).managing().with_key(rpm(1_000_000)).start().await;
    let store = gate.store().await;
    store.set_backend_drained("gpu-1", true, &["gpu-1".to_owned()]).await.unwrap();
    store.close().await;
    let chat = async || gate.post_text("/api/chat", r#"{"model":"llama3","messages":[]}"#).await.status;
    until("the draining", async || chat().await == 503).await;
    let answer = send_to(&gate, &[]).await;
    assert_eq!((answer.status, answer.backend()), (200, Some("gpu-1")));
}

#[tokio::test]
async fn one_ollama_beside_other_servers_needs_no_name() {
    let (one, vllm) = (server("gpu-1").await, LlmServer::start("vllm", &["org/model"]).await);
    let gate = TestProxy::builder().backend(&one).backend_at("vllm", &vllm.url(), "openai").managing().start().await;
    assert_eq!(send_to(&gate, &[]).await.backend(), Some("gpu-1"));
    let gate = TestProxy::builder().backend_at("vllm", &vllm.url(), "openai").managing().start().await;
    let told = send_to(&gate, &["vllm"]).await.refusal("/api/delete", 400, "");
    assert!(told.contains("no Ollama backend"), "{told}");
    assert_eq!(vllm.calls(), 0);
}

#[tokio::test]
async fn a_key_manages_the_models_of_its_scope_only() {
    let server = server("gpu-1").await;
    let scope = Scope::Models(["llama3:latest".into(), "mine:latest".into()].into());
    let gate = TestProxy::builder().backend(&server).managing().with_key(|key| key.scope = scope).start().await;
    let (post, delete) = (Method::POST, Method::DELETE);
    for (method, path, body, denied) in [
        (&post, "/api/pull", r#"{"model":"Library/LLaMA3"}"#, None),
        (&post, "/api/pull", r#"{"model":"other"}"#, Some("other")),
        (&post, "/api/pull", r#"{"model":"mine","name":"other"}"#, Some("other")),
        (&post, "/api/pull", r#"{"model":null,"name":"other"}"#, Some("other")),
        (&post, "/api/pull", r#"{"model":"evil.example/library/llama3"}"#, Some("evil.example/library/llama3")),
        (&post, "/api/push", r#"{"model":"other"}"#, Some("other")),
        (&delete, "/api/delete", r#"{"model":"other:latest"}"#, Some("other:latest")),
        (&delete, "/api/delete", r#"{"name":"mine"}"#, None),
        (&post, "/api/create", r#"{"model":"mine","from":"llama3"}"#, None),
        (&post, "/api/create", r#"{"model":"mine"}"#, None),
        (&post, "/api/create", r#"{"model":"mine","from":"other"}"#, Some("other")),
        (&post, "/api/create", r#"{"model":"other","from":"mine"}"#, Some("other")),
        (&post, "/api/copy", r#"{"source":"llama3","destination":"mine"}"#, None),
        (&post, "/api/copy", r#"{"source":"llama3","destination":"other"}"#, Some("other")),
        (&post, "/api/copy", r#"{"source":"other","destination":"mine"}"#, Some("other")),
    ] {
        let calls = server.calls();
        let answer = send(&gate, method, path, body).await;
        let Some(model) = denied else {
            assert_eq!((answer.status, server.calls()), (200, calls + 1), "{body}: {answer:?}");
            continue;
        };
        let told = answer.refusal(path, 403, "");
        assert!(told.contains(&format!("'{model}'")), "{body}: {told}");
        assert_eq!(server.calls(), calls, "{body}");
    }
}

#[tokio::test]
async fn a_body_that_could_mean_more_than_was_checked_is_refused() {
    let server = server("gpu-1").await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    for (path, body, status) in [
        ("/api/create", r#"{"model":"mine","modelfile":"FROM secret"}"#, 400),
        ("/api/create", r#"{"model":"mine","path":"/etc/passwd"}"#, 400),
        ("/api/create", r#"{"model":"mine","from":"x","remote_host":"https://ollama.com"}"#, 403),
        ("/api/create", r#"{"model":"mine","from":"gpt-oss:120b-cloud"}"#, 403),
        ("/api/create", r#"{"model":"mine","from":7}"#, 400),
        ("/api/create", r#"{"model":"mine","from":"x","FROM":"y"}"#, 400),
        ("/api/create", r#"{"model":"mine","from":"x","from":"y"}"#, 400),
        ("/api/create", r#"{"model":"mine","from":"https://example.com/x"}"#, 400),
        ("/api/copy", r#"{"source":"llama3","destination":["mine"]}"#, 400),
        ("/api/copy", r#"{"source":"llama3","destination":"a@sha256:00"}"#, 400),
        ("/api/copy", r#"{"destination":"mine"}"#, 400),
        ("/api/pull", r#"{"model":"gpt-oss:120b-cloud"}"#, 403),
        ("/api/pull", r#"{"model":"mine","name":"x:cloud"}"#, 403),
        ("/api/pull", "{}", 400),
        ("/api/pull", "", 400),
        ("/api/pull", r#"{"model":"mine"}{"model":"other"}"#, 400),
    ] {
        send(&gate, &Method::POST, path, body).await.refusal(path, status, "");
    }
    let large = format!(r#"{{"model":"mine","system":"{}"}}"#, "x".repeat(1 << 20));
    send(&gate, &Method::POST, "/api/create", &large).await.refusal("/api/create", 413, "");
    assert_eq!(server.calls(), 0);
    let gate = TestProxy::builder().backend(&server).managing().set("models.allow_cloud = true").start().await;
    let body = r#"{"model":"mine","from":"gpt-oss:120b-cloud","remote_host":"https://ollama.com"}"#;
    assert_eq!(send(&gate, &Method::POST, "/api/create", body).await.status, 200);
}

#[tokio::test]
async fn what_changed_is_listed_at_once() {
    let server = server("gpu-1").await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    let lists = async |name: &str| gate.get("/api/tags").await.body.contains(name);
    assert!(!lists("mine:latest").await);
    let go_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{\"status\":\"pulling\"}\n").wait(&go_on).end());
    let response = gate.request(Method::POST, "/api/pull").body(r#"{"model":"mine"}"#).send().await.unwrap();
    server.set_models(&["llama3:latest", "mine:latest"]);
    go_on.notify_one();
    response.text().await.unwrap();
    until("the new model in the list", async || lists("mine:latest").await).await;
    server.set_models(&["llama3:latest"]);
    assert_eq!(send(&gate, &Method::DELETE, "/api/delete", r#"{"model":"mine"}"#).await.status, 200);
    until("the deleted model's leaving the list", async || !lists("mine:latest").await).await;
}

#[tokio::test]
async fn policies_admit_but_do_not_route_what_an_operator_sends() {
    let server = server("gpu-1").await;
    let rejecting = |case| guest::rejection(case, b"closed", b"nothing passes");
    let gate = TestProxy::builder().backend(&server).managing().policy("closed", &guest::router(&rejecting(2)));
    let gate = gate.start().await;
    let chat = gate.post_text("/api/chat", r#"{"model":"llama3","messages":[]}"#).await;
    assert_eq!((chat.status, send_to(&gate, &[]).await.status), (403, 200));
    let gate = TestProxy::builder().backend(&server).managing().policy("closed", &guest::admitter(&rejecting(1)));
    let gate = gate.start().await;
    send_to(&gate, &[]).await.refusal("/api/delete", 403, "");
    let upload = format!("/api/blobs/sha256:{}", "0".repeat(64));
    gate.post_text(&upload, "x").await.refusal("/api/blobs", 403, "");
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn log_and_metrics_say_who_managed_what_and_where() {
    let log = Log::listen();
    let server = server("managed-gpu").await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    assert_eq!(send(&gate, &Method::POST, "/api/pull", CALLS[0].2).await.status, 200);
    log.says(&["managed-gpu", "\"operation\":\"manage\"", "mine-1:q4"]).await;
    gate.until_metric("tollgate_requests_total{surface=\"ollama\",operation=\"manage\",status=\"2xx\"}", 1.0).await;
}
