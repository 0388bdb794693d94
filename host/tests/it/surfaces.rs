//! The three APIs: every operation of each reaches a backend that has it and comes back as it was, and whoever is refused
//! is told so in his own dialect.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tollgate::{
    ports::{
        keys::Scope,
        store::{Store, StoredBackend},
    },
    store::SqliteStore,
};

use crate::support::{Answer, LlmServer, Script, TestProxy, rpm};

/// A whole body of each operation that runs a model.
const CALLS: [(&str, &str); 9] = [
    (
        "/api/chat",
        r#"{"model":"llama3:latest","messages":[{"role":"user","content":"Hi"}],"options":{"num_predict":5}}"#,
    ),
    ("/api/generate", r#"{"model":"llama3:latest","prompt":"Hi","stream":false}"#),
    ("/api/embed", r#"{"model":"llama3:latest","input":["a","b"]}"#),
    ("/api/embeddings", r#"{"model":"llama3:latest","prompt":"a"}"#),
    ("/v1/chat/completions", r#"{"model":"llama3:latest","messages":[],"max_completion_tokens":5}"#),
    ("/v1/completions", r#"{"model":"llama3:latest","prompt":["Once","Twice"],"max_tokens":5,"logit_bias":{"1":-1}}"#),
    ("/v1/embeddings", r#"{"model":"llama3:latest","input":[[1,2],[3]]}"#),
    (
        "/v1/responses",
        r#"{"model":"llama3:latest","instructions":"x","input":[{"role":"user","content":"Hi"}],"max_output_tokens":5}"#,
    ),
    (
        "/v1/messages",
        r#"{"model":"llama3:latest","max_tokens":5,"system":"s","messages":[{"role":"assistant","content":[
            {"type":"tool_use","id":"t","name":"f","input":{"City":"Bern"}}]}]}"#,
    ),
];

/// The path of each dialect's chat, with a body that its API takes.
const CHATS: [(&str, &str); 3] = [
    ("/api/chat", r#"{"model":"llama3","messages":[]}"#),
    ("/v1/chat/completions", r#"{"model":"llama3","messages":[]}"#),
    ("/v1/messages", r#"{"model":"llama3","max_tokens":5,"messages":[]}"#),
];

/// An Ollama that has every operation.
async fn server(name: &str) -> LlmServer {
    let server = LlmServer::start(name, &["llama3:latest"]).await;
    server.set_version("0.14.0");
    server
}

#[tokio::test]
async fn every_operation_reaches_its_backend_and_comes_back_as_it_was() {
    let mut server = server("gpu-1").await;
    let gate = TestProxy::before(&[&server]).await;
    for (path, body) in CALLS {
        let theirs = format!(r#"{{"theirs":"{path}", "usage":{{}}}}"#);
        server.script(Script::json(200, &theirs));
        let answer = gate.post_text(path, body).await;
        assert_eq!((answer.status, answer.body.as_str(), answer.backend()), (200, theirs.as_str(), Some("gpu-1")));
        let seen = server.seen().await;
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.body.as_str()), ("POST", path, body));
    }
    for (surface, operation, calls) in
        [("openai", "complete", 1.0), ("openai", "respond", 1.0), ("anthropic", "chat", 1.0), ("ollama", "embed", 2.0)]
    {
        let labels = format!("surface=\"{surface}\",operation=\"{operation}\",status=\"2xx\"");
        gate.until_metric(&format!("tollgate_requests_total{{{labels}}}"), calls).await;
    }
}

#[tokio::test]
async fn streams_of_events_pass_piece_by_piece() {
    let server = server("gpu-1").await;
    let gate = TestProxy::before(&[&server]).await;
    for (path, first, last) in [
        ("/v1/completions", "data: {\"choices\":[{\"text\":\"a\"}]}\n\n", "data: [DONE]\n\n"),
        (
            "/v1/responses",
            "event: response.output_text.delta\ndata: {\"delta\":\"a\"}\n\n",
            "event: response.completed\ndata: {\"response\":{\"usage\":{}}}\n\n",
        ),
        (
            "/v1/messages",
            "event: content_block_delta\ndata: {\"delta\":{\"text\":\"a\"}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ),
    ] {
        let go_on = Arc::new(Notify::new());
        server.script(Script::sse().chunk(first).wait(&go_on).chunk(last).end());
        let body = r#"{"model":"llama3","max_tokens":5,"stream":true}"#;
        let mut response = gate.request(Method::POST, path).body(body).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{path}");
        assert_eq!(response.chunk().await.unwrap().unwrap(), first, "{path}: before the rest is there");
        go_on.notify_one();
        assert_eq!(response.text().await.unwrap(), last, "{path}");
    }
}

#[tokio::test]
async fn an_anthropic_caller_has_its_own_headers_both_ways() {
    let mut server = server("gpu-1").await;
    let gate = TestProxy::before(&[&server]).await;
    let (path, body) = CHATS[2];
    let call = |path: &str| {
        let request = gate.client().post(gate.url(path)).header("x-api-key", gate.key());
        let request = request.header("anthropic-version", "2023-06-01").header("anthropic-beta", "a,b");
        request.header("openai-organization", "org-1").header("x-stainless-lang", "python")
    };
    server.script(Script::raw(
        "HTTP/1.1 429 X\r\ncontent-type: application/json\r\nretry-after: 7\r\nrequest-id: theirs\r\n\
         anthropic-organization-id: secret\r\ncontent-length: 2\r\n\r\n{}",
    ));
    let answer = Answer::of(call(&format!("{path}?beta=true")).body(body).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    let id = answer.header("x-request-id").unwrap();
    assert_eq!(answer.header("request-id"), Some(id));
    assert_eq!(answer.header("anthropic-organization-id"), None);
    let seen = server.seen().await;
    let header = |name| seen.header(name);
    assert_eq!((header("anthropic-version"), header("anthropic-beta")), (Some("2023-06-01"), Some("a,b")));
    assert_eq!((header("x-api-key"), header("authorization")), (None, None));
    assert_eq!((header("openai-organization"), header("x-stainless-lang")), (None, None));
    assert_eq!((header("x-request-id"), seen.path.as_str()), (Some(id), path), "the query stays behind");

    // Other dialects' backends and callers don't see them, and a version is asked of nobody.
    let answer = Answer::of(call(CHATS[1].0).body(CHATS[1].1).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.header("request-id")), (200, None));
    assert_eq!(server.seen().await.header("anthropic-version"), None);
    let bare = gate.client().post(gate.url(path)).header("x-api-key", gate.key()).body(body);
    assert_eq!(bare.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn every_refusal_speaks_the_dialect_of_its_caller() {
    let server = server("gpu-1").await;
    let mut builder = TestProxy::builder().backend(&server).set("server.max_body = \"1KiB\"");
    let once = builder.add_key("once", rpm(1));
    let scoped = builder.add_key("scoped", |key| key.scope = Scope::Models(["other:latest".into()].into()));
    let gate = builder.start().await;
    let own = gate.key();
    let large = format!(r#"{{"model":"{}"}}"#, "x".repeat(1024));
    for (path, body) in CHATS {
        assert_eq!(gate.post_text(path, body).await.status, 200, "{path}");
        let spent = gate.client().post(gate.url("/api/chat")).bearer_auth(&once).body(CHATS[0].1).send().await.unwrap();
        assert!([200, 429].contains(&spent.status().as_u16()));
        for (key, method, body, status, code) in [
            (None, Method::POST, body, 401, "invalid_api_key"),
            (Some("op_wrong"), Method::POST, body, 401, "invalid_api_key"),
            (Some(own), Method::POST, "{", 400, "bad_body"),
            (Some(own), Method::POST, r#"{"model":"a@sha256:1"}"#, 400, "bad_model_name"),
            (Some(own), Method::POST, r#"{"model":"x:cloud"}"#, 403, "cloud_model"),
            (Some(own), Method::POST, r#"{"model":"nobody"}"#, 404, "model_not_found"),
            (Some(scoped.as_str()), Method::POST, body, 404, "model_not_found"),
            (Some(own), Method::GET, "", 405, "wrong_method"),
            (Some(own), Method::POST, large.as_str(), 413, "body_too_large"),
            (Some(once.as_str()), Method::POST, body, 429, "rate_limit_exceeded"),
        ] {
            let request = gate.client().request(method, gate.url(path)).body(body.to_owned());
            let request = key.iter().fold(request, |request, key| request.bearer_auth(key));
            check_refusal(&Answer::of(request.send().await.unwrap()).await, path, status, code);
        }
        let encoded = gate.request(Method::POST, path).header("content-encoding", "zstd").body(body);
        check_refusal(&Answer::of(encoded.send().await.unwrap()).await, path, 415, "encoded_body");
        server.script(Script::raw("no HTTP\r\n\r\n"));
        check_refusal(&gate.post_text(path, body).await, path, 502, "bad_backend_answer");
    }
    server.kill().await;
    gate.until_backend_is("gpu-1", false).await;
    for (path, body) in CHATS {
        check_refusal(&gate.post_text(path, body).await, path, 503, "no_backend");
    }
}

/// The shape, the type that clients choose their exception by, and the headers that they read.
#[track_caller]
fn check_refusal(answer: &Answer, path: &str, status: u16, code: &str) {
    answer.refusal(path, status, code);
    let kind = match path {
        "/v1/messages" => match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            502 => "api_error",
            503 => "overloaded_error",
            _ => "invalid_request_error",
        },
        "/v1/chat/completions" => match status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            502 | 503 => "server_error",
            _ => "invalid_request_error",
        },
        _ => "",
    };
    let json = answer.json();
    assert_eq!(json["error"]["type"].as_str().unwrap_or_default(), kind, "{path}: {answer:?}");
    let id = answer.header("x-request-id");
    assert_eq!(answer.header("request-id"), id.filter(|_| path == "/v1/messages"), "{path}");
    assert_eq!(answer.header("retry-after").is_some(), [429, 503].contains(&status), "{path}: {answer:?}");
}

#[tokio::test]
async fn what_is_not_served_is_404_in_the_dialect_of_its_folder() {
    let server = server("gpu-1").await;
    let gate = TestProxy::before(&[&server]).await;
    let anthropic = ["/v1/messages/count_tokens", "/v1/messages/batches", "/v1/messages/"];
    let others = ["/v1/audio/transcriptions", "/v1/responses/resp_1", "/v1/files", "/api/nothing"];
    for path in anthropic.iter().chain(&others) {
        gate.post_text(path, CHATS[2].1).await.refusal(path, 404, "unknown_path");
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_backend_too_old_for_an_operation_is_not_asked_for_it() {
    let start = async |name: &str, version| {
        let server = server(name).await;
        server.set_version(version);
        server
    };
    let (old, new) = (start("old", "0.13.2").await, start("new", "0.14.0-rc1").await);
    let gate = TestProxy::before(&[&old, &new]).await;
    for (path, body) in [("/v1/responses", CALLS[7].1), ("/v1/messages", CALLS[8].1)] {
        for _ in 0..4 {
            assert_eq!(gate.post_text(path, body).await.backend(), Some("new"), "{path}");
        }
    }
    for _ in 0..2 {
        assert_eq!(gate.post_text(CHATS[1].0, CHATS[1].1).await.status, 200);
    }
    assert_eq!((old.calls(), new.calls()), (1, 9), "in turn, where both have it");

    let between = start("between", "0.13.3").await;
    let gate = TestProxy::before(&[&between]).await;
    assert_eq!(gate.post_text("/v1/responses", CALLS[7].1).await.status, 200);
    let told = gate.post_text("/v1/messages", CALLS[8].1).await.refusal("/v1/messages", 404, "");
    assert!(told.contains("serves this operation"), "{told}");
    assert_eq!(between.calls(), 1);
    // Nobody knows what a backend can that says no version worth the name.
    between.set_version("0.0.0");
    let gate = TestProxy::before(&[&between]).await;
    assert_eq!(gate.post_text("/v1/messages", CALLS[8].1).await.status, 200);
}

/// A gate whose store says of this server that it answers Anthropic's callers.
async fn before_added(server: &LlmServer) -> TestProxy {
    let builder = TestProxy::builder();
    let store = SqliteStore::open(&builder.config().store.path).await.unwrap();
    let (name, url, kind) = (server.name().to_owned(), server.url(), "openai".to_owned());
    store.add_backend(StoredBackend { name, url, kind, weight: 1, anthropic: true, created_at_ms: 1 }).await.unwrap();
    store.close().await;
    builder.start().await
}

#[tokio::test]
async fn an_openai_server_answers_anthropic_callers_only_if_that_is_said_of_it() {
    let mut server = server("vllm").await;
    let silent = TestProxy::builder().backend_at("vllm", &server.url(), "openai").start().await;
    let both = TestProxy::builder().backend_at("vllm", &server.url(), "openai").backend_line("anthropic = true");
    let both = both.start().await;
    for (path, body) in &CALLS[4..8] {
        assert_eq!(silent.post_text(path, *body).await.status, 200, "{path}");
        assert_eq!(server.seen().await.path, *path);
    }
    let (path, body) = CALLS[8];
    silent.post_text(path, body).await.refusal(path, 404, "");
    assert_eq!(server.calls(), 4);
    let added = before_added(&server).await;
    for gate in [&both, &added] {
        assert_eq!(gate.post_text(path, body).await.status, 200);
        assert_eq!(server.seen().await.path, path);
    }
    let shown = added.api(Method::GET, "/api/v1/backends").await.json();
    assert_eq!(shown["backends"][0]["anthropic"], true, "{shown}");
    for (path, body) in &CALLS[..4] {
        both.post_text(path, *body).await.refusal(path, 404, "");
    }
}

#[tokio::test]
async fn asked_for_the_head_alone_an_answer_has_the_same_headers_and_no_body() {
    let server = server("gpu-1").await;
    let gate = TestProxy::before(&[&server]).await;
    for (path, status) in [("/", 200), ("/api/version", 200), ("/api/tags", 200), ("/api/nothing", 404)] {
        let whole = gate.get(path).await;
        let head = Answer::of(gate.request(Method::HEAD, path).send().await.unwrap()).await;
        assert_eq!((head.status, head.body.as_str(), whole.status), (status, "", status), "{path}");
        for name in ["content-type", "content-length", "allow"] {
            assert_eq!(head.header(name), whole.header(name), "{path}: {name}");
        }
        assert!(head.header("x-request-id").is_some(), "{path}");
    }
    for path in ["/api/ps", "/api/chat", "/v1/models", "/v1/messages"] {
        let head = Answer::of(gate.request(Method::HEAD, path).send().await.unwrap()).await;
        assert_eq!((head.status, head.body.as_str()), (405, ""), "{path}");
        assert!(!head.header("allow").unwrap().contains("HEAD"), "{path}");
    }
}

#[tokio::test]
async fn whether_there_is_a_cloud_is_told_to_who_has_a_key() {
    let server = server("gpu-1").await;
    for (line, disabled, source) in
        [("models.allow_cloud = false", true, "config"), ("models.allow_cloud = true", false, "none")]
    {
        let gate = TestProxy::builder().backend(&server).set(line).start().await;
        let told: Value = gate.get("/api/status").await.json();
        assert_eq!(told, json!({ "cloud": { "disabled": disabled, "source": source } }));
        assert_eq!(gate.client().get(gate.url("/api/status")).send().await.unwrap().status(), 401);
    }
    assert_eq!(server.calls(), 0);
}
