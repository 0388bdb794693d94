//! What callers must not send. In every case: the right status in the caller's dialect, and no call to a backend.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    Answer, LlmServer, TestProxy,
    raw::{Raw, exchange, request},
    until,
};

/// An inference path of each dialect.
const PATHS: [&str; 2] = ["/api/chat", "/v1/chat/completions"];

const CHAT: &str = r#"{"model":"llama3:latest","messages":[]}"#;

async fn server() -> LlmServer {
    LlmServer::start("gpu-1", &["llama3:latest"]).await
}

/// An honest call passes, and it is the first that the backend gets.
async fn nothing_came_through(gate: &TestProxy, server: &mut LlmServer) {
    assert_eq!(server.calls(), 0);
    assert_eq!(gate.post_text("/api/chat", CHAT).await.status, 200);
    assert_eq!((server.seen().await.body.as_str(), server.calls()), (CHAT, 1));
}

/// Posts this body to each of the paths, which must refuse it with words that hold `needle`.
async fn refused(gate: &TestProxy, body: impl Into<Vec<u8>>, status: u16, code: &str, needle: &str) {
    let body = body.into();
    for path in [PATHS[0], PATHS[1], "/api/generate", "/api/embed", "/v1/embeddings", "/api/show"] {
        let told = gate.post_text(path, body.clone()).await.refusal(path, status, code);
        assert!(told.contains(needle), "{path}: {told}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_one_json_object_is_400() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for (body, needle) in [
        ("", "is empty"),
        (" \r\n\t", "is empty"),
        ("hello", "not valid JSON"),
        ("null", "not a JSON object"),
        ("[]", "not a JSON object"),
        (r#""llama3""#, "not a JSON object"),
        (r#"[{"model":"llama3"}]"#, "not a JSON object"),
        (r#"{"model":"llama3""#, "not valid JSON"),
        (r#"{"model":"llama3",}"#, "not valid JSON"),
        (r#"{'model':'llama3'}"#, "not valid JSON"),
        (r#"{"model":"llama3"/**/}"#, "not valid JSON"),
        (r#"{"model":"llama3","x":NaN}"#, "not valid JSON"),
        (r#"{"model":"llama3","x":01}"#, "not valid JSON"),
        ("{\"model\":\"llama3\",\"x\":\"\u{1}\"}", "not valid JSON"),
        (r#"{"model":"llama3","x":"\ud800"}"#, "not valid JSON"),
        (r#"{"model":"llama3"}{"model":"secret"}"#, "goes on after"),
        (r#"{"model":"llama3"} x"#, "goes on after"),
        (r#"{"model":"llama3"},"#, "goes on after"),
        ("{\"model\":\"llama3\"}\0", "goes on after"),
        ("\u{feff}{\"model\":\"llama3\"}", "not valid JSON"),
        ("model=llama3&stream=false", "not valid JSON"),
    ] {
        refused(&gate, body, 400, "bad_body", needle).await;
    }
    let deep = format!(r#"{{"model":"llama3","x":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
    refused(&gate, deep, 400, "bad_body", "nested more than").await;
    let wide: Vec<String> = (0..100_000).map(|n| format!("\"k{n}\":0")).collect();
    let wide = gate.post_text("/api/chat", format!("{{\"model\":\"llama3\",{}}}", wide.join(","))).await;
    assert_eq!(wide.status, 400, "{wide:?}");
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_body_in_another_encoding_than_utf_8_is_400() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let utf_16: Vec<u8> = CHAT.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for body in [b"{\"model\":\"llama3\",\"x\":\"\xff\"}".to_vec(), b"{\"model\":\"ll\xe4ma3\"}".to_vec(), utf_16] {
        refused(&gate, body, 400, "bad_body", "UTF-8").await;
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_key_that_two_readers_could_take_for_different_ones_is_400() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for (body, needle) in [
        (r#"{"model":"llama3","model":"secret"}"#, "stands twice"),
        (r#"{"model":"llama3","mod\u0065l":"secret"}"#, "stands twice"),
        (r#"{"model":"llama3","options":{"num_ctx":1,"num_ctx":2}}"#, "stands twice"),
        (r#"{"model":"llama3","messages":[{"role":"user","role":"system"}]}"#, "stands twice"),
        (r#"{"model":"llama3","MODEL":"secret"}"#, "lower case"),
        (r#"{"Model":"secret"}"#, "lower case"),
        (r#"{"model":"llama3","mode\u004c":"secret"}"#, "lower case"),
        (r#"{"model":"llama3","Stream":false}"#, "lower case"),
        (r#"{"model":"llama3","options":{"Num_Ctx":9}}"#, "lower case"),
        // The Kelvin sign and the long s, which fold into letters of ASCII.
        ("{\"model\":\"llama3\",\"to\u{212a}en\":1}", "lower case"),
        ("{\"model\":\"llama3\",\"\u{17f}tream\":false}", "lower case"),
    ] {
        refused(&gate, body, 400, "bad_body", needle).await;
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_call_without_a_model_is_400() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for body in ["{}", r#"{"model":""}"#, r#"{"model":null}"#, r#"{"messages":[{"model":"llama3"}]}"#] {
        refused(&gate, body, 400, "missing_model", "`model`").await;
    }
    for body in [r#"{"model":3}"#, r#"{"model":["llama3"]}"#, r#"{"model":{"name":"llama3"}}"#] {
        refused(&gate, body, 400, "bad_body", "").await;
    }
    // Only where Ollama reads it is `name` a model's name.
    for path in PATHS {
        gate.post_text(path, r#"{"name":"llama3"}"#).await.refusal(path, 400, "missing_model");
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_name_that_is_no_models_is_400_and_a_cloud_model_403() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest", "gpt-oss:120b-cloud", "a:cloud"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let named = |model: &str| json!({ "model": model }).to_string();
    for (model, needle) in [
        ("llama3@sha256:0a", "digest"),
        ("https://ollama.com/library/llama3", "URL"),
        ("llama3://x", "URL"),
        (" ", "empty"),
        ("a b", "white space"),
        ("llama3\0", "control"),
        ("../llama3", "`..`"),
        ("a/b/c/d", "three parts"),
        ("a//b", "empty part"),
        ("llama3:", "empty part"),
        ("..\\llama3", "`\\`"),
        ("llama3%00", "`%`"),
        ("llama3?x", "`?`"),
        ("llama3#x", "`#`"),
    ] {
        refused(&gate, named(model), 400, "bad_model_name", needle).await;
    }
    refused(&gate, named(&"a".repeat(300)), 400, "bad_model_name", "longer").await;
    for model in ["a:cloud", "A:CLOUD", "gpt-oss:120b-cloud", "library/a:Cloud", "registry.ollama.ai/library/a:cloud"] {
        refused(&gate, named(model), 403, "cloud_model", "cloud").await;
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_cloud_model_is_served_where_that_is_allowed() {
    let server = LlmServer::start("gpu-1", &["a:cloud"]).await;
    let gate = TestProxy::builder().backend(&server).set("models.allow_cloud = true").start().await;
    assert_eq!(gate.post("/api/chat", &json!({ "model": "a:cloud" })).await.status, 200);
}

#[tokio::test]
async fn an_encoded_body_is_415_whatever_the_encoding() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for path in PATHS {
        for encoding in ["gzip", "zstd", "br", "deflate", "identity", "x"] {
            let request = gate.request(Method::POST, path).header("content-encoding", encoding).body(CHAT);
            Answer::of(request.send().await.unwrap()).await.refusal(path, 415, "encoded_body");
        }
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_body_over_the_cap_is_413_and_one_at_the_cap_passes() {
    let mut server = server().await;
    let gate = TestProxy::builder().backend(&server).set("server.max_body = \"1KiB\"").start().await;
    let of_size = |bytes: usize| CHAT.to_owned() + &" ".repeat(bytes - CHAT.len());
    for path in PATHS {
        let told = gate.post_text(path, of_size(1025)).await.refusal(path, 413, "body_too_large");
        assert!(told.contains("1024"), "{told}");
        let declared = request(&gate, format!("POST {path}"), "content-length: 99999999999\r\n", "");
        exchange(&gate, declared).await.refusal(path, 413, "body_too_large");
        // A chunked body says its length piece by piece, and this one never ends.
        let chunk = format!("400\r\n{}\r\n1\r\n \r\n", of_size(1024));
        let chunked = request(&gate, format!("POST {path}"), "transfer-encoding: chunked\r\n", &chunk);
        exchange(&gate, chunked).await.refusal(path, 413, "body_too_large");
    }
    let show = gate.post_text("/api/show", of_size((64 << 10) + 1)).await;
    show.refusal("/api/show", 413, "body_too_large");
    nothing_came_through(&gate, &mut server).await;
    assert_eq!(gate.post_text("/api/chat", of_size(1024)).await.status, 200);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_408() {
    let mut server = server().await;
    let gate = TestProxy::builder().backend(&server).set("server.body_idle_timeout = \"200ms\"").start().await;
    for path in PATHS {
        let stalled = request(&gate, format!("POST {path}"), "content-length: 100\r\n", "{\"model\":");
        exchange(&gate, stalled).await.refusal(path, 408, "body_timeout");
        let chunked = request(&gate, format!("POST {path}"), "transfer-encoding: chunked\r\n", "9\r\n{\"model\":\r\n");
        exchange(&gate, chunked).await.refusal(path, 408, "body_timeout");
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_408_and_counted() {
    let mut server = server().await;
    let gate = TestProxy::builder().backend(&server).set("server.body_timeout = \"300ms\"").start().await;
    let mut raw = Raw::connect(&gate).await;
    raw.send(request(&gate, "POST /api/chat", "content-length: 1000\r\n", "{\"model\":\"")).await;
    while raw.is_unanswered() {
        raw.send("x").await;
        // That bytes go on coming is the matter, so time must pass between them.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    raw.answer().await.refusal("/api/chat", 408, "body_timeout");
    gate.until_metric("tollgate_bound_reached_total{bound=\"body_timeout\"}", 1.0).await;
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_body_that_comes_slowly_but_steadily_passes() {
    let server = server().await;
    let gate = TestProxy::builder().backend(&server).set("server.body_idle_timeout = \"2s\"").start().await;
    let mut raw = Raw::connect(&gate).await;
    raw.send(request(&gate, "POST /api/chat", &format!("content-length: {}\r\n", CHAT.len()), "")).await;
    for piece in CHAT.as_bytes().chunks(8) {
        // Real time is the matter: all together longer than the limit, and no pause nearly as long.
        tokio::time::sleep(Duration::from_millis(450)).await;
        raw.send(piece).await;
    }
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_badly_framed_never_reaches_a_backend() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let badly_framed = ["zz\r\n", "-1\r\n", "5\r\n{\"mod-and-more\r\n", "ffffffffffffffffff\r\n"];
    for body in badly_framed {
        let chunked = request(&gate, "POST /v1/chat/completions", "transfer-encoding: chunked\r\n", body);
        exchange(&gate, chunked).await.refusal("/v1", 400, "bad_body");
    }
    let mut raw = Raw::connect(&gate).await;
    raw.send(request(&gate, "POST /api/chat", "content-length: 1000\r\n", CHAT)).await;
    gate.until_metric("tollgate_requests_in_flight", 1.0).await;
    drop(raw);
    gate.until_idle().await;
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn bodies_over_the_budget_of_all_together_are_503_until_there_is_room() {
    let mut server = server().await;
    let builder = TestProxy::builder().backend(&server).set("server.max_body = \"8KiB\"");
    let gate = builder.set("server.max_buffered = \"8KiB\"").start().await;
    let mut hog = Raw::connect(&gate).await;
    hog.send(request(&gate, "POST /api/chat", "content-length: 8192\r\n", &"{".repeat(6000))).await;
    let is_full = async || gate.post_text("/api/chat", "{}").await.status == 503;
    until("the first body's reading", is_full).await;
    for path in PATHS {
        let refused = gate.post_text(path, CHAT).await;
        refused.refusal(path, 503, "no_room");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    drop(hog);
    until("room", async || gate.post_text("/api/chat", "{}").await.status == 400).await;
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_body_that_is_declared_but_not_sent_takes_no_room_from_others() {
    let mut server = server().await;
    let builder = TestProxy::builder().backend(&server).set("server.max_body = \"8KiB\"");
    let gate = builder.set("server.max_buffered = \"16KiB\"").start().await;
    let mut hogs = Vec::new();
    for _ in 0..8 {
        let mut hog = Raw::connect(&gate).await;
        hog.send(request(&gate, "POST /api/chat", "content-length: 8192\r\n", "{")).await;
        hogs.push(hog);
    }
    gate.until_metric("tollgate_requests_in_flight", 8.0).await;
    assert_eq!(gate.post_text("/api/chat", CHAT).await.status, 200);
    server.seen().await;
}

#[tokio::test]
async fn another_method_is_405_and_says_which_ones_there_are() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let check = async |method: Method, path: &str, allow: &str| {
        let answer = Answer::of(gate.request(method.clone(), path).body(CHAT).send().await.unwrap()).await;
        answer.refusal(path, 405, "wrong_method");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    };
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        for path in PATHS {
            check(method.clone(), path, "POST").await;
        }
    }
    for (path, allow) in [
        ("/", "GET, HEAD"),
        ("/api/version", "GET, HEAD"),
        ("/api/tags", "GET, HEAD"),
        ("/api/ps", "GET"),
        ("/v1/models", "GET"),
        ("/v1/models/llama3", "GET"),
        ("/api/delete", "DELETE"),
        ("/api/blobs/sha256:0a", "HEAD, POST"),
    ] {
        check(Method::PUT, path, allow).await;
        check(Method::from_bytes(b"get").unwrap(), path, allow).await;
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn an_unknown_path_is_404_in_the_dialect_of_its_beginning() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for path in ["/api/nothing", "/v1/files", "/v1", "/v1/messages/count_tokens", "/nothing", "/metrics"] {
        for method in [Method::GET, Method::POST] {
            let answer = Answer::of(gate.request(method, path).body(CHAT).send().await.unwrap()).await;
            answer.refusal(path, 404, "unknown_path");
        }
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_request_that_two_readers_could_frame_differently_never_reaches_a_backend() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let length = format!("content-length: {}\r\n", CHAT.len());
    let smuggled = "POST /api/generate HTTP/1.1\r\n\r\n";
    for headers in [
        format!("{length}content-length: {}\r\n", CHAT.len() + smuggled.len()),
        format!("content-length: {}, {}\r\n", CHAT.len(), CHAT.len() + 1),
        "content-length: +39\r\n".to_owned(),
        "content-length: 0x27\r\n".to_owned(),
        "transfer-encoding: gzip\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding : chunked\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        " folded: line\r\n".to_owned(),
        "no-colon\r\n".to_owned(),
        "bad\0name: x\r\n".to_owned(),
        "x: bad\0value\r\n".to_owned(),
    ] {
        let body = format!("{CHAT}{smuggled}");
        let answer = exchange(&gate, request(&gate, "POST /api/chat", &headers, &body)).await;
        assert_eq!(answer.status, 400, "{headers}: {answer:?}");
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn what_stands_behind_a_body_with_two_lengths_is_no_second_request() {
    let server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let second = format!("POST /api/chat HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", gate.key());
    let length = format!("content-length: {}\r\n", 5 + second.len());
    for lengths in
        [format!("{length}transfer-encoding: chunked"), format!("transfer-encoding: chunked\r\n{length}x: y")]
    {
        let key = gate.key();
        let head = format!("POST /api/chat HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n{lengths}\r\n\r\n");
        let mut raw = Raw::connect(&gate).await;
        raw.send(format!("{head}0\r\n\r\n{second}")).await;
        let text = raw.text().await;
        assert_eq!((text.matches("HTTP/1.1 ").count(), text.starts_with("HTTP/1.1 400 ")), (1, true), "{text}");
    }
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_head_of_too_many_or_too_long_lines_is_refused() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(200 << 10));
    for headers in [many, long] {
        let answer = exchange(&gate, request(&gate, "POST /api/chat", &headers, CHAT)).await;
        assert_eq!(answer.status, 431, "{} bytes: {answer:?}", headers.len());
    }
    let path = format!("POST /api/chat?{}", "y".repeat(100 << 10));
    let answer = exchange(&gate, request(&gate, path, "", CHAT)).await;
    assert!(matches!(answer.status, 414 | 431), "{answer:?}");
    nothing_came_through(&gate, &mut server).await;
}

/// Posts a chat at this request target.
async fn post_at(gate: &TestProxy, target: impl AsRef<[u8]>) -> Answer {
    let line = [b"POST ", target.as_ref()].concat();
    exchange(gate, request(gate, line, &format!("content-length: {}\r\n", CHAT.len()), CHAT)).await
}

#[tokio::test]
async fn no_second_spelling_of_a_path_reaches_a_backend() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    let unknown = "/api/chat/ /api/chat// /api/chat/. /api/chat/.. /api/chat/../chat /api/./chat /api/x/../chat \
        /api//chat //api/chat ///api/chat /./api/chat /../api/chat /x/../api/chat /v1/../api/chat /api/../v1/models \
        /api/%2e%2e/v1/models /api/..%2fapi/chat /api/..%2Fapi/chat /api/%2e/chat /api/%2E%2E/chat /api%2Fchat \
        /api%2fchat /%2fapi/chat /api/ch%61t /%61pi/chat /api/chat%00 /api/chat%20 /api/chat%0a /api/chat%0d%0aX:y \
        /api/chat%3F /api/chat%3fa /api/chat%23 /api/chat%2F /api/chat%5c /api/%63%68%61%74 /api/%2563hat \
        /api/%252e%252e/chat /api/chat% /api/chat%zz /api/chat%c0%af /API/chat /Api/Chat /api/CHAT /api/Chat \
        /api/chat; /api/chat;a=b /api;/chat /api/chat. /api/chat: /api/chat, /api/chat* /api\\chat /api/..\\chat \
        \\api\\chat /api/cha /api/chatx /apichat /api /api/ /v1/chat/completions/ /v1//chat/completions \
        /v1/chat//completions /v1/chat%2Fcompletions /v1/Chat/completions /v1/chat/./completions /api/pull/ \
        /api/./pull /api//pull /api/x/../pull /api/pull%3Fa /api/pull%23a /api/..%2Fapi/pull /API/pull \
        http://x/api/chat/ http://x/../api/chat http://x//api/chat http://x/API/chat *";
    let rejected =
        [&b"/api/chat\0"[..], b"/api/chat\x01", b"/api/chat\x7f", b"/api/chat /x", b"/api/chat\tx", b"api/chat"];
    let mut targets: Vec<&[u8]> = unknown.split_ascii_whitespace().map(str::as_bytes).collect();
    targets.extend(rejected);
    targets.extend([
        "/api/ｃhat".as_bytes(),
        "/api/chat\u{200b}".as_bytes(),
        "/api/cha\u{301}t".as_bytes(),
        b"/api/\xff",
    ]);
    assert!(targets.len() >= 40);
    for target in targets {
        let answer = post_at(&gate, target).await;
        let shown = String::from_utf8_lossy(target);
        assert!(matches!(answer.status, 400 | 404), "{shown}: {answer:?}");
        assert_eq!(server.calls(), 0, "{shown}");
    }
    for target in ["/api/pull", "/api/pull?x=/api/chat", "/api/pull#/api/chat", "http://x/api/pull", "/api/me"] {
        assert_eq!(post_at(&gate, target).await.status, 403, "{target}");
    }
    for target in ["/?/api/chat", "/v1/models/../chat/completions", "/v1/models/%2e%2e%2fchat", "http://x"] {
        assert_eq!(post_at(&gate, target).await.status, 405, "{target}");
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn an_honest_target_reaches_the_backend_by_the_tables_path_alone() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for target in ["/api/chat", "/api/chat?", "/api/chat?x=../../pull", "/api/chat#x", "http://evil.example/api/chat?x"]
    {
        assert_eq!(post_at(&gate, target).await.status, 200, "{target}");
        let seen = server.seen().await;
        let host = server.address().to_string();
        assert_eq!((seen.path.as_str(), seen.header("host")), ("/api/chat", Some(host.as_str())), "{target}");
    }
}

#[tokio::test]
async fn a_models_name_in_a_path_is_a_name_and_never_a_path() {
    let mut server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for (name, status) in [
        ("llama3", 200),
        ("llama3%3Alatest", 200),
        ("library/llama3", 200),
        ("library%2Fllama3", 200),
        ("nobody", 404),
        ("", 404),
        ("%00", 404),
        ("%zz", 404),
        ("%ff", 404),
        ("..", 400),
        ("../../api/tags", 400),
        ("..%2F..%2Fapi%2Ftags", 400),
        ("llama3%40sha256:0a", 400),
        ("http:%2F%2Fx%2Fllama3", 400),
        ("%252e%252e", 400),
    ] {
        let answer = exchange(&gate, request(&gate, format!("GET /v1/models/{name}"), "", "")).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        let id = answer.json()["id"].clone();
        assert_eq!(id, if status == 200 { json!("llama3:latest") } else { Value::Null }, "{name}");
    }
    nothing_came_through(&gate, &mut server).await;
}

#[tokio::test]
async fn a_refused_call_says_nothing_of_what_it_held() {
    let server = server().await;
    let gate = TestProxy::before(&[&server]).await;
    for body in [r#"{"model":"llama3","prompt":"private-words}"#, r#"{"model":"llama3","x":private-words}"#] {
        let answer = gate.post_text("/api/generate", body).await;
        assert!(answer.status == 400 && !answer.body.contains("private"), "{answer:?}");
    }
}
