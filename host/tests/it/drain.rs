//! Stopping: what runs may finish, nothing new begins, and the gate says so.

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
};
use tollgate::clock::Clock;

use crate::support::{
    LlmServer, Script, TestProxy, guest,
    raw::Raw,
    soon,
    tls::{self, Authority},
};

const CHAT: &str = r#"{"model":"llama3","stream":true,"messages":[]}"#;
const STREAMS: usize = 100;

/// A hundred streams of which each begins and then waits for its word.
fn scripted(server: &LlmServer) -> Vec<Arc<Notify>> {
    let words: Vec<Arc<Notify>> = (0..STREAMS).map(|_| Arc::default()).collect();
    for go_on in &words {
        server.script(Script::ndjson().chunk("{\"first\":1}\n").wait(go_on).chunk("{\"last\":1}\n").end());
    }
    words
}

#[tokio::test]
async fn a_hundred_open_streams_come_to_their_end_while_the_gate_stops() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let words = scripted(&server);
    let gate = TestProxy::builder().backend(&server).set("server.drain_timeout = \"60s\"").start().await;
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{CHAT}",
        gate.key(),
        CHAT.len()
    );
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = TcpStream::connect(gate.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        streams.push((stream, String::new()));
    }
    for (stream, said) in &mut streams {
        while !said.contains("first") {
            let mut piece = [0; 4096];
            let length = soon("the first piece", stream.read(&mut piece)).await.unwrap();
            assert!(length > 0, "{said:?}");
            said.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        }
    }
    let (address, admin) = (gate.address(), gate.admin_address());
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(gate.stop());
    assert_eq!(soon("the idle connection's end", idle.read(&mut [0])).await.unwrap_or(0), 0);
    soon("the end of listening", async { while TcpStream::connect(address).await.is_ok() {} }).await;
    let ready = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("http://{admin}/readyz"));
    let ready = ready.send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("\"draining\":true"));
    // A stream that doesn't wait yet finds its word when it does.
    words.iter().for_each(|go_on| go_on.notify_one());
    for (mut stream, mut said) in streams {
        soon("the rest of a stream", stream.read_to_string(&mut said)).await.unwrap();
        assert!(said.contains("last") && said.ends_with("0\r\n\r\n"), "{said:?}");
    }
    soon("the gate's end", tasks.join_all()).await;
}

#[tokio::test]
async fn streams_of_one_http2_connection_come_to_their_end_and_no_new_ones_begin() {
    let (authority, server) = (Authority::new(), LlmServer::start("gpu-1", &["llama3:latest"]).await);
    let goes_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{\"first\":1}\n").wait(&goes_on).chunk("{\"last\":1}\n").end());
    let builder = TestProxy::builder().backend(&server).tls(&authority.issue());
    let gate = builder.set("server.drain_timeout = \"60s\"").start().await;
    let mut sender = tls::http2(gate.address(), &authority).await;
    let key = gate.key().to_owned();
    let mut response = soon("the head", sender.send_request(tls::chat(&key, CHAT))).await.unwrap();
    soon("the first piece", response.body_mut().frame()).await.unwrap().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(gate.stop());
    // GOAWAY makes the client refuse by itself.
    soon("the goodbye", async { while sender.send_request(tls::chat(&key, CHAT)).await.is_ok() {} }).await;
    goes_on.notify_one();
    let answer = tls::whole(response).await;
    assert!(answer.body.contains("last"), "{answer:?}");
    soon("the gate's end", tasks.join_all()).await;
}

#[tokio::test]
async fn what_still_runs_after_the_drain_time_is_cut() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    server.script(Script::ndjson().chunk("{\"first\":1}\n").stall());
    let gate = TestProxy::builder().backend(&server).set("server.drain_timeout = \"200ms\"").start().await;
    let mut response = gate.request(http::Method::POST, "/api/chat").body(CHAT).send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    soon("the gate's end", gate.stop()).await;
    assert!(response.chunk().await.is_err(), "a stream that was cut must not look whole");
    server.closed().await;
}

#[tokio::test]
async fn half_a_request_to_the_operations_listener_holds_nothing_up() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let mut half = Raw::connect_to(gate.admin_address()).await;
    half.send("GET /healthz HTTP/1.1\r\nhost: lo").await;
    // It is being served, beside the connection that says so.
    gate.until_metric("tollgate_admin_connections_open", 2.0).await;
    let clock = Clock::system();
    soon("the gate's end", gate.stop()).await;
    let took = clock.monotonic();
    // A slow head may take ten seconds.
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert_eq!(half.text().await, "");
}

#[tokio::test]
async fn streams_of_http2_that_still_run_after_the_drain_time_are_cut() {
    let (authority, mut server) = (Authority::new(), LlmServer::start("gpu-1", &["llama3:latest"]).await);
    server.script(Script::ndjson().chunk("{\"first\":1}\n").stall());
    let builder = TestProxy::builder().backend(&server).tls(&authority.issue());
    let gate = builder.set("server.drain_timeout = \"200ms\"").start().await;
    let mut sender = tls::http2(gate.address(), &authority).await;
    let mut response = soon("the head", sender.send_request(tls::chat(gate.key(), CHAT))).await.unwrap();
    soon("the first piece", response.body_mut().frame()).await.unwrap().unwrap();
    soon("the gate's end", gate.stop()).await;
    assert!(
        soon("the end", response.body_mut().frame()).await.unwrap().is_err(),
        "a stream that was cut must not look whole"
    );
    server.closed().await;
}

#[tokio::test]
async fn a_policy_that_loops_is_cut_while_the_gate_stops() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).set("server.drain_timeout = \"60s\"");
    // For callers of OpenAI's API alone: one that loops for everybody isn't loaded.
    let body = "(if (local.get 0) (then (loop $again (br $again)))) (i32.store8 (i32.const 2048) (i32.const 3))
        (i32.const 2048)";
    let gate = builder.policy("loop", &guest::router(body)).start().await;
    let mut late = TcpStream::connect(gate.address()).await.unwrap();
    let (begin, end) = CHAT.split_at(10);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{begin}",
        gate.key(),
        CHAT.len()
    );
    late.write_all(head.as_bytes()).await.unwrap();
    gate.until_metric("tollgate_requests_in_flight", 1.0).await;
    let address = gate.address();
    let mut tasks = JoinSet::new();
    tasks.spawn(gate.stop());
    soon("the gate's stopping", async { while TcpStream::connect(address).await.is_ok() {} }).await;
    // The policy is asked only now.
    late.write_all(end.as_bytes()).await.unwrap();
    let mut said = String::new();
    soon("the answer", late.read_to_string(&mut said)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("a policy of this gate failed"), "{said:?}");
    soon("the gate's end", tasks.join_all()).await;
}
