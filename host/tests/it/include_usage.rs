//! Streams of OpenAI's dialect tell their usage to those who ask only. The gate asks in its callers' place, and takes out
//! again what they did not ask for: nothing else of a stream changes, and no more than one event waits.

use std::sync::Arc;

use http::Method;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{LlmServer, Log, Script, TestProxy, soon};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

const FIRST: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n";
const PIECE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
const USAGE: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

struct Bench {
    gate: TestProxy,
    server: LlmServer,
    log: Log,
}

impl Bench {
    async fn start() -> Self {
        let log = Log::listen();
        let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
        // One that speaks of responses.
        server.set_version("0.14.0");
        Self { gate: TestProxy::before(&[&server]).await, server, log }
    }

    async fn begin(&self, id: &str, path: &str, body: &str) -> Response {
        let call = self.gate.request(Method::POST, path).header("x-request-id", id).body(body.to_owned());
        soon("the head of an answer", call.send()).await.unwrap()
    }

    /// What the caller gets of this answer, and what the backend was sent.
    async fn whole(&mut self, id: &str, path: &str, body: &str, answer: Script) -> (String, String) {
        self.server.script(answer);
        let answer = soon("an answer", self.begin(id, path, body).await.text()).await.unwrap();
        (answer, self.server.seen().await.body)
    }

    async fn tokens(&self, id: &str) -> [Value; 3] {
        let parts = [format!("\"request_id\":\"{id}\""), "\"message\":\"call\"".to_owned()];
        let parts = parts.each_ref().map(String::as_str);
        self.log.says(&parts).await;
        let line = self.log.lines_with(&parts).remove(0);
        ["input_tokens", "output_tokens", "tokens_estimated"].map(|name| line[name].clone())
    }
}

fn stream(pieces: &[&str]) -> Script {
    pieces.iter().fold(Script::sse(), |script, piece| script.chunk(piece)).end()
}

#[tokio::test]
async fn a_stream_tells_the_gate_its_usage_and_its_caller_what_it_asked_for() {
    let mut bench = Bench::start().await;
    for (id, path, sent, expected) in [
        (
            "asks-chat",
            CHAT,
            r#"{"model":"llama3:latest","stream":true,"messages":[]}"#,
            r#"{"stream_options":{"include_usage":true},"model":"llama3:latest","stream":true,"messages":[]}"#,
        ),
        (
            "asks-renamed",
            CHAT,
            r#"{ "stream_options": {}, "model":"llama3" ,"stream":true,"messages":[]}"#,
            r#"{ "stream_options": {"include_usage":true}, "model":"llama3:latest" ,"stream":true,"messages":[]}"#,
        ),
        (
            "asks-off",
            TEXT,
            r#"{"model":"llama3","stream":true,"prompt":"hi","stream_options":{"include_usage":false,"x":1}}"#,
            r#"{"model":"llama3:latest","stream":true,"prompt":"hi","stream_options":{"include_usage":true,"x":1}}"#,
        ),
    ] {
        let (answer, seen) = bench.whole(id, path, sent, stream(&[FIRST, PIECE, PIECE, USAGE, DONE])).await;
        assert_eq!(seen, expected, "{id}");
        assert_eq!(answer, [FIRST, PIECE, PIECE, DONE].concat(), "{id}");
        assert_eq!(bench.tokens(id).await, [json!(7), json!(9), json!(false)], "{id}");
    }
}

#[tokio::test]
async fn a_caller_who_asks_itself_gets_its_stream_byte_for_byte() {
    let mut bench = Bench::start().await;
    let body = r#"{"model":"llama3:latest","stream":true,"messages":[],"stream_options":{"include_usage":true}}"#;
    let all = [FIRST, PIECE, USAGE, DONE];
    let (answer, seen) = bench.whole("asked-itself", CHAT, body, stream(&all)).await;
    assert_eq!((answer.as_str(), seen.as_str()), (all.concat().as_str(), body));
    assert_eq!(bench.tokens("asked-itself").await, [json!(7), json!(9), json!(false)]);
}

#[tokio::test]
async fn what_is_no_such_stream_goes_as_it_came() {
    let mut bench = Bench::start().await;
    for (id, path, body) in [
        ("no-stream", CHAT, r#"{"model":"llama3:latest","messages":[]}"#),
        ("stream-off", TEXT, r#"{"model":"llama3:latest","prompt":"","stream":false}"#),
        ("odd-options", CHAT, r#"{"model":"llama3:latest","messages":[],"stream":true,"stream_options":null}"#),
        ("ollama", "/api/chat", r#"{"model":"llama3:latest","messages":[],"stream":true}"#),
        ("responses", "/v1/responses", r#"{"model":"llama3:latest","input":"","stream":true}"#),
        ("vectors", "/v1/embeddings", r#"{"model":"llama3:latest","input":"","stream":true}"#),
    ] {
        let (answer, seen) = bench.whole(id, path, body, stream(&[PIECE, USAGE, DONE])).await;
        assert_eq!((seen.as_str(), answer), (body, [PIECE, USAGE, DONE].concat()), "{id}");
    }
    // A backend that answers in one piece, or with an error, is not sifted.
    let body = r#"{"model":"llama3:latest","messages":[],"stream":true}"#;
    let whole = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}"#;
    assert_eq!(bench.whole("answers-whole", CHAT, body, Script::json(200, whole)).await.0, whole);
    let (answer, _) = bench.whole("says-no", CHAT, body, Script::json(400, r#"{"error":"no"}"#)).await;
    assert_eq!(answer, r#"{"error":"no"}"#);
}

#[tokio::test]
async fn no_more_than_the_open_event_waits_and_what_is_left_open_comes_at_the_end() {
    let bench = Bench::start().await;
    let go_on = [Arc::new(Notify::new()), Arc::new(Notify::new())];
    let (half, rest) = PIECE.split_at(20);
    let script = Script::sse().chunk(format!(": hi\n\n{FIRST}{half}")).wait(&go_on[0]).chunk(rest).chunk(USAGE);
    bench.server.script(script.wait(&go_on[1]).chunk("data: [DO").end());
    let body = r#"{"model":"llama3","messages":[],"stream":true}"#;
    let mut answer = bench.begin("waits", CHAT, body).await;
    let mut came = async || {
        let piece = soon("a piece", answer.chunk()).await.unwrap();
        piece.map(|piece| String::from_utf8(piece.to_vec()).unwrap())
    };
    assert_eq!(came().await.unwrap(), format!(": hi\n\n{FIRST}"), "what is whole doesn't wait for what is not");
    go_on[0].notify_one();
    assert_eq!(came().await.unwrap(), PIECE);
    go_on[1].notify_one();
    assert_eq!(came().await.unwrap(), "data: [DO");
    assert_eq!(came().await, None);
    assert_eq!(bench.tokens("waits").await, [json!(7), json!(9), json!(false)]);
}

#[tokio::test]
async fn a_stream_whose_last_piece_is_taken_out_ends_as_whole() {
    let mut bench = Bench::start().await;
    let body = r#"{"model":"llama3","messages":[],"stream":true}"#;
    let (answer, _) = bench.whole("ends-taken", CHAT, body, stream(&[PIECE, USAGE])).await;
    assert_eq!(answer, PIECE);
    // With a length in its head, which is not that of what passes.
    let length = PIECE.len() + USAGE.len();
    let head = format!("HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\n\r\n");
    for text in [format!("{head}{PIECE}{USAGE}"), format!("{head}{USAGE}{PIECE}")] {
        let (answer, _) = bench.whole("has-length", CHAT, body, Script::raw(&text)).await;
        assert_eq!(answer, PIECE);
    }
}
