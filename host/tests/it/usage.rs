//! What a call took, in tokens: read from the answer on its way, logged with the call, counted in the metrics, and told to
//! policies as a speed. The bytes of an answer and their cuts are held by `streaming`.

use std::{sync::Arc, time::Duration};

use http::Method;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{Asking, LlmServer, Log, Script, TestProxy, guest, soon};

const CHAT: &str = "/api/chat";
const COMPLETIONS: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

/// The body of every call, and what the gate takes its input for.
const BODY: &str = r#"{"model":"llama3","messages":[],"prompt":"hi","input":"hi"}"#;
const ESTIMATE: u64 = 15;

/// A gate before one server, and the log.
struct Bench {
    gate: TestProxy,
    server: LlmServer,
    log: Log,
}

impl Bench {
    async fn start() -> Self {
        let log = Log::listen();
        let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
        // The first that speaks all three dialects.
        server.set_version("0.14.0");
        Self { gate: TestProxy::before(&[&server]).await, server, log }
    }

    /// Begins a call by this id; its head has come.
    async fn begin(&self, id: &str, path: &str) -> Response {
        let call = self.gate.request(Method::POST, path).header("x-request-id", id).body(BODY);
        soon("the head of an answer", call.send()).await.unwrap()
    }

    /// The call's line in the log, which comes when it is settled.
    async fn line(&self, id: &str) -> Value {
        let parts = [format!("\"request_id\":\"{id}\""), "\"message\":\"call\"".to_owned()];
        let parts = parts.each_ref().map(String::as_str);
        self.log.says(&parts).await;
        let mut lines = self.log.lines_with(&parts);
        assert_eq!(lines.len(), 1, "a call is settled once: {lines:?}");
        lines.remove(0)
    }

    /// A whole call with this answer took so many tokens.
    async fn check(&self, id: &str, path: &str, answer: Script, expected: Took) {
        self.server.script(answer);
        // A connection that breaks is an error to the caller; what was settled tells.
        drop(self.begin(id, path).await.bytes().await);
        assert_eq!(took(&self.line(id).await), Some(expected), "{id}");
    }

    async fn counted(&self, surface: &str, direction: &str, estimated: bool) -> f64 {
        let labels = format!("surface=\"{surface}\",direction=\"{direction}\",estimated=\"{estimated}\"");
        self.gate.metric(&format!("tollgate_tokens_total{{{labels}}}")).await
    }
}

/// Tokens of the input and of the output, and whether one of them is an estimate.
type Took = (u64, u64, bool);

/// What a line says of tokens; none when it says nothing at all.
fn took(line: &Value) -> Option<Took> {
    let names = ["input_tokens", "output_tokens", "tokens_estimated"];
    if names.iter().all(|name| line.get(name).is_none()) {
        return None;
    }
    let [input, output, estimated] = names.map(|name| &line[name]);
    Some((input.as_u64().unwrap(), output.as_u64().unwrap(), estimated.as_bool().unwrap()))
}

fn ollama_piece(text: &str) -> String {
    json!({ "message": { "role": "assistant", "content": text }, "done": false }).to_string() + "\n"
}

fn openai_piece(text: &str) -> String {
    format!("data: {}\n\n", json!({ "choices": [{ "index": 0, "delta": { "content": text } }] }))
}

fn named(event: &str, data: &Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

/// The beginning of a message, and two pieces of it.
fn message_pieces() -> Script {
    let usage = json!({ "message": { "content": [], "usage": { "input_tokens": 9, "output_tokens": 1 } } });
    let piece = |text: &str| named("content_block_delta", &json!({ "delta": { "type": "text_delta", "text": text } }));
    Script::sse()
        .chunk(named("message_start", &usage))
        .chunk(piece("a"))
        .chunk(named("ping", &json!({})))
        .chunk(piece("b"))
}

#[tokio::test]
async fn what_a_backend_counted_is_logged_and_summed_by_surface() {
    let bench = Bench::start().await;
    let last = "{\"message\":{\"content\":\"\"},\"done\":true,\"prompt_eval_count\":26,\"eval_count\":3}\n";
    let stream = Script::ndjson().chunk(ollama_piece("a")).chunk(ollama_piece("b")).chunk(last).end();
    bench.check("usage-chat-stream", CHAT, stream, (26, 3, false)).await;
    let whole = r#"{"message":{"content":"a b"},"done":true,"prompt_eval_count":20,"eval_count":5}"#;
    bench.check("usage-chat-whole", CHAT, Script::json(200, whole), (20, 5, false)).await;
    // A prompt that the backend still had in memory is left out, and so is everything of a call that only loads a model.
    let stream =
        Script::ndjson().chunk("{\"response\":\"a\",\"done\":false}\n{\"done\":true,\"eval_count\":1}\n").end();
    bench.check("usage-generate-cached", "/api/generate", stream, (0, 1, false)).await;
    let loaded = r#"{"response":"","done":true,"done_reason":"load"}"#;
    bench.check("usage-generate-load", "/api/generate", Script::json(200, loaded), (0, 0, false)).await;
    let vectors = r#"{"embeddings":[[0.5,1]],"total_duration":9,"prompt_eval_count":8}"#;
    bench.check("usage-embed", "/api/embed", Script::json(200, vectors), (8, 0, false)).await;

    let usage = r#""usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16}"#;
    let whole = format!(r#"{{"choices":[{{"message":{{"content":"hi"}}}}],{usage}}}"#);
    bench.check("usage-completions-whole", COMPLETIONS, Script::json(200, &whole), (7, 9, false)).await;
    let last = format!("data: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n");
    let stream = Script::sse().chunk(openai_piece("a")).chunk(last).end();
    bench.check("usage-completions-stream", COMPLETIONS, stream, (7, 9, false)).await;
    let vectors = r#"{"object":"list","data":[],"usage":{"prompt_tokens":4,"total_tokens":4}}"#;
    bench.check("usage-embeddings", "/v1/embeddings", Script::json(200, vectors), (4, 0, false)).await;

    let text = format!(r#"{{"choices":[{{"text":"hi"}}],{usage}}}"#);
    bench.check("usage-old-completions", "/v1/completions", Script::json(200, &text), (7, 9, false)).await;
    let stream = Script::sse()
        .chunk(named("response.created", &json!({ "response": { "usage": null } })))
        .chunk(named("response.output_text.delta", &json!({ "delta": "a" })))
        .chunk(named(
            "response.completed",
            &json!({ "response": { "usage": { "input_tokens": 2, "output_tokens": 6 } } }),
        ));
    bench.check("usage-responses", "/v1/responses", stream.end(), (2, 6, false)).await;

    let whole = r#"{"type":"message","content":[],"usage":{"input_tokens":12,"output_tokens":6}}"#;
    bench.check("usage-messages-whole", MESSAGES, Script::json(200, whole), (12, 6, false)).await;
    let last = named("message_delta", &json!({ "usage": { "input_tokens": 11, "output_tokens": 4 } }));
    let stream = message_pieces().chunk(last).chunk(named("message_stop", &json!({})));
    bench.check("usage-messages-stream", MESSAGES, stream.end(), (11, 4, false)).await;

    for (surface, input, output) in [("ollama", 54.0, 9.0), ("openai", 27.0, 33.0), ("anthropic", 23.0, 10.0)] {
        assert_eq!(bench.counted(surface, "input", false).await, input, "{surface}");
        assert_eq!(bench.counted(surface, "output", false).await, output, "{surface}");
    }
    let metrics = bench.gate.admin("/metrics").await.body;
    assert!(!metrics.contains("estimated=\"true\""), "{metrics}");
}

#[tokio::test]
async fn what_a_backend_does_not_count_is_estimated_and_marked() {
    let bench = Bench::start().await;
    let stream = Script::sse().chunk(openai_piece("a")).chunk(openai_piece("b")).chunk("data: [DONE]\n\n").end();
    bench.check("usage-no-usage", COMPLETIONS, stream, (ESTIMATE, 2, true)).await;
    bench
        .check(
            "usage-old-embeddings",
            "/api/embeddings",
            Script::json(200, r#"{"embedding":[1]}"#),
            (ESTIMATE, 0, true),
        )
        .await;
    let text = r#"{"choices":[{"message":{"content":"12345678"}}]}"#;
    bench.check("usage-no-usage-whole", COMPLETIONS, Script::json(200, text), (ESTIMATE, 12, true)).await;
    let hostile = "{\"done\":true,\"prompt_eval_count\":-4,\"eval_count\":1e9}\n";
    let stream = Script::ndjson().chunk(ollama_piece("a")).chunk(hostile).end();
    bench.check("usage-hostile", CHAT, stream, (ESTIMATE, 1, true)).await;
    assert_eq!(bench.counted("ollama", "input", true).await, 30.0);
    assert_eq!(bench.counted("ollama", "output", true).await, 1.0);
    assert_eq!(bench.counted("openai", "output", true).await, 14.0);
    let metrics = bench.gate.admin("/metrics").await.body;
    assert!(!metrics.contains("estimated=\"false\""), "{metrics}");
}

#[tokio::test]
async fn what_a_model_writes_is_no_count() {
    let bench = Bench::start().await;
    // This one first: from what is counted the estimates learn.
    let text = r#"data: {"choices":[{"delta":{"content":"\n\ndata: {\"usage\":{\"completion_tokens\":1}}\n\n"}}]}"#;
    let stream = Script::sse().chunk(format!("{text}\n\n")).chunk("data: [DONE]\n\n").end();
    bench.check("usage-forged-event", COMPLETIONS, stream, (ESTIMATE, 1, true)).await;
    let forged = r#"\"},\"done\":true,\"eval_count\":1}\n{\"done\":true,\"eval_count\":1}\n"#;
    let tool = r#"{"message":{"tool_calls":[{"function":{"arguments":{"eval_count":1,"done":true}}}]},"done":false}"#;
    let last = "{\"done\":true,\"prompt_eval_count\":2,\"eval_count\":700}\n";
    let stream = Script::ndjson().chunk(ollama_piece(forged)).chunk(format!("{tool}\n")).chunk(last).end();
    bench.check("usage-forged", CHAT, stream, (2, 700, false)).await;
}

#[tokio::test]
async fn counts_are_found_however_the_stream_is_cut_and_however_long_it_is() {
    let bench = Bench::start().await;
    let last = "{\"message\":{\"content\":\"\"},\"done\":true,\"prompt_eval_count\":26,\"eval_count\":3}\n";
    let bytes = format!("{}{last}", ollama_piece("a")).into_bytes();
    let stream = bytes.iter().fold(Script::ndjson(), |script, byte| script.chunk([*byte])).end();
    bench.check("usage-bytes", CHAT, stream, (26, 3, false)).await;
    let numbers = "1234,".repeat(400_000);
    let long = format!("{{\"done\":true,\"context\":[{numbers}1],\"prompt_eval_count\":3,\"eval_count\":4}}");
    bench.check("usage-long", "/api/generate", Script::json(200, &long), (3, 4, false)).await;
    bench.check("usage-long-line", "/api/generate", Script::ndjson().chunk(long).end(), (3, 4, false)).await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_costs_what_was_seen() {
    let bench = Bench::start().await;
    let stream = Script::ndjson().chunk(ollama_piece("a")).chunk(ollama_piece("b")).reset();
    bench.check("usage-reset", CHAT, stream, (ESTIMATE, 2, true)).await;
    assert_eq!(bench.line("usage-reset").await["end"], "failed");
    let stream = Script::sse().chunk(openai_piece("a")).chunk("data: {\"choices\":[],\"usa").close();
    bench.check("usage-close", COMPLETIONS, stream, (ESTIMATE, 1, true)).await;
    assert_eq!(bench.line("usage-close").await["end"], "failed");
    // What Anthropic's first event says of the input stands; of the output it can't know.
    bench.check("usage-messages-reset", MESSAGES, message_pieces().reset(), (9, 2, true)).await;
    assert_eq!(bench.counted("anthropic", "input", false).await, 9.0);
    assert_eq!(bench.counted("anthropic", "output", true).await, 2.0);
}

#[tokio::test]
async fn a_caller_who_leaves_pays_for_what_was_seen() {
    let mut bench = Bench::start().await;
    bench.server.script(Script::ndjson().chunk(ollama_piece("a")).chunk(ollama_piece("b")).chunk("{\"done\"").stall());
    let mut response = bench.begin("usage-left", CHAT).await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"{\"done\"") {
        seen.extend(soon("the next piece", response.chunk()).await.unwrap().unwrap());
    }
    drop(response);
    let line = bench.line("usage-left").await;
    assert_eq!((took(&line), line["end"].as_str()), (Some((ESTIMATE, 2, true)), Some("client_left")));

    bench.server.seen().await;
    bench.server.script(Script::silence());
    let call = bench.gate.request(Method::POST, COMPLETIONS).header("x-request-id", "usage-left-early").body(BODY);
    tokio::select! {
        answer = call.send() => panic!("the backend is silent: {answer:?}"),
        _ = bench.server.seen() => {}
    }
    let line = bench.line("usage-left-early").await;
    assert_eq!((took(&line), line["end"].as_str()), (Some((ESTIMATE, 0, true)), Some("client_left")));
}

#[tokio::test]
async fn a_call_for_which_no_model_ran_took_no_tokens() {
    let bench = Bench::start().await;
    for status in [400, 404, 429, 500, 503] {
        bench.server.script(Script::json(status, r#"{"error":"no","usage":{"prompt_tokens":7},"eval_count":7}"#));
        let id = format!("usage-status-{status}");
        drop(bench.begin(&id, CHAT).await);
        assert_eq!(took(&bench.line(&id).await), None, "{status}");
    }
    for (id, method, path) in [
        ("usage-tags", Method::GET, "/api/tags"),
        ("usage-show", Method::POST, "/api/show"),
        ("usage-pull", Method::POST, "/api/pull"),
        ("usage-version", Method::GET, "/api/version"),
        ("usage-unknown", Method::POST, "/nowhere"),
    ] {
        bench.server.script(Script::json(200, r#"{"usage":{"prompt_tokens":7},"done":true,"eval_count":7}"#));
        bench.gate.request(method, path).header("x-request-id", id).body(BODY).send().await.unwrap();
        assert_eq!(took(&bench.line(id).await), None, "{path}");
    }
    let (gate, server) = (&bench.gate, bench.server);
    server.kill().await;
    gate.request(Method::POST, CHAT).header("x-request-id", "usage-gone").body(BODY).send().await.unwrap();
    let bench = Bench { server: LlmServer::start("gpu-2", &[]).await, ..bench };
    assert_eq!(took(&bench.line("usage-gone").await), None);
    let metrics = bench.gate.admin("/metrics").await.body;
    assert!(!metrics.contains("tollgate_tokens_total{"), "{metrics}");
}

#[tokio::test]
async fn policies_see_how_fast_a_model_writes() {
    let asking = Asking::start().await;
    let facts = async || asking.ask("route", "facts").await;
    assert!(facts().await.contains("tokens-per-second-milli: None"));
    let stream = async |tokens: u64| {
        let go_on = Arc::new(Notify::new());
        let last = format!("{{\"done\":true,\"eval_count\":{tokens}}}\n");
        asking.server.script(Script::ndjson().chunk(ollama_piece("a")).wait(&go_on).chunk(last).end());
        let call = asking.gate.request(Method::POST, CHAT).body(BODY);
        let mut response = soon("the head of an answer", call.send()).await.unwrap();
        soon("the first piece", response.chunk()).await.unwrap().unwrap();
        asking.gate.hand.advance(Duration::from_secs(2));
        go_on.notify_one();
        soon("the rest", response.bytes()).await.unwrap();
        asking.gate.until_idle().await;
    };
    // The first token was there when the two seconds began.
    stream(81).await;
    assert!(facts().await.contains("tokens-per-second-milli: Some(40000)"));
    // In a moving average the newest counts an eighth.
    stream(1).await;
    assert!(facts().await.contains("tokens-per-second-milli: Some(40000)"), "a word tells no speed");
    stream(161).await;
    assert!(facts().await.contains("tokens-per-second-milli: Some(45000)"), "{}", facts().await);
}

#[tokio::test]
async fn a_policy_that_refuses_costs_no_tokens() {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let refusing = guest::admitter(&guest::rejection(1, b"no", b"not today"));
    let gate = TestProxy::builder().backend(&server).policy("refuse", &refusing).start().await;
    let bench = Bench { gate, server, log };
    let answer = bench.begin("usage-refused", CHAT).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(took(&bench.line("usage-refused").await), None);
}
