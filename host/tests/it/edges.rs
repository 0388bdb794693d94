//! The edges of the gate: what is late, too much or too many is refused or closed, counted, and nobody else notices.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tollgate::usage::bound::Bound;

use crate::support::{LlmServer, Script, TestProxy, raw, soon};

const CHAT: &str = r#"{"model":"llama3","stream":true,"messages":[]}"#;

async fn start(line: &str) -> (TestProxy, LlmServer) {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    (TestProxy::builder().backend(&server).set(line).start().await, server)
}

async fn reached(gate: &TestProxy, bound: &str, times: f64) {
    gate.until_metric(&format!("tollgate_bound_reached_total{{bound=\"{bound}\"}}"), times).await;
}

fn keeping_alive(gate: &TestProxy) -> String {
    let key = gate.key();
    let length = CHAT.len();
    format!(
        "POST /api/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{CHAT}"
    )
}

/// Reads until the gate has closed the connection.
async fn closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    drop(soon("the end of the connection", stream.read_to_end(&mut said)).await);
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let (gate, _server) = start("server.first_byte_timeout = \"200ms\"").await;
    let mut silent = TcpStream::connect(gate.address()).await.unwrap();
    assert_eq!(closed(&mut silent).await, "");
    reached(&gate, "first_byte_timeout", 1.0).await;
    gate.until_metric("tollgate_connections_open", 0.0).await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_closed_however_steadily_it_comes() {
    let (gate, _server) = start("server.head_timeout = \"300ms\"").await;
    let mut slow = TcpStream::connect(gate.address()).await.unwrap();
    slow.write_all(b"GET /api/tags HTTP/1.1\r\n").await.unwrap();
    let (mut reading, mut writing) = slow.split();
    let dripping = async {
        while writing.write_all(b"x-a: b\r\n").await.is_ok() {
            // That it comes steadily is the matter, so time must pass between the lines.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let ended = async {
        let mut said = Vec::new();
        drop(soon("the end of the connection", reading.read_to_end(&mut said)).await);
        assert_eq!(said, b"");
    };
    tokio::join!(dripping, ended);
    reached(&gate, "head_timeout", 1.0).await;
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed_in_time_and_a_next_head_has_its_own_deadline() {
    let (gate, _server) = start("server.keep_alive_timeout = \"2s\"\nserver.head_timeout = \"500ms\"").await;
    let mut idle = TcpStream::connect(gate.address()).await.unwrap();
    idle.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
    assert!(closed(&mut idle).await.starts_with("HTTP/1.1 200 "));
    reached(&gate, "keep_alive_timeout", 1.0).await;

    let mut half = TcpStream::connect(gate.address()).await.unwrap();
    half.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
    let mut said = String::new();
    while !said.ends_with('}') {
        let mut piece = [0; 4096];
        let length = soon("the answer", half.read(&mut piece)).await.unwrap();
        assert!(length > 0, "{said:?}");
        said.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    half.write_all(b"GET /api/tags HTTP/1.1\r\n").await.unwrap();
    assert_eq!(closed(&mut half).await, "");
    reached(&gate, "head_timeout", 1.0).await;
}

#[tokio::test]
async fn an_idle_time_shorter_than_the_time_for_a_head_counts_from_the_end_of_a_call() {
    let (gate, mut server) = start("server.keep_alive_timeout = \"200ms\"\nserver.head_timeout = \"1h\"").await;
    let go_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{}\n").wait(&go_on).chunk("{}\n").end());
    let mut idle = TcpStream::connect(gate.address()).await.unwrap();
    idle.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
    server.seen().await;
    // Another one reaches the bound meanwhile; this one's time has not begun.
    let mut other = TcpStream::connect(gate.address()).await.unwrap();
    other.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
    assert!(closed(&mut other).await.starts_with("HTTP/1.1 200 "));
    go_on.notify_one();
    assert!(closed(&mut idle).await.ends_with("0\r\n\r\n"), "the answer came whole");
    reached(&gate, "keep_alive_timeout", 2.0).await;
}

#[tokio::test]
async fn a_long_silence_of_the_backend_is_no_idle_connection() {
    let (gate, mut server) = start("server.keep_alive_timeout = \"100ms\"\nserver.head_timeout = \"50ms\"").await;
    let gate_opens = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{\"a\":1}\n").wait(&gate_opens).chunk("{\"b\":2}\n").end());
    let mut caller = TcpStream::connect(gate.address()).await.unwrap();
    caller.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
    server.seen().await;
    // Others reach the bound while this call goes on: the time is long enough for it too.
    let mut other = TcpStream::connect(gate.address()).await.unwrap();
    other.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
    closed(&mut other).await;
    reached(&gate, "keep_alive_timeout", 1.0).await;
    gate_opens.notify_one();
    let said = closed(&mut caller).await;
    assert!(said.contains("\"a\":1") && said.contains("\"b\":2"), "{said:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_caller_who_takes_nothing_of_an_answer_is_cut_and_counted() {
    let (gate, mut server) = start("upstream.idle_timeout = \"300ms\"").await;
    let piece = "x".repeat(1 << 20);
    // More than all the sockets' buffers on the way take.
    server.script((0..64).fold(Script::ndjson(), |script, _| script.chunk(&piece)).end());
    let mut caller = TcpStream::connect(gate.address()).await.unwrap();
    caller.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
    server.closed().await;
    reached(&gate, "caller_idle_timeout", 1.0).await;
    gate.until_idle().await;
}

#[tokio::test]
async fn a_head_of_too_many_bytes_or_lines_is_431_and_counted() {
    let (gate, server) = start("server.max_head = \"8KiB\"\nserver.max_headers = 20").await;
    let long = raw::request(&gate, "POST /api/chat", &format!("x-long: {}\r\n", "y".repeat(9000)), "");
    assert_eq!(raw::exchange(&gate, long).await.status, 431);
    let many = raw::request(&gate, "POST /api/chat", &"x-many: y\r\n".repeat(20), "");
    assert_eq!(raw::exchange(&gate, many).await.status, 431);
    reached(&gate, "max_head", 2.0).await;
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_connection_over_the_bound_waits_until_another_is_closed() {
    let (gate, _server) = start("server.max_connections = 1").await;
    let mut first = TcpStream::connect(gate.address()).await.unwrap();
    first.write_all(b"GET /api/version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(soon("the answer", first.read(&mut [0; 4096])).await.unwrap() > 0);
    let mut second = TcpStream::connect(gate.address()).await.unwrap();
    second.write_all(b"GET /api/version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    reached(&gate, "max_connections", 1.0).await;
    drop(first);
    assert!(closed(&mut second).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_call_over_the_bound_is_503_at_once_and_local_answers_go_on() {
    let (gate, mut server) = start("server.max_in_flight = 2").await;
    for _ in 0..2 {
        server.script(Script::ndjson().chunk("{}\n").stall());
    }
    let mut callers = Vec::new();
    for _ in 0..2 {
        let mut caller = TcpStream::connect(gate.address()).await.unwrap();
        caller.write_all(keeping_alive(&gate).as_bytes()).await.unwrap();
        server.seen().await;
        callers.push(caller);
    }
    let answer = gate.post_text("/v1/chat/completions", CHAT).await;
    answer.refusal("/v1/chat/completions", 503, "overloaded");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(gate.get("/api/version").await.status, 200);
    reached(&gate, "max_in_flight", 1.0).await;
    drop(callers);
    gate.until_idle().await;
    assert_eq!(gate.post_text("/api/chat", CHAT).await.status, 200);
}

#[tokio::test]
async fn bytes_that_are_held_are_shown_until_their_call_is_over() {
    let (gate, mut server) = start("").await;
    server.script(Script::silence());
    let body = format!("{{\"model\":\"llama3\",\"prompt\":\"{}\"}}", "y".repeat(100_000));
    let call = gate.post_text("/api/generate", body);
    let held = async {
        server.seen().await;
        gate.metric("tollgate_buffered_bytes").await
    };
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        held = held => assert!(held >= 100_000.0, "{held}"),
    }
    // A call that is over gives back what it held.
    gate.until_metric("tollgate_buffered_bytes", 0.0).await;
}

#[tokio::test]
async fn every_bound_has_a_counter_from_the_start() {
    let (gate, _server) = start("").await;
    let metrics = gate.admin("/metrics").await.body;
    for bound in Bound::ALL {
        let line = format!("tollgate_bound_reached_total{{bound=\"{}\"}} 0", bound.as_str());
        assert!(metrics.lines().any(|known| known == line), "{line} is missing");
    }
}
