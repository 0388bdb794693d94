//! Connections to backends are used again, and only while they are good.

use std::time::Duration;

use serde_json::json;

use crate::support::{LlmServer, Script, TestProxy};

const CALLS: usize = 20;

async fn start() -> (TestProxy, LlmServer) {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    (TestProxy::before(&[&server]).await, server)
}

/// The status of one call, and the connection on which the backend saw it.
async fn call(gate: &TestProxy, server: &mut LlmServer) -> (u16, usize) {
    let answer = gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
    (answer.status, server.seen().await.connection)
}

#[tokio::test]
async fn one_connection_serves_call_after_call() {
    let (gate, mut server) = start().await;
    let first = call(&gate, &mut server).await;
    for _ in 0..CALLS {
        assert_eq!(call(&gate, &mut server).await, first);
    }
    let chunks = Script::ndjson().chunk("{\"a\":1}\n").chunk("{\"b\":2}\n").end();
    server.script(chunks);
    assert_eq!(call(&gate, &mut server).await, first, "streams too");
    assert_eq!(call(&gate, &mut server).await, first, "and what comes after one");
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_while_it_waited_loses_no_call() {
    let (gate, mut server) = start().await;
    let mut last = None;
    for _ in 0..CALLS {
        server.script(Script::json(200, "{}").close());
        let (status, connection) = call(&gate, &mut server).await;
        assert_eq!(status, 200);
        assert_ne!(last.replace(connection), Some(connection), "it was closed");
    }
}

#[tokio::test]
async fn a_connection_whose_answer_broke_off_is_not_used_again() {
    let (gate, mut server) = start().await;
    let mut last = call(&gate, &mut server).await.1;
    for script in [
        Script::ndjson().chunk("{}\n").close(),
        Script::ndjson().chunk("{}\n").reset(),
        Script::raw("HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{}").close(),
        Script::raw("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n"),
    ] {
        server.script(script.clone());
        let sent = gate.request(http::Method::POST, "/api/chat").body(r#"{"model":"llama3","messages":[]}"#).send();
        if let Ok(response) = sent.await {
            assert!(response.bytes().await.is_err(), "it looks whole after {script:?}");
        }
        assert_eq!(server.seen().await.connection, last, "{script:?}");
        gate.until_idle().await;
        let (status, next) = call(&gate, &mut server).await;
        assert_eq!(status, 200, "{script:?}");
        assert_ne!(next, last, "{script:?}");
        last = next;
    }
}

#[tokio::test]
async fn what_a_backend_says_after_its_answer_is_nobody_s_answer() {
    let (gate, mut server) = start().await;
    server.script(Script::raw(
        "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{\"bad\":1}",
    ));
    let first = call(&gate, &mut server).await;
    assert_eq!(first.0, 200);
    for _ in 0..3 {
        let answer = gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
        assert_eq!((answer.status, answer.json()["from"].as_str()), (200, Some("gpu-1")), "{answer:?}");
        assert_ne!(server.seen().await.connection, first.1);
    }
}

#[tokio::test]
async fn a_connection_that_waited_too_long_is_not_used_again() {
    let (gate, mut server) = start().await;
    let first = call(&gate, &mut server).await;
    gate.advance(Duration::from_secs(59)).await;
    assert_eq!(call(&gate, &mut server).await, first);
    gate.advance(Duration::from_secs(60)).await;
    let (status, connection) = call(&gate, &mut server).await;
    assert_eq!(status, 200);
    assert_ne!(connection, first.1);
}
