//! A caller who goes away: the backend is told at once, the call is paid for, and nobody else notices.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};

use crate::support::{LlmServer, Script, TestProxy, rpm, soon};

/// Within this time the backend's connection must be closed: what is promised, so that the time itself is the matter here.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A gate before one server, and a key that may call once a minute.
async fn gate_before(server: &LlmServer) -> (TestProxy, String) {
    let mut builder = TestProxy::builder().backend(server);
    let once = builder.add_key("once", rpm(1));
    (builder.start().await, once)
}

fn request(key: &str, path: &str) -> String {
    let body = json!({ "model": "llama3", "stream": true, "messages": [] }).to_string();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

/// A caller on a bare socket who has sent this.
async fn caller(gate: &TestProxy, text: &str) -> TcpStream {
    let mut caller = TcpStream::connect(gate.address()).await.unwrap();
    caller.write_all(text.as_bytes()).await.unwrap();
    caller
}

/// Reads until this text has come.
async fn read_until(caller: &mut TcpStream, text: &str) {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(text) {
        let mut piece = [0; 4096];
        let length = soon("the answer", caller.read(&mut piece)).await.unwrap();
        assert!(length > 0, "it ended after {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&piece[..length]);
    }
}

async fn closed_at_once(server: &mut LlmServer) {
    let closed = timeout(AT_ONCE, server.closed()).await;
    assert!(closed.is_ok(), "the backend's connection stands a second after its caller has left");
}

/// The gate has forgotten the call, save its price, and serves others.
async fn check_aftermath(gate: &TestProxy, server: &LlmServer, once: &str) {
    gate.until_idle().await;
    let calls = server.calls();
    let body = json!({ "model": "llama3", "messages": [] });
    assert_eq!(gate.post_as(once, "/api/chat", &body).await.status, 429, "the call that was left has its price");
    assert_eq!(gate.post("/api/chat", &body).await.status, 200);
    assert_eq!(server.calls(), calls + 1);
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_first_byte_frees_the_backend() {
    for path in ["/api/chat", "/v1/chat/completions"] {
        let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
        let (gate, once) = gate_before(&server).await;
        server.script(Script::silence());
        let caller = caller(&gate, &request(&once, path)).await;
        server.seen().await;
        assert_eq!(gate.metric("tollgate_requests_in_flight").await, 1.0);
        drop(caller);
        closed_at_once(&mut server).await;
        check_aftermath(&gate, &server, &once).await;
    }
}

#[tokio::test]
async fn a_caller_who_leaves_after_the_head_frees_the_backend() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let (gate, once) = gate_before(&server).await;
    server.script(Script::ndjson().stall());
    let mut caller = caller(&gate, &request(&once, "/api/chat")).await;
    read_until(&mut caller, "\r\n\r\n").await;
    drop(caller);
    closed_at_once(&mut server).await;
    check_aftermath(&gate, &server, &once).await;
}

#[tokio::test]
async fn a_caller_who_leaves_during_a_stall_frees_the_backend() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let (gate, once) = gate_before(&server).await;
    server.script(Script::sse().chunk("data: 1\n\n").stall());
    let mut caller = caller(&gate, &request(&once, "/v1/chat/completions")).await;
    read_until(&mut caller, "data: 1").await;
    assert_eq!(gate.metric("tollgate_requests_in_flight").await, 1.0);
    drop(caller);
    closed_at_once(&mut server).await;
    check_aftermath(&gate, &server, &once).await;
}

#[tokio::test]
async fn a_caller_who_leaves_mid_stream_stops_a_backend_that_keeps_sending() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let (gate, once) = gate_before(&server).await;
    // More than any socket holds: it can only end by the other side's closing.
    let line = format!("{{\"response\":\"{}\"}}\n", "x".repeat(1 << 16));
    server.script((0..2_000).fold(Script::ndjson(), |script, _| script.chunk(&line)).end());
    let mut caller = caller(&gate, &request(&once, "/api/chat")).await;
    read_until(&mut caller, "response").await;
    drop(caller);
    closed_at_once(&mut server).await;
    check_aftermath(&gate, &server, &once).await;
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_caller_who_leaves() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let (gate, once) = gate_before(&server).await;
    server.script(Script::ndjson().chunk("{}\n").stall());
    let mut caller = caller(&gate, &request(&once, "/api/chat")).await;
    read_until(&mut caller, "{}").await;
    caller.set_zero_linger().unwrap();
    drop(caller);
    closed_at_once(&mut server).await;
    check_aftermath(&gate, &server, &once).await;
}

#[tokio::test]
async fn one_caller_s_leaving_leaves_the_streams_of_others_alone() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let go_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{\"stays\":1}\n").wait(&go_on).chunk("{\"stays\":2}\n").end());
    let mut stays = caller(&gate, &request(gate.key(), "/api/chat")).await;
    read_until(&mut stays, "{\"stays\":1}").await;
    server.script(Script::ndjson().chunk("{\"leaves\":1}\n").stall());
    let mut leaves = caller(&gate, &request(gate.key(), "/api/chat")).await;
    read_until(&mut leaves, "{\"leaves\":1}").await;

    drop(leaves);
    closed_at_once(&mut server).await;
    gate.until_metric("tollgate_requests_in_flight", 1.0).await;
    go_on.notify_one();
    read_until(&mut stays, "{\"stays\":2}\n\r\n0\r\n\r\n").await;
    gate.until_idle().await;
}

#[tokio::test]
async fn many_callers_who_leave_at_once_leave_nothing_behind() {
    const CALLERS: usize = 40;
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        server.script(if number % 2 == 0 { Script::silence() } else { Script::ndjson().chunk("{}\n").stall() });
        callers.push(caller(&gate, &request(gate.key(), "/api/chat")).await);
        server.seen().await;
    }
    assert_eq!(gate.metric("tollgate_requests_in_flight").await, 40.0);
    drop(callers);
    for _ in 0..CALLERS {
        closed_at_once(&mut server).await;
    }
    gate.until_idle().await;
    assert_eq!(gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await.status, 200);
}

#[tokio::test]
async fn a_caller_who_leaves_with_half_a_body_reaches_no_backend_and_pays_nothing() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let (gate, once) = gate_before(&server).await;
    let whole = request(&once, "/api/chat");
    let chunked = format!(
        "POST /api/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {once}\r\ntransfer-encoding: chunked\r\n\r\n\
         22\r\n{{\"model\":\"llama3\",\"messages\":[]}}  \r\n"
    );
    for text in [whole.strip_suffix('}').unwrap(), &chunked] {
        let caller = caller(&gate, text).await;
        gate.until_metric("tollgate_requests_in_flight", 1.0).await;
        drop(caller);
        gate.until_idle().await;
        assert_eq!(server.calls(), 0);
    }
    let answer = gate.post_as(&once, "/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
    assert_eq!((answer.status, server.calls()), (200, 1), "{answer:?}");
}

#[tokio::test]
async fn a_caller_who_leaves_with_a_second_request_in_the_pipe_frees_the_backend() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let (gate, once) = gate_before(&server).await;
    server.script(Script::silence());
    let two = request(&once, "/api/chat") + &request(gate.key(), "/api/chat");
    let caller = caller(&gate, &two).await;
    server.seen().await;
    drop(caller);
    closed_at_once(&mut server).await;
    check_aftermath(&gate, &server, &once).await;
}
