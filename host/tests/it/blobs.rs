//! The bytes of a model on their way to a backend: never held, however many they are.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, body::Body, extract::State, http::StatusCode, routing::get};
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::task::TaskTracker;

use crate::support::{
    Answer, LlmServer, Script, TestProxy,
    binary::Running,
    raw::{Raw, exchange, request},
    soon, until,
};

fn path() -> String {
    format!("/api/blobs/sha256:{}", "0a".repeat(32))
}

/// A server that takes blobs and keeps nothing but their length.
struct Sink {
    address: SocketAddr,
    state: Arc<Taken>,
    ends: mpsc::Receiver<bool>,
    _tasks: TaskTracker,
}

struct Taken {
    bytes: AtomicU64,
    /// Whether each blob came whole.
    ended: mpsc::Sender<bool>,
}

impl Sink {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ended, ends) = mpsc::channel(100);
        let state = Arc::new(Taken { bytes: AtomicU64::new(0), ended });
        let router = Router::new()
            .route("/api/version", get(|| async { Json(json!({ "version": "0.14.0" })) }))
            .route("/api/tags", get(|| async { Json(json!({ "models": [] })) }))
            .route("/api/ps", get(|| async { Json(json!({ "models": [] })) }))
            .route("/api/blobs/{digest}", axum::routing::post(take))
            .with_state(Arc::clone(&state));
        let tasks = TaskTracker::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, ends, _tasks: tasks }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }

    /// Whether the next blob to end came whole.
    async fn is_whole(&mut self) -> bool {
        soon("the end of a blob", self.ends.recv()).await.unwrap()
    }
}

/// Tells of its end even when it is dropped half-way.
struct Ending(mpsc::Sender<bool>, bool);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.try_send(self.1).unwrap();
    }
}

async fn take(State(taken): State<Arc<Taken>>, mut body: Body) -> StatusCode {
    let mut ending = Ending(taken.ended.clone(), false);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return StatusCode::BAD_REQUEST };
        let length = frame.into_data().unwrap().len();
        taken.bytes.fetch_add(u64::try_from(length).unwrap(), Ordering::Relaxed);
    }
    ending.1 = true;
    StatusCode::CREATED
}

#[tokio::test]
async fn whether_a_backend_has_a_blob_is_asked_for_the_head() {
    let mut server = LlmServer::start("gpu-1", &[]).await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    for status in [200, 404] {
        server.script(Script::raw(&format!("HTTP/1.1 {status} X\r\n\r\n")));
        let answer = Answer::of(gate.request(Method::HEAD, &path()).send().await.unwrap()).await;
        assert_eq!((answer.status, answer.body.as_str(), answer.backend()), (status, "", Some("gpu-1")));
        let seen = server.seen().await;
        assert_eq!((seen.method.as_str(), seen.path, seen.headers.get("content-type")), ("HEAD", path(), None));
    }
}

#[tokio::test]
async fn a_blob_arrives_as_it_was_sent_with_its_length_if_that_was_said() {
    let mut server = LlmServer::start("gpu-1", &[]).await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    let post = format!("POST {}", path());
    for (framing, sent) in [
        ("content-length: 13\r\n", "{\"not\": JSON}"),
        ("transfer-encoding: chunked\r\n", "8\r\n{\"not\": \r\n5\r\nJSON}\r\n0\r\n\r\n"),
    ] {
        server.script(Script::raw("HTTP/1.1 201 X\r\ncontent-length: 0\r\n\r\n"));
        let headers = format!("content-type: text/plain\r\n{framing}");
        assert_eq!(exchange(&gate, request(&gate, &post, &headers, sent)).await.status, 201);
        let seen = server.seen().await;
        assert_eq!((seen.path.as_str(), seen.body.as_str()), (path().as_str(), "{\"not\": JSON}"));
        assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
        assert!(
            seen.header("content-length").or(seen.header("transfer-encoding")) == framing.trim().split(": ").nth(1)
        );
    }
}

#[tokio::test]
async fn what_is_no_digest_or_encoded_leads_nowhere() {
    let server = LlmServer::start("gpu-1", &[]).await;
    let gate = TestProxy::builder().backend(&server).managing().start().await;
    let long = format!("{}0", path());
    for path in ["/api/blobs/sha256:0a", "/api/blobs/x", "/api/blobs/sha256-0a", long.as_str()] {
        let told = gate.post_text(path, "x").await.refusal(path, 400, "bad_digest");
        assert!(told.contains("64 hexadecimal digits"), "{told}");
        assert_eq!(gate.request(Method::HEAD, path).send().await.unwrap().status(), 400, "{path}");
    }
    for path in ["/api/blobs/", "/api/blobs/..", "/api/blobs/a/b", "/api/blobs/sha256%3A0a"] {
        let raw = request(&gate, format!("POST {path}"), "content-length: 0\r\n", "");
        exchange(&gate, raw).await.refusal(path, 404, "unknown_path");
    }
    let encoded = gate.request(Method::POST, &path()).header("content-encoding", "gzip").body("x");
    Answer::of(encoded.send().await.unwrap()).await.refusal("/api", 415, "encoded_body");
    let stranger = TestProxy::before(&[&server]).await;
    stranger.post_text(&path(), "x").await.refusal("/api", 403, "management_denied");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn the_byte_over_the_cap_ends_an_upload() {
    let mut sink = Sink::start().await;
    let builder = TestProxy::builder().backend_at("gpu-1", &sink.url(), "ollama").managing();
    let gate = builder.set("server.max_blob = \"1KiB\"").start().await;
    let post = format!("POST {}", path());
    let full = request(&gate, &post, "content-length: 1024\r\n", &"x".repeat(1024));
    assert_eq!(exchange(&gate, full).await.status, 201);
    assert!(sink.is_whole().await);
    // What says that it is too large isn't asked for.
    let declared = request(&gate, &post, "content-length: 1025\r\nexpect: 100-continue\r\n", "");
    exchange(&gate, declared).await.refusal("/api", 413, "body_too_large");
    assert_eq!(sink.bytes(), 1024);
    let mut raw = Raw::connect(&gate).await;
    raw.send(request(&gate, &post, "transfer-encoding: chunked\r\n", &format!("400\r\n{}\r\n", "x".repeat(1024))))
        .await;
    until("the first KiB", async || sink.bytes() == 2048).await;
    raw.send("1\r\nx\r\n").await;
    raw.answer().await.refusal("/api", 413, "body_too_large");
    assert!(!sink.is_whole().await);
    assert_eq!(sink.bytes(), 2048);
}

#[tokio::test]
async fn an_upload_that_falls_silent_is_ended() {
    let mut sink = Sink::start().await;
    let builder = TestProxy::builder().backend_at("gpu-1", &sink.url(), "ollama").managing();
    let gate = builder.set("server.body_idle_timeout = \"1s\"").start().await;
    let mut raw = Raw::connect(&gate).await;
    raw.send(request(&gate, format!("POST {}", path()), "content-length: 1000\r\n", "some of it")).await;
    until("the first bytes", async || sink.bytes() > 0).await;
    raw.answer().await.refusal("/api", 408, "body_timeout");
    assert!(!sink.is_whole().await);
    gate.until_idle().await;
    gate.until_backend_is("gpu-1", true).await;
}

#[tokio::test]
async fn an_upload_that_trickles_is_ended() {
    let mut sink = Sink::start().await;
    let builder = TestProxy::builder().backend_at("gpu-1", &sink.url(), "ollama").managing();
    let builder = builder.set("server.body_idle_timeout = \"500ms\"").set("server.min_blob_rate = \"1MiB\"");
    let gate = builder.start().await;
    let mut raw = Raw::connect(&gate).await;
    raw.send(request(&gate, format!("POST {}", path()), "content-length: 10000\r\n", "")).await;
    while raw.is_unanswered() {
        raw.send("a little").await;
        // That bytes go on coming is the matter, so time must pass between them.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = raw.answer().await.refusal("/api", 408, "body_timeout");
    assert!(told.contains("less than 1048576 bytes a second"), "{told}");
    assert!(!sink.is_whole().await);
    gate.until_metric("tollgate_bound_reached_total{bound=\"min_blob_rate\"}", 1.0).await;
}

#[tokio::test]
async fn a_caller_who_leaves_ends_the_upload() {
    let mut sink = Sink::start().await;
    let gate = TestProxy::builder().backend_at("gpu-1", &sink.url(), "ollama").managing().start().await;
    let mut raw = Raw::connect(&gate).await;
    raw.send(request(&gate, format!("POST {}", path()), "content-length: 1000000\r\n", "some of it")).await;
    until("the first bytes", async || sink.bytes() > 0).await;
    drop(raw);
    let broken = tokio::time::timeout(Duration::from_secs(1), sink.is_whole()).await;
    assert_eq!(broken, Ok(false), "the backend is told within a second");
    gate.until_idle().await;
}

#[tokio::test]
async fn who_waits_to_be_told_to_go_on_is_told() {
    let mut sink = Sink::start().await;
    let gate = TestProxy::builder().backend_at("gpu-1", &sink.url(), "ollama").managing().start().await;
    let mut caller = TcpStream::connect(gate.address()).await.unwrap();
    let headers = "content-length: 5\r\nexpect: 100-continue\r\n";
    caller.write_all(&request(&gate, format!("POST {}", path()), headers, "")).await.unwrap();
    let mut told = [0; 25];
    soon("the going on", caller.read_exact(&mut told)).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(sink.bytes(), 0);
    caller.write_all(b"bytes").await.unwrap();
    let mut rest = String::new();
    soon("the answer", caller.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 201"), "{rest}");
    assert!(sink.is_whole().await);
    // Who is refused is not asked for a byte.
    let refused = request(&gate, "POST /api/blobs/x", headers, "");
    exchange(&gate, refused).await.refusal("/api", 400, "bad_digest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_passes_through_a_few_megabytes_of_memory() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 1 << 10;
    let mut sink = Sink::start().await;
    let builder = TestProxy::builder().backend_at("gpu-1", &sink.url(), "ollama").managing();
    let (folder, key) = builder.set("server.threads = 1").write().await;
    let mut gate = Running::start(folder.path(), &["serve"]);
    let address = gate.on_stderr(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line.pointer("/fields/data_plane").or(line.get("data_plane"))?.as_str().map(str::to_owned)
    });
    let before = gate.peak_memory_kib();
    let mut caller = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n", path());
    caller.write_all(format!("{head}content-length: {}\r\n\r\n", PIECE * PIECES).as_bytes()).await.unwrap();
    let piece = vec![b'x'; PIECE];
    for _ in 0..PIECES {
        soon("the taking of a piece", caller.write_all(&piece)).await.unwrap();
    }
    let mut answer = String::new();
    soon("the answer", caller.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(sink.is_whole().await);
    assert_eq!(sink.bytes(), u64::try_from(PIECE * PIECES).unwrap());
    let grown = gate.peak_memory_kib() - before;
    assert!(grown < 16 << 10, "the gate has taken {grown} KiB more for it");
    assert_eq!(gate.stop().code, Some(0));
}
