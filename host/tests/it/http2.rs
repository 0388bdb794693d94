//! HTTP/2 towards callers: many calls on one connection, each on its own, and no more than the bounds allow.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{
    LlmServer, Script, TestProxy, soon,
    tls::{self, Authority, NAME},
};

const CHAT: &str = r#"{"model":"llama3","stream":true,"messages":[]}"#;
const REACHED: &str = "tollgate_bound_reached_total{bound=\"http2\"}";

struct Encrypted {
    gate: TestProxy,
    server: LlmServer,
    authority: Authority,
}

async fn start(line: &str) -> Encrypted {
    let (authority, server) = (Authority::new(), LlmServer::start("gpu-1", &["llama3:latest"]).await);
    let builder = TestProxy::builder().backend(&server).tls(&authority.issue());
    Encrypted { gate: builder.set(line).start().await, server, authority }
}

/// A connection on which frames can be sent that a well-behaved client would not send.
async fn bare(it: &Encrypted) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = tls::connect(it.gate.address(), &it.authority.client(&["h2"])).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's connection ends with the test's runtime")]
    let connection = tokio::spawn(connection);
    (sender, connection)
}

fn head(key: &str) -> Request<()> {
    let request = Request::post(format!("https://{NAME}/api/chat")).header("authorization", format!("Bearer {key}"));
    request.body(()).unwrap()
}

#[tokio::test]
async fn calls_on_one_connection_do_not_wait_for_each_other() {
    let mut it = start("").await;
    it.server.script(Script::ndjson().chunk("{\"slow\":1}\n").stall());
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    let slow = soon("its head", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
    it.server.seen().await;
    for _ in 0..20 {
        let response = soon("the answer", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
        assert_eq!(tls::whole(response).await.status, 200);
    }
    drop(slow);
}

#[tokio::test]
async fn a_call_that_is_taken_back_closes_the_backends_connection_and_no_other() {
    let mut it = start("").await;
    it.server.script(Script::ndjson().chunk("{}\n").stall());
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    let mut response = soon("its head", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
    soon("the first piece", response.body_mut().frame()).await.unwrap().unwrap();
    drop(response);
    let closed = timeout(Duration::from_secs(1), it.server.closed()).await;
    assert!(closed.is_ok(), "the backend's connection stands a second after the call was taken back");
    let response = soon("the answer", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
    assert_eq!(tls::whole(response).await.status, 200);

    it.server.script(Script::silence());
    let waiting = sender.send_request(tls::chat(it.gate.key(), CHAT));
    tokio::select! {
        _ = waiting => panic!("nothing answers"),
        () = async { it.server.seen().await; it.server.seen().await; it.server.seen().await; } => {}
    }
    let closed = timeout(Duration::from_secs(1), it.server.closed()).await;
    assert!(closed.is_ok(), "a call that is taken back before its answer began");
}

#[tokio::test]
async fn a_connection_is_told_how_many_calls_it_may_have_at_a_time() {
    let it = start("server.http2.max_streams = 3").await;
    let (sender, _connection) = bare(&it).await;
    let mut sender = sender.ready().await.unwrap();
    // The gate's settings come with its first frames, before any answer.
    let (response, _stream) = sender.send_request(head("x"), true).unwrap();
    assert_eq!(soon("the answer", response).await.unwrap().status(), 401);
    assert_eq!(sender.current_max_send_streams(), 3);
}

#[tokio::test]
async fn a_head_over_the_bound_is_431_and_the_connection_goes_on() {
    let it = start("server.max_head = \"8KiB\"").await;
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    let mut request = tls::chat(it.gate.key(), CHAT);
    request.headers_mut().insert("x-long", "y".repeat(9000).parse().unwrap());
    // h2's own client knows the bound from the gate's settings and refuses by itself; either way nothing passes.
    let refused = match soon("the refusal", sender.send_request(request)).await {
        Ok(response) => response.status() == 431,
        Err(error) => error.is_user() || !error.to_string().is_empty(),
    };
    assert!(refused);
    assert_eq!(it.server.calls(), 0);
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    let response = soon("the answer", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
    assert_eq!(tls::whole(response).await.status, 200);
}

#[tokio::test]
async fn who_takes_back_calls_faster_than_they_are_looked_at_loses_the_connection() {
    let it = start("server.http2.max_resets = 5").await;
    let (sender, connection) = bare(&it).await;
    let mut sender = sender.ready().await.unwrap();
    for _ in 0..2000 {
        // What is refused is the attack's end.
        let Ok((response, mut stream)) = sender.send_request(head(it.gate.key()), false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        let Ok(ready) = sender.ready().await else { break };
        sender = ready;
    }
    // What the gate says at the end may be lost with what it no longer reads.
    soon("the connection's end", connection).await.unwrap().unwrap_err();
    it.gate.until_metric(REACHED, 1.0).await;
    it.gate.until_idle().await;
    assert_eq!(it.server.calls(), 0, "a call without its body reaches no backend");
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_closed() {
    let it = start("server.http2 = { ping_interval = \"100ms\", ping_timeout = \"100ms\" }").await;
    let mut stream = tls::connect(it.gate.address(), &it.authority.client(&["h2"])).await.unwrap();
    // The preface and empty settings (RFC 9113 §3.4), and then nothing.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut said = Vec::new();
    // Without a goodbye of TLS, when the other side seems dead.
    drop(soon("the end", stream.read_to_end(&mut said)).await);
    it.gate.until_metric(REACHED, 1.0).await;
}

#[tokio::test]
async fn a_connection_without_a_call_is_ended_in_time_by_its_protocols_rules() {
    let it = start("server.keep_alive_timeout = \"300ms\"\nserver.head_timeout = \"200ms\"").await;
    let (sender, connection) = bare(&it).await;
    let mut sender = sender.ready().await.unwrap();
    let (response, _stream) = sender.send_request(head("x"), true).unwrap();
    assert_eq!(soon("the answer", response).await.unwrap().status(), 401);
    soon("the end", connection).await.unwrap().expect("GOAWAY without an error");
    it.gate.until_metric("tollgate_bound_reached_total{bound=\"keep_alive_timeout\"}", 1.0).await;
}
