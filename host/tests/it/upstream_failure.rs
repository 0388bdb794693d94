//! Backends that go away, come back, hang, break off or talk nonsense.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Method;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
};

use crate::support::{Answer, LlmServer, Script, TestProxy, proxy::Builder, rpm, soon, until};

const CHAT: &str = "/api/chat";
const COMPLETIONS: &str = "/v1/chat/completions";

/// No probe comes within a test.
const NO_PROBES: &str = "upstream.probe_interval = \"1h\"";

fn ask(model: &str) -> Value {
    json!({ "model": model, "messages": [] })
}

/// Two servers that share `llama3`.
async fn two() -> (LlmServer, LlmServer) {
    (LlmServer::start("gpu-1", &["llama3:latest"]).await, LlmServer::start("gpu-2", &["llama3:latest"]).await)
}

fn gate_before(servers: &[&LlmServer], lines: &[&str]) -> Builder {
    let builder = servers.iter().fold(TestProxy::builder(), |builder, server| builder.backend(server));
    lines.iter().fold(builder, |builder, line| builder.set(line))
}

/// A refusal of the gate's own, in the dialect of its path.
fn check_refusal(answer: &Answer, path: &str, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    if path.starts_with("/v1/") {
        assert_eq!((answer.code().as_str(), &answer.json()["error"]["type"]), (code, &json!("server_error")));
        assert!(answer.json()["error"]["message"].is_string(), "{answer:?}");
    } else {
        assert!(answer.json()["error"].is_string(), "{answer:?}");
    }
    assert!(!answer.body.contains("127.0.0.1"), "where backends are is nobody's business: {answer:?}");
}

/// Listens, and never answers: the system accepts connections by itself.
fn listen_without_answering(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

#[tokio::test]
async fn calls_that_start_after_a_backend_was_killed_succeed_before_any_probe_notices() {
    let (one, two) = two().await;
    let gate = gate_before(&[&one, &two], &[NO_PROBES]).start().await;
    for _ in 0..4 {
        assert_eq!(gate.post(CHAT, &ask("llama3")).await.status, 200);
    }
    assert_eq!((one.calls(), two.calls()), (2, 2), "both were in use, with connections kept");
    two.kill().await;
    for number in 0..20 {
        let answer = gate.post(if number % 2 == 0 { CHAT } else { COMPLETIONS }, &ask("llama3")).await;
        assert_eq!((answer.status, answer.backend()), (200, Some("gpu-1")), "call {number}: {answer:?}");
    }
    assert_eq!(one.calls(), 22);
    assert_eq!(gate.metric(r#"tollgate_backend_up{backend="gpu-2"}"#).await, 0.0, "the first call took it out");
}

#[tokio::test]
async fn calls_at_the_same_time_succeed_when_a_backend_is_gone() {
    let (one, two) = two().await;
    let gate = gate_before(&[&one, &two], &[NO_PROBES]).start().await;
    one.kill().await;
    let body = ask("llama3");
    let answers = futures_util::future::join_all((0..40).map(|_| gate.post(CHAT, &body))).await;
    assert!(answers.iter().all(|answer| (answer.status, answer.backend()) == (200, Some("gpu-2"))), "{answers:?}");
}

#[tokio::test]
async fn a_backend_leaves_the_rotation_and_comes_back_with_its_new_models() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let address = two.kill().await;
    gate.until_backend_is("gpu-2", false).await;
    for _ in 0..4 {
        assert_eq!(gate.post(CHAT, &ask("llama3")).await.backend(), Some("gpu-1"));
    }

    let two = LlmServer::start_at("gpu-2", &["llama3:latest", "phi4:14b"], address).await;
    let tags = || async { gate.get("/api/tags").await.body };
    until("its new model", || async { tags().await.contains("phi4:14b") }).await;
    assert_eq!(gate.post(CHAT, &ask("phi4:14b")).await.backend(), Some("gpu-2"));
    let mut backends = Vec::new();
    for _ in 0..4 {
        backends.push(gate.post(CHAT, &ask("llama3")).await.backend().unwrap().to_owned());
    }
    backends.sort();
    assert_eq!(backends, ["gpu-1", "gpu-1", "gpu-2", "gpu-2"]);
    assert_eq!(two.calls(), 3);
}

#[tokio::test]
async fn a_call_that_reaches_no_backend_is_refused_in_dialect_and_costs_nothing() {
    for path in [CHAT, COMPLETIONS] {
        let (one, two) = two().await;
        let gate = gate_before(&[&one, &two], &[NO_PROBES]);
        let gate = gate.with_key(rpm(1)).start().await;
        one.kill().await;
        two.kill().await;
        // The first call finds out; those after it know. Each would be a 429 if one before it had cost anything.
        check_refusal(&gate.post(path, &ask("llama3")).await, path, 502, "backend_unreachable");
        for _ in 0..3 {
            let answer = gate.post(path, &ask("llama3")).await;
            check_refusal(&answer, path, 503, "no_backend");
            assert_eq!(answer.header("retry-after"), Some("5"));
        }
    }
}

#[tokio::test]
async fn a_backend_that_was_never_there_is_used_once_it_listens() {
    let one = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let two = LlmServer::start("gpu-2", &["phi4:latest"]).await;
    let builder = gate_before(&[&one, &two], &[]);
    let address = two.kill().await;
    let gate = builder.start().await;
    assert_eq!(gate.post(CHAT, &ask("phi4")).await.status, 404, "nobody knows what it would have");
    let _two = LlmServer::start_at("gpu-2", &["phi4:latest"], address).await;
    until("its model", || async { gate.post(CHAT, &ask("phi4")).await.status == 200 }).await;
}

/// The call may have been worked on: it is refused, paid for, and made nowhere else.
async fn check_broken(scripts: &[Script], lines: &[&str], status: u16, code: &str) {
    let (one, two) = two().await;
    let mut gate = gate_before(&[&one, &two], lines);
    let mut calls = Vec::new();
    for (number, script) in scripts.iter().enumerate() {
        for path in [CHAT, COMPLETIONS] {
            let once = gate.add_key(&format!("{number}{path}"), rpm(1));
            calls.push((script, path, once));
        }
    }
    let gate = gate.start().await;
    for (script, path, once) in calls {
        for _ in 0..2 {
            assert_eq!(gate.post(path, &ask("llama3")).await.status, 200, "a connection to each is kept from here on");
        }
        let before = one.calls() + two.calls();
        one.script(script.clone());
        two.script(script.clone());
        check_refusal(&gate.post_as(&once, path, &ask("llama3")).await, path, status, code);
        assert_eq!(one.calls() + two.calls(), before + 1, "a call that may have reached a backend is never made twice");
        assert_eq!(gate.post_as(&once, path, &ask("llama3")).await.status, 429, "it may have been worked on");
        gate.until_idle().await;
        // The other one's turn: its script goes as well.
        assert_eq!(gate.post(path, &ask("llama3")).await.status, status);
    }
}

#[tokio::test]
async fn a_backend_that_breaks_before_its_head_is_a_502_and_no_other_is_tried() {
    let begun = || Script::raw("HTTP/1.1 200 OK\r\ncontent-ty");
    let scripts = [Script::default().reset(), Script::default().close(), begun().reset(), begun().close()];
    check_broken(&scripts, &[], 502, "bad_backend_answer").await;
}

#[tokio::test]
async fn what_is_no_http_is_a_502_in_dialect() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(128 << 10));
    let texts = [
        "garbage\r\n\r\n",
        "\0\u{1}\u{2}\u{3}\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 two hundred\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        &long,
    ];
    check_broken(&texts.map(Script::raw), &[], 502, "bad_backend_answer").await;
}

#[tokio::test]
async fn a_change_of_protocol_is_no_answer_to_a_call() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    check_broken(&[Script::raw(head)], &[], 502, "bad_backend_answer").await;
}

#[tokio::test]
async fn a_redirect_is_neither_followed_nor_passed_on() {
    let elsewhere = LlmServer::start("gpu-3", &[]).await;
    let place = format!("{}/api/chat", elsewhere.url());
    let head = |status| format!("HTTP/1.1 {status} X\r\nlocation: {place}\r\ncontent-length: {}\r\n\r\n", place.len());
    let scripts = [300, 301, 302, 303, 307, 308].map(|status| Script::raw(&(head(status) + &place)));
    check_broken(&scripts, &[], 502, "bad_backend_answer").await;
    assert_eq!(elsewhere.calls(), 0);
}

#[tokio::test]
async fn a_backend_that_does_not_begin_in_time_is_a_504_and_its_connection_is_closed() {
    // Long enough for the answers that come.
    let soon = "upstream.first_byte_timeout = \"400ms\"";
    check_broken(&[Script::silence()], &[soon], 504, "backend_timeout").await;
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = gate_before(&[&server], &[soon]).start().await;
    server.script(Script::silence());
    assert_eq!(gate.post(CHAT, &ask("llama3")).await.status, 504);
    server.closed().await;
}

/// A stream whose first piece has come.
async fn begin(gate: &TestProxy, path: &str, first: &str) -> Response {
    let call = gate.request(Method::POST, path).body(ask("llama3").to_string());
    let mut response = soon("the head of an answer", call.send()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(soon("the first piece", response.chunk()).await.unwrap().unwrap(), first);
    response
}

#[tokio::test]
async fn a_stream_that_breaks_off_breaks_the_caller_s_connection_too() {
    let go_on = Arc::new(Notify::new());
    let stated = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}\n";
    for script in [
        Script::ndjson().chunk("{}\n").wait(&go_on).reset(),
        Script::ndjson().chunk("{}\n").wait(&go_on).close(),
        Script::raw(stated).wait(&go_on).reset(),
        Script::raw(stated).wait(&go_on).close(),
    ] {
        let (one, two) = two().await;
        let gate = gate_before(&[&one, &two], &[]).start().await;
        one.script(script.clone());
        two.script(script);
        let mut response = begin(&gate, CHAT, "{}\n").await;
        go_on.notify_one();
        let end = soon("the end of the stream", response.chunk()).await;
        assert!(end.is_err(), "half an answer looks whole: {end:?}");
        gate.until_idle().await;
        assert_eq!(one.calls() + two.calls(), 1, "what has begun is not begun anew");
    }
}

#[tokio::test]
async fn a_stream_of_broken_framing_breaks_the_caller_s_connection_too() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let go_on = Arc::new(Notify::new());
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n";
    let framing = Script::raw(&format!("{head}zz\r\nwhat\r\n")).wait(&go_on);
    server.script(framing);
    let call = gate.request(Method::POST, CHAT).body(ask("llama3").to_string());
    let response = soon("the head of an answer", call.send()).await.unwrap();
    let body = soon("the end of the stream", response.text()).await;
    assert!(body.is_err(), "half an answer looks whole: {body:?}");
    gate.until_idle().await;
}

#[tokio::test]
async fn a_stream_that_stops_coming_is_cut_on_both_sides() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = gate_before(&[&server], &["upstream.idle_timeout = \"80ms\""]).start().await;
    for (path, script) in [(CHAT, Script::ndjson()), (COMPLETIONS, Script::sse())] {
        server.script(script.chunk("{}\n").stall());
        let mut response = begin(&gate, path, "{}\n").await;
        gate.hand.advance(Duration::from_millis(80));
        let end = soon("the end of the stream", response.chunk()).await;
        assert!(end.is_err(), "half an answer looks whole: {end:?}");
        server.closed().await;
        gate.until_idle().await;
    }
}

#[tokio::test]
async fn a_busy_backend_s_answer_is_passed_on_and_no_other_is_tried() {
    let (one, two) = two().await;
    let gate = gate_before(&[&one, &two], &[]).start().await;
    let busy = r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#;
    for path in [CHAT, COMPLETIONS] {
        one.script(Script::json(503, busy));
        two.script(Script::json(503, busy));
        let before = one.calls() + two.calls();
        let answer = gate.post(path, &ask("llama3")).await;
        assert_eq!((answer.status, answer.body.as_str()), (503, busy));
        assert_eq!(one.calls() + two.calls(), before + 1);
        // The other one's turn, and its script.
        assert_eq!(gate.post(path, &ask("llama3")).await.status, 503);
    }
    assert_eq!(gate.metric(r#"tollgate_backend_up{backend="gpu-1"}"#).await, 1.0, "busy is not down");
}

/// Waits until a server's list of models was asked for, and the answer to an earlier question was worked on.
async fn until_listed_again(server: &LlmServer) {
    let asked = || server.control_paths().iter().filter(|path| *path == "/api/tags").count();
    let before = asked();
    until("two more readings of the list", || async { asked() >= before + 2 }).await;
}

#[tokio::test]
async fn a_list_of_garbage_leaves_the_old_one_standing_and_the_gate_serving() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let every = ["upstream.refresh_interval = \"20ms\"", "upstream.probe_interval = \"20ms\""];
    let gate = gate_before(&[&server], &every).start().await;
    let tags = gate.get("/api/tags").await.body;
    let huge = format!("{{\"models\":[{{\"name\":\"other\",\"x\":\"{}\"}}]}}", "x".repeat(17 << 20));
    let many = vec![r#"{"name":"other"}"#; 10_001].join(",");
    for list in [
        "not json",
        "",
        "null",
        "[]",
        "{}",
        r#"{"models":"llama3"}"#,
        r#"{"models":[1,"x"]}"#,
        r#"{"models":[{"name":7}]}"#,
        r#"{"models":[["other"]]}"#,
        r#"{"models":[{"name":"other"}]"#,
        &format!("{{\"models\":{}", "[".repeat(100_000)),
        &format!("{{\"models\":[{many}]}}"),
        &huge,
    ] {
        server.set_lists(list);
        until_listed_again(&server).await;
        let list = list.get(..80).unwrap_or(list);
        assert_eq!(gate.post(CHAT, &ask("llama3")).await.status, 200, "{list}");
        assert_eq!(gate.get("/api/tags").await.body, tags, "{list}");
        assert_eq!(gate.post(CHAT, &ask("other")).await.status, 404, "{list}");
    }
    // A good one counts again.
    server.set_lists(r#"{"models":[{"name":"other"}]}"#);
    until("the new model", || async { gate.post(CHAT, &ask("other")).await.status == 200 }).await;
    assert_eq!(gate.post(CHAT, &ask("llama3")).await.status, 404);
}

#[tokio::test]
async fn a_backend_that_accepts_and_never_answers_its_probe_is_down_until_it_does() {
    let (one, two) = two().await;
    // Long enough for the one that answers, whatever else the machine does.
    let lines = ["upstream.probe_timeout = \"500ms\"", "upstream.first_byte_timeout = \"5s\""];
    let gate = gate_before(&[&one, &two], &lines).start().await;
    let address = two.kill().await;
    let silent = listen_without_answering(address);
    gate.until_backend_is("gpu-2", false).await;
    for _ in 0..4 {
        assert_eq!(gate.post(CHAT, &ask("llama3")).await.backend(), Some("gpu-1"));
    }
    drop(silent);
    let _two = LlmServer::start_at("gpu-2", &["llama3:latest"], address).await;
    gate.until_backend_is("gpu-2", true).await;
    until("a call to it", || async { gate.post(CHAT, &ask("llama3")).await.backend() == Some("gpu-2") }).await;
}

#[tokio::test]
async fn a_gate_starts_before_a_backend_that_never_answers() {
    let one = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let silent = listen_without_answering("127.0.0.1:0".parse().unwrap());
    let url = format!("http://{}", silent.local_addr().unwrap());
    let gate = gate_before(&[&one], &["upstream.probe_timeout = \"500ms\""]).backend_at("silent", &url, "ollama");
    let gate = soon("the start", gate.start()).await;
    assert_eq!(gate.metric(r#"tollgate_backend_up{backend="silent"}"#).await, 0.0);
    assert_eq!(gate.post(CHAT, &ask("llama3")).await.backend(), Some("gpu-1"));
}
