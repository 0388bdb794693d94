//! What each operation does: who answers it, what a backend gets to see, and what a caller gets back.

use std::collections::BTreeSet;

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::support::{
    Answer, LlmServer, Script, TestProxy,
    raw::{exchange, request},
};

const CHAT: &str = r#"{"model":"llama3:latest","messages":[]}"#;

/// What no caller may do to a backend's models.
const MANAGEMENT: [(Method, &str); 8] = [
    (Method::POST, "/api/pull"),
    (Method::POST, "/api/push"),
    (Method::POST, "/api/create"),
    (Method::POST, "/api/copy"),
    (Method::DELETE, "/api/delete"),
    (Method::HEAD, "/api/blobs/sha256:0a"),
    (Method::POST, "/api/blobs/sha256:0a"),
    (Method::POST, "/api/pull?name=llama3"),
];

/// What acts with the account or the network of a backend's host.
const DENIED: [(Method, &str); 6] = [
    (Method::POST, "/api/me"),
    (Method::POST, "/api/signout"),
    (Method::DELETE, "/api/user/keys/a"),
    (Method::POST, "/api/experimental/web_search"),
    (Method::POST, "/api/experimental/web_fetch"),
    (Method::GET, "/api/experimental/model-recommendations"),
];

async fn server() -> LlmServer {
    LlmServer::start("gpu-1", &["llama3:latest"]).await
}

fn names(headers: &HeaderMap) -> BTreeSet<&str> {
    headers.keys().map(http::HeaderName::as_str).collect()
}

#[tokio::test]
async fn who_asks_whether_there_is_an_ollama_needs_no_key() {
    let gate = TestProxy::before(&[&server().await]).await;
    for key in [None, Some("op_wrong")] {
        for (path, kind, body) in [
            ("/", "text/plain; charset=utf-8", "Ollama is running"),
            ("/api/version", "application/json", r#"{"version":"0.9.1"}"#),
        ] {
            for (method, body) in [(Method::GET, body), (Method::HEAD, "")] {
                let request = gate.client().request(method, gate.url(path));
                let request = key.iter().fold(request, |request, key| request.bearer_auth(key));
                let answer = Answer::of(request.send().await.unwrap()).await;
                assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
                assert_eq!(answer.header("content-type"), Some(kind), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn there_is_a_version_even_without_a_backend() {
    let gate = TestProxy::builder().start().await;
    assert_eq!(gate.get("/api/version").await.json(), json!({ "version": "0.0.0" }));
}

#[tokio::test]
async fn a_list_can_be_asked_for_its_head_alone() {
    let gate = TestProxy::before(&[&server().await]).await;
    let whole = gate.get("/api/tags").await;
    let head = Answer::of(gate.request(Method::HEAD, "/api/tags").send().await.unwrap()).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let length = whole.body.len().to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
}

#[tokio::test]
async fn what_changes_a_backend_is_403_and_reaches_none() {
    let server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let rows = MANAGEMENT.map(|row| (row, "an administrator")).into_iter();
    for ((method, path), word) in rows.chain(DENIED.map(|row| (row, "never passed on"))) {
        let is_head = method == Method::HEAD;
        let answer = Answer::of(gate.request(method, path).body(r#"{"model":"llama3"}"#).send().await.unwrap()).await;
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
        if !is_head {
            let told = answer.refusal(path, 403, "");
            assert!(told.contains(word), "{path}: {told}");
        }
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn facts_of_a_model_come_from_its_owner_by_either_field() {
    let mut owner = LlmServer::start("owner", &["qwen3:8b"]).await;
    let other = LlmServer::start("other", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&other, &owner]).await;
    for (body, seen_body) in [
        (r#"{"model":"qwen3:8b"}"#, r#"{"model":"qwen3:8b"}"#),
        (r#"{"name":"qwen3:8b"}"#, r#"{"name":"qwen3:8b"}"#),
        (r#"{"name":"QWEN3:8B","verbose":true}"#, r#"{"name":"qwen3:8b","verbose":true}"#),
        (r#"{"name":"llama3","model":"library/Qwen3:8b"}"#, r#"{"name":"llama3","model":"qwen3:8b"}"#),
        (r#"{"name":"qwen3:8b","model":""}"#, r#"{"name":"qwen3:8b","model":""}"#),
        (r#"{"name":"qwen3:8b","model":null}"#, r#"{"name":"qwen3:8b","model":null}"#),
    ] {
        let answer = gate.post_text("/api/show", body).await;
        assert_eq!((answer.status, answer.backend()), (200, Some("owner")), "{body}: {answer:?}");
        let seen = owner.seen().await;
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.body.as_str()), ("POST", "/api/show", seen_body));
    }
    gate.post_text("/api/show", r#"{"name":"nobody"}"#).await.refusal("/api/show", 404, "model_not_found");
    assert_eq!(other.calls(), 0);
}

#[tokio::test]
async fn one_model_of_the_openai_list_is_answered_without_a_call() {
    let server = LlmServer::start("gpu-1", &["llama3:latest", "hf.co/bob/m:q4"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let list = gate.get("/v1/models").await.json();
    for (path, id) in [
        ("/v1/models/llama3", "llama3:latest"),
        ("/v1/models/LLAMA3:latest", "llama3:latest"),
        ("/v1/models/hf.co/bob/m:q4", "hf.co/bob/m:q4"),
        ("/v1/models/hf.co%2Fbob%2Fm%3Aq4", "hf.co/bob/m:q4"),
    ] {
        let answer = gate.get(path).await;
        let listed = list["data"].as_array().unwrap().iter().find(|model| model["id"] == id).unwrap();
        assert_eq!((answer.status, &answer.json()), (200, listed), "{path}");
        assert_eq!((&listed["object"], &listed["owned_by"]), (&json!("model"), &json!("library")));
    }
    let told = gate.get("/v1/models/nobody").await.refusal("/v1", 404, "model_not_found");
    assert!(told.contains("'nobody'"), "{told}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_redirect_of_a_backend_is_not_passed_on() {
    let server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for status in [301, 302, 303, 304, 307, 308] {
        for path in ["/api/chat", "/v1/chat/completions"] {
            let body = r#"<a href="http://10.0.0.1/secret">moved</a>"#;
            server.script(Script::raw(&format!(
                "HTTP/1.1 {status} X\r\nlocation: http://10.0.0.1/secret\r\ncontent-type: text/html\r\n\
                 content-length: {}\r\n\r\n{}",
                body.len(),
                // An answer of 304 has no body, whatever its length says.
                if status == 304 { "" } else { body },
            )));
            let answer = gate.post_text(path, CHAT).await;
            answer.refusal(path, 502, "bad_backend_answer");
            assert!(!format!("{answer:?}").contains("10.0.0.1"), "{answer:?}");
        }
    }
    assert_eq!(server.calls(), 12, "no redirect is followed");
}

#[tokio::test]
async fn of_a_backends_headers_only_those_pass_that_are_meant_for_callers() {
    let server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    server.script(Script::raw(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: 3\r\ncache-control: no-store\r\n\
         retry-after: 7\r\nopenai-processing-ms: 5\r\nserver: secret\r\nset-cookie: a=b\r\nx-powered-by: secret\r\n\
         location: http://10.0.0.1\r\nwww-authenticate: Basic\r\naccess-control-allow-origin: *\r\nvia: secret\r\n\
         x-request-id: theirs\r\nx-tollgate-backend: theirs\r\nx-accel-buffering: yes\r\nalt-svc: h3\r\n\
         content-encoding: identity\r\nstrict-transport-security: x\r\nratelimit: \"theirs\";r=7\r\n\
         x-ratelimit-limit-requests: 7\r\nconnection: x-hop\r\nx-hop: y\r\n\r\n{}\n",
    ));
    let answer = gate.post_text("/api/chat", CHAT).await;
    let passed = "cache-control content-length content-type date openai-processing-ms ratelimit ratelimit-policy \
        retry-after x-accel-buffering x-request-id x-tollgate-backend";
    assert_eq!(names(&answer.headers), passed.split_ascii_whitespace().collect());
    for (name, value) in [
        ("content-type", "application/x-ndjson"),
        ("retry-after", "7"),
        ("x-tollgate-backend", "gpu-1"),
        ("ratelimit", "\"requests-per-minute\";r=99;t=61"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    assert_ne!(answer.header("x-request-id"), Some("theirs"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}\n"));
}

#[tokio::test]
async fn a_well_formed_request_id_is_kept_and_any_other_replaced_on_both_sides() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let (long, key) = ("x".repeat(65), gate.key().to_owned());
    for (given, is_kept) in [
        (Some("trace-1.A_b"), true),
        (None, false),
        (Some("a b"), false),
        (Some(long.as_str()), false),
        (Some(""), false),
    ] {
        let request = gate.request(Method::POST, "/api/chat").body(CHAT);
        let request = given.iter().fold(request, |request, id| request.header("x-request-id", *id));
        let answer = Answer::of(request.send().await.unwrap()).await;
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(given == Some(id), is_kept, "{given:?} became {id}");
        assert!(is_kept || id.len() == 32, "{given:?} became {id}");
        assert_eq!(server.seen().await.header("x-request-id"), Some(id));
    }
    // Whoever mixes up his headers shall not find his key in a log.
    let request = gate.request(Method::POST, "/api/chat").header("x-request-id", &key).body(CHAT);
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_ne!(answer.header("x-request-id"), Some(key.as_str()));
    assert_ne!(server.seen().await.header("x-request-id"), Some(key.as_str()));
}

#[tokio::test]
async fn every_answer_carries_a_request_id_whoever_makes_it() {
    let gate = TestProxy::before(&[&server().await]).await;
    for (path, status) in [("/", 200), ("/api/tags", 200), ("/api/nothing", 404), ("/api/chat", 405)] {
        let request = gate.request(Method::GET, path).header("x-request-id", "r-1");
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.header("x-request-id")), (status, Some("r-1")), "{path}");
        assert_eq!(answer.backend(), None, "no backend answered {path}");
    }
}

#[tokio::test]
async fn the_backends_name_can_be_kept_from_callers() {
    let gate = TestProxy::builder().backend(&server().await).set("server.expose_backend = false").start().await;
    let answer = gate.post_text("/api/chat", CHAT).await;
    assert_eq!((answer.status, answer.backend()), (200, None));
}

#[tokio::test]
async fn a_backend_sees_none_of_the_callers_headers_but_what_it_accepts() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let key = gate.key();
    let headers = format!(
        "x-api-key: {key}\r\ncookie: session=secret\r\naccept: text/event-stream\r\ntraceparent: 00-1-2-03\r\n\
         x-request-id: r-1\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nuser-agent: curl\r\norigin: http://x\r\n\
         referer: http://x\r\nforwarded: for=1.2.3.4\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-host: x\r\n\
         x-real-ip: 1.2.3.4\r\nproxy-authorization: Basic x\r\nte: trailers\r\nkeep-alive: 5\r\naccept-encoding: gzip\r\n\
         x-hop: y\r\nconnection: x-hop\r\nx-ollama-secret: z\r\nanthropic-version: 1\r\nexpect: 100-continue\r\n",
        CHAT.len()
    );
    assert_eq!(exchange(&gate, request(&gate, "POST /api/chat?key=secret", &headers, CHAT)).await.status, 100);
    let seen = server.seen().await;
    let expected = "accept content-length content-type host traceparent user-agent x-request-id";
    assert_eq!(names(&seen.headers), expected.split_ascii_whitespace().collect());
    let (host, length) = (server.address().to_string(), CHAT.len().to_string());
    for (name, value) in [
        ("host", host.as_str()),
        ("content-length", &length),
        ("content-type", "application/json"),
        ("accept", "text/event-stream"),
        ("traceparent", "00-1-2-03"),
        ("user-agent", concat!("tollgate/", env!("CARGO_PKG_VERSION"))),
        ("x-request-id", "r-1"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }
    assert_eq!((seen.path.as_str(), seen.headers.get_all("host").iter().count()), ("/api/chat", 1));
    let all = format!("{seen:?}");
    assert!(!all.contains(key) && !all.contains("secret") && !all.contains("1.2.3.4"), "{all}");
}

#[tokio::test]
async fn an_unedited_body_reaches_the_backend_byte_for_byte() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest", "a\"b:c"]).await;
    let gate = TestProxy::before(&[&server]).await;
    for body in [
        "\r\n { \"messages\" : [ ] ,\t\"model\":\"llama3:latest\", \"x\": 1.50e+02, \"y\": 12345678901234567890123 }\n\n",
        r#"{"model":"llama3:latest","prompt":"\u00e9 é \ud83d\ude00 \/","options":{"z":1,"a":2}}"#,
        r#"{"model":"\u006clama3:latest"}"#,
        r#"{"model":"a\"b:c"}"#,
    ] {
        assert_eq!(gate.post_text("/api/generate", body).await.status, 200, "{body}");
        assert_eq!(server.seen().await.body, body);
    }
}

#[tokio::test]
async fn of_another_spelling_of_the_model_only_the_name_changes() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest", "Mixed-Case:Q4_K_M"]).await;
    let gate = TestProxy::before(&[&server]).await;
    for (sent, seen) in [
        ("llama3", "llama3:latest"),
        ("LLaMA3:Latest", "llama3:latest"),
        (" llama3 ", "llama3:latest"),
        ("registry.ollama.ai/library/llama3:latest", "llama3:latest"),
        ("mixed-case:q4_k_m", "Mixed-Case:Q4_K_M"),
    ] {
        for path in ["/api/chat", "/v1/chat/completions", "/v1/embeddings"] {
            let body =
                |model: &str| format!("{{ \"a\" : [1 , 2],\"model\" : \"{model}\" ,\"b\":{{\"model\":\"x\"}} }}\n");
            assert_eq!(gate.post_text(path, body(sent)).await.status, 200, "{sent}");
            let got = server.seen().await;
            assert_eq!((got.path.as_str(), got.body), (path, body(seen)));
        }
    }
}

#[tokio::test]
async fn a_backends_error_reaches_the_caller_as_it_is() {
    let server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for status in [400, 404, 429, 500, 503] {
        let body = json!({ "error": format!("theirs {status}") });
        server.script(Script::json(status, &body.to_string()));
        let answer = gate.post_text("/api/chat", CHAT).await;
        assert_eq!((answer.status, answer.json(), answer.backend()), (status, body, Some("gpu-1")));
    }
    assert_eq!(server.calls(), 5, "no answer is asked for twice");
}

#[tokio::test]
async fn an_openai_server_gets_exact_names_and_no_ollama_calls() {
    let mut server = LlmServer::start("vllm", &["Org/Model-A"]).await;
    let gate = TestProxy::builder().backend_at("vllm", &server.url(), "openai").start().await;
    let body = r#"{"model":"Org/Model-A","messages":[]}"#;
    assert_eq!(gate.post_text("/v1/chat/completions", body).await.status, 200);
    assert_eq!(server.seen().await.body, body);
    for (path, model) in
        [("/v1/chat/completions", "org/model-a"), ("/api/chat", "Org/Model-A"), ("/api/show", "Org/Model-A")]
    {
        let body: Value = json!({ "model": model });
        gate.post(path, &body).await.refusal(path, 404, "model_not_found");
    }
    assert_eq!(server.calls(), 1);
}
