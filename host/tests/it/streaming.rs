//! An answer reaches its caller piece by piece, as the backend sends it.

use std::sync::Arc;

use reqwest::Response;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use crate::support::{LlmServer, Script, TestProxy, soon};

const CHAT: &str = "/api/chat";
const COMPLETIONS: &str = "/v1/chat/completions";

fn body() -> Value {
    json!({ "model": "llama3", "stream": true, "messages": [{ "role": "user", "content": "hi" }] })
}

/// Begins a call; its head has come.
async fn begin(gate: &TestProxy, path: &str) -> Response {
    let call = gate.request(http::Method::POST, path).body(body().to_string());
    soon("the head of an answer", call.send()).await.unwrap()
}

/// The next bytes of an answer, exactly these.
async fn expect(response: &mut Response, wanted: &[u8]) {
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        let piece = soon("the next piece of an answer", response.chunk()).await.unwrap();
        got.extend_from_slice(&piece.expect("the answer goes on"));
    }
    assert!(got == wanted, "{:?} instead of {:?}", String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted));
}

async fn expect_end(mut response: Response) {
    assert_eq!(soon("the end of an answer", response.chunk()).await.unwrap(), None);
}

/// Each piece must have arrived before the test lets the backend send the next one.
async fn check_piece_by_piece(path: &str, head: Script, kind: &str, pieces: &[&[u8]]) {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let go_on = Arc::new(Notify::new());
    let script = pieces.iter().fold(head.wait(&go_on), |script, piece| script.chunk(piece).wait(&go_on));
    server.script(script.end());

    let mut response = begin(&gate, path).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], kind);
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert!(!response.headers().contains_key("content-length"));
    for piece in pieces {
        go_on.notify_one();
        expect(&mut response, piece).await;
    }
    go_on.notify_one();
    expect_end(response).await;
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn each_ndjson_line_arrives_before_the_backend_sends_the_next() {
    let lines: [&[u8]; 3] = [
        b"{\"message\":{\"content\":\"a\"},\"done\":false}\n",
        b"{\"message\":{\"content\":\"b\"},\"done\":false}\n",
        b"{\"done\":true,\"eval_count\":2}\n",
    ];
    check_piece_by_piece(CHAT, Script::ndjson(), "application/x-ndjson", &lines).await;
}

#[tokio::test]
async fn each_server_sent_event_arrives_before_the_backend_sends_the_next() {
    let events: [&[u8]; 4] = [
        b": still loading\n\n",
        b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        b"event: x\r\ndata: {\"choices\":[]}\r\n\r\n",
        b"data: [DONE]\n\n",
    ];
    check_piece_by_piece(COMPLETIONS, Script::sse(), "text/event-stream", &events).await;
}

#[tokio::test]
async fn pieces_that_are_no_lines_arrive_as_they_are_and_as_soon() {
    let smile = "😀".as_bytes();
    let pieces: [&[u8]; 7] = [b"{\"mess", b"age\":\"", &smile[..1], &smile[1..3], &smile[3..], b"\"}", b"\n\n\n\r\n"];
    check_piece_by_piece(CHAT, Script::ndjson(), "application/x-ndjson", &pieces).await;
    check_piece_by_piece(COMPLETIONS, Script::sse(), "text/event-stream", &pieces).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_pass_unchanged() {
    let all: Vec<u8> = (0..=255).collect();
    check_piece_by_piece(CHAT, Script::ndjson(), "application/x-ndjson", &[&all, b"\0", b"\xff\xfe"]).await;
}

#[tokio::test]
async fn a_line_of_a_mebibyte_passes_unchanged_and_the_stream_goes_on() {
    let text: String = (0..1 << 20).map(|n| char::from(b'a' + u8::try_from(n % 26).unwrap())).collect();
    let line = format!("{{\"message\":{{\"content\":\"{text}\"}}}}\n");
    check_piece_by_piece(CHAT, Script::ndjson(), "application/x-ndjson", &[line.as_bytes(), b"{\"done\":true}\n"])
        .await;
}

#[tokio::test]
async fn an_answer_whose_length_the_backend_states_keeps_it() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    for (path, text) in [(CHAT, r#"{ "message": {"content": "é"},"done":true }"#), (COMPLETIONS, "{}"), (CHAT, "")] {
        server.script(Script::json(200, text));
        let answer = gate.post(path, &body()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, text));
        assert_eq!(answer.header("content-length"), Some(text.len().to_string().as_str()), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("transfer-encoding"), None);
    }
}

#[tokio::test]
async fn a_body_of_known_length_is_not_held_back_until_it_is_whole() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let go_on = Arc::new(Notify::new());
    // Within the stated length, the script's own framing is a part of the body.
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"a\":";
    server.script(Script::raw(head).wait(&go_on).chunk("12345678").wait(&go_on));
    let mut response = begin(&gate, CHAT).await;
    expect(&mut response, b"{\"a\":").await;
    assert_eq!(response.headers()["content-length"], "18");
    go_on.notify_one();
    expect(&mut response, b"8\r\n12345678\r\n").await;
    expect_end(response).await;
}

#[tokio::test]
async fn a_backend_s_errors_pass_unchanged_with_their_status() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let text = r#"{"error":"model requires more system memory (9.1 GiB) than is available","hint":[1,2]}"#;
    for path in [CHAT, COMPLETIONS] {
        for status in [400, 401, 403, 404, 413, 418, 429, 499, 500, 502, 503, 507, 599] {
            server.script(Script::json(status, text));
            let answer = gate.post(path, &body()).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, text), "{path}");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{path} {status}");
            assert_eq!(answer.backend(), Some("gpu-1"), "{path} {status}");
        }
    }
    assert_eq!(server.calls(), 26, "each was sent once");
}

#[tokio::test]
async fn streams_at_the_same_time_do_not_mix() {
    const STREAMS: usize = 12;
    const ROUNDS: usize = 5;
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let line = |stream: usize, round: usize| format!("{{\"stream\":{stream},\"round\":{round}}}\n");
    let gates: Vec<Arc<Notify>> = (0..STREAMS).map(|_| Arc::default()).collect();
    let mut streams = Vec::new();
    for (stream, go_on) in gates.iter().enumerate() {
        let rounds = 1..ROUNDS;
        let first = Script::ndjson().chunk(line(stream, 0));
        server.script(rounds.fold(first, |script, round| script.wait(go_on).chunk(line(stream, round))).end());
        let mut response = begin(&gate, if stream % 2 == 0 { CHAT } else { COMPLETIONS }).await;
        expect(&mut response, line(stream, 0).as_bytes()).await;
        streams.push(response);
    }
    // Twelve steps of seven meet every stream once, in another order each round.
    for round in 1..ROUNDS {
        for step in 0..STREAMS {
            let stream = (step * 7 + round) % STREAMS;
            gates[stream].notify_one();
            expect(&mut streams[stream], line(stream, round).as_bytes()).await;
        }
    }
    for response in streams {
        expect_end(response).await;
    }
}

#[tokio::test]
async fn a_request_reaches_the_backend_only_when_it_is_whole_and_then_in_one_piece() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let body = body().to_string();
    let (begun, rest) = body.split_at(10);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", gate.key());
    let mut caller = TcpStream::connect(gate.address()).await.unwrap();
    caller.set_nodelay(true).unwrap();
    let first = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{begun}\r\n", begun.len());
    caller.write_all(first.as_bytes()).await.unwrap();

    // A call that came later is served meanwhile.
    let other = gate.post(CHAT, &json!({ "model": "llama3", "messages": ["other"] })).await;
    assert_eq!(other.status, 200);
    assert!(server.seen().await.body.contains("other"));
    assert_eq!(server.calls(), 1, "half a body has reached nobody");

    caller.write_all(format!("{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len()).as_bytes()).await.unwrap();
    let seen = server.seen().await;
    let length = seen.header("content-length").map(str::to_owned);
    assert_eq!(seen.header("transfer-encoding"), None);
    assert_eq!(seen.json()["messages"], json!([{ "role": "user", "content": "hi" }]));
    assert_eq!(length, Some(seen.body.len().to_string()));
    let mut answer = [0; 15];
    soon("the answer", caller.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_waits_in_the_backend_not_in_the_gate() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let flood = "x".repeat(64 << 20);
    server.script(Script::ndjson().chunk(flood).end());
    let response = begin(&gate, CHAT).await;
    server.seen().await;
    // Had the gate taken all of it, the backend would be done and could not notice that its caller has left.
    drop(response);
    server.closed().await;
    gate.until_idle().await;
}

#[tokio::test]
async fn a_caller_who_takes_nothing_is_cut_and_frees_the_backend() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("upstream.idle_timeout = \"1s\"").start().await;
    server.script(Script::ndjson().chunk("x".repeat(64 << 20)).end());
    let response = begin(&gate, CHAT).await;
    server.closed().await;
    gate.until_idle().await;
    drop(response);
}
