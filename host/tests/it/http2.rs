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

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field that is not indexed (RFC 7541 §6.2.2), with a value as long as it gets.
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| {
        let mut rest = text.len();
        if rest < 127 {
            return vec![u8::try_from(rest).unwrap()];
        }
        let mut bytes = vec![127];
        rest -= 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap());
        bytes
    };
    [&[0], &*length(name), name.as_bytes(), &*length(value), value.as_bytes()].concat()
}

/// What is said on a connection after the preface, empty settings and this head.
async fn bare_head(it: &Encrypted, fields: &[(&str, &str)]) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut stream = tls::connect(it.gate.address(), &it.authority.client(&["h2"])).await.unwrap();
    let head: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    let all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 5, 1, &head)].concat();
    stream.write_all(&all).await.unwrap();
    stream
}

#[tokio::test]
async fn a_head_over_the_bound_is_refused_and_other_connections_go_on() {
    let it = start("server.max_head = \"8KiB\"").await;
    // h2's own client knows the bound from the gate's settings, and would not send this.
    let (authorization, long) = (format!("Bearer {}", it.gate.key()), "y".repeat(12_000));
    let fields = [(":method", "GET"), (":scheme", "https"), (":path", "/api/tags"), (":authority", NAME)];
    let fields = [&fields[..], &[("authorization", &*authorization), ("x-long", &*long)]].concat();
    let mut stream = bare_head(&it, &fields).await;
    let mut said = Vec::new();
    let refusal = soon("the refusal", async {
        loop {
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).await.unwrap_or(0);
            said.extend_from_slice(&piece[..length]);
            let kinds = frames(&said);
            // HEADERS with an answer, RST_STREAM or GOAWAY.
            if length == 0 || kinds.iter().any(|kind| matches!(kind, 1 | 3 | 7)) {
                return kinds;
            }
        }
    })
    .await;
    assert!(!refusal.contains(&0), "no answer comes with a body: {refusal:?}");
    assert_eq!(
        it.gate.metric("tollgate_requests_total{surface=\"ollama\",operation=\"listing\",status=\"2xx\"}").await,
        0.0
    );
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    let response = soon("the answer", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
    assert_eq!(tls::whole(response).await.status, 200);
}

/// The kinds of the frames that have come whole.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *bytes {
        let length = 9 + usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        let Some(rest) = bytes.get(length..) else { break };
        kinds.push(kind);
        bytes = rest;
    }
    kinds
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_and_says_how_long_it_would_be() {
    let it = start("").await;
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    for (path, key, status) in
        [("/", "", 200), ("/api/version", "", 200), ("/api/tags", it.gate.key(), 200), ("/api/tags", "x", 401)]
    {
        let head = Request::head(format!("https://{NAME}{path}")).header("authorization", format!("Bearer {key}"));
        let request = head.body(http_body_util::Full::default()).unwrap();
        let answer = tls::whole(soon("the answer", sender.send_request(request)).await.unwrap()).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{path}");
        assert_ne!(answer.header("content-length").unwrap_or("0"), "0", "{path}");
    }
}

#[tokio::test]
async fn a_caller_who_takes_nothing_of_an_answer_loses_it_and_frees_the_backend() {
    let mut it = start("upstream.idle_timeout = \"400ms\"").await;
    it.server.script(Script::ndjson().chunk("x".repeat(300_000)).chunk("y".repeat(300_000)).stall());
    let (sender, connection) = bare(&it).await;
    let mut sender = sender.ready().await.unwrap();
    let (response, mut body) = sender.send_request(head(it.gate.key()), false).unwrap();
    body.send_data(Bytes::from(CHAT), true).unwrap();
    // Its window is never widened: the answer waits in the gate, and the connection answers every ping.
    let response = soon("the head", response).await.unwrap();
    it.gate.until_metric("tollgate_bound_reached_total{bound=\"caller_idle_timeout\"}", 1.0).await;
    it.server.seen().await;
    it.server.closed().await;
    it.gate.until_idle().await;
    drop((response, connection));
}

#[tokio::test]
async fn a_backends_trailers_do_not_pass() {
    let it = start("").await;
    let head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    it.server.script(Script::raw(&format!("{head}2\r\n{{}}\r\n0\r\nset-cookie: a=b\r\nx-internal: c\r\n\r\n")));
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    let mut response = soon("the head", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
    while let Some(frame) = soon("the answer", response.body_mut().frame()).await {
        assert!(frame.unwrap().is_data());
    }
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
