//! Every call is settled exactly once, however it ends, and what is recorded of one that breaks off is what was written.

use http::Method;
use serde_json::{Value, json};

use crate::support::{LlmServer, Log, Script, TestProxy, guest, soon, until};

const OLLAMA: &str = "/api/chat";
const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";

const TOLD: &str = "tollgate_policy_call_duration_seconds_count{policy=\"ask-settle\",hook=\"settle\"}";

/// A gate whose policies are told of every call, before one server, and the log.
struct Bench {
    gate: TestProxy,
    server: LlmServer,
    log: Log,
}

impl Bench {
    async fn start() -> Self {
        let log = Log::listen();
        let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
        server.set_version("0.14.0");
        let builder = TestProxy::builder().backend(&server).set("server.drain_timeout = \"200ms\"");
        Self { gate: builder.policy("ask-settle", &guest::gallery("ask-settle")).start().await, server, log }
    }

    fn call(&self, id: &str, path: &str) -> reqwest::RequestBuilder {
        let body = json!({ "model": "llama3", "messages": [], "stream": true }).to_string();
        self.gate.request(Method::POST, path).header("x-request-id", id).body(body)
    }

    /// Begins a stream, reads so much of it, and leaves.
    async fn leave(&self, id: &str, path: &str, until: &str) {
        let mut response = soon("the head", self.call(id, path).send()).await.unwrap();
        let mut got = String::new();
        while !got.contains(until) {
            got += std::str::from_utf8(&soon("a piece", response.chunk()).await.unwrap().unwrap()).unwrap();
        }
    }

    /// The lines of a call that is settled.
    async fn lines(&self, id: &str) -> Vec<Value> {
        let parts = [format!("\"request_id\":\"{id}\""), "\"message\":\"call\"".to_owned()];
        let parts = parts.each_ref().map(String::as_str);
        self.log.says(&parts).await;
        self.log.lines_with(&parts)
    }

    /// How often the policy was told of a call of this gate.
    fn told(&self) -> usize {
        let call = "settled Call { surface: Surface::Ollama, operation: Operation::Chat, model: \\\"llama3:latest\\\"";
        let key = &self.gate.key()[3..13];
        self.log.lines_with(&[call, key]).len()
    }

    async fn check_one(&self, id: &str, end: &str, told: f64) {
        let lines = self.lines(id).await;
        assert_eq!((lines.len(), lines[0]["end"].as_str()), (1, Some(end)), "{id}: {lines:?}");
        self.gate.until_metric(TOLD, told).await;
        self.gate.until_idle().await;
    }
}

fn line(text: &str) -> String {
    json!({ "message": { "role": "assistant", "content": text }, "done": false }).to_string() + "\n"
}

#[tokio::test]
async fn every_end_of_a_call_settles_it_once() {
    let bench = Bench::start().await;
    bench.server.script(Script::ndjson().chunk(line("a")).chunk("{\"done\":true,\"eval_count\":1}\n").end());
    soon("an answer", bench.call("once-whole", OLLAMA).send().await.unwrap().bytes()).await.unwrap();
    bench.check_one("once-whole", "complete", 1.0).await;

    bench.server.script(Script::ndjson().chunk(line("a")).reset());
    drop(soon("an error", bench.call("once-reset", OLLAMA).send().await.unwrap().bytes()).await);
    bench.check_one("once-reset", "failed", 2.0).await;

    bench.server.script(Script::json(500, r#"{"error":"no"}"#));
    soon("an answer", bench.call("once-error", OLLAMA).send().await.unwrap().bytes()).await.unwrap();
    bench.check_one("once-error", "complete", 3.0).await;

    bench.server.script(Script::ndjson().chunk(line("a")).stall());
    bench.leave("once-left", OLLAMA, "done").await;
    bench.check_one("once-left", "client_left", 4.0).await;

    // Admitted, and then refused: nobody has this model.
    let body = json!({ "model": "nobody", "messages": [] }).to_string();
    let call = bench.gate.request(Method::POST, OLLAMA).header("x-request-id", "once-unknown").body(body);
    assert_eq!(call.send().await.unwrap().status(), 404);
    bench.check_one("once-unknown", "complete", 5.0).await;

    // Never admitted: policies that settle have nothing to hear of it.
    let stranger = bench.gate.client().post(bench.gate.url(OLLAMA)).header("x-request-id", "once-stranger").body("{}");
    assert_eq!(stranger.send().await.unwrap().status(), 401);
    bench.check_one("once-stranger", "complete", 5.0).await;
}

#[tokio::test]
async fn a_call_that_is_cut_when_the_gate_stops_is_settled_once_and_policies_hear_of_it() {
    let bench = Bench::start().await;
    bench.server.script(Script::ndjson().chunk(line("a")).chunk(line("b")).stall());
    let mut response = bench.call("once-cut", OLLAMA).send().await.unwrap();
    let mut got = String::new();
    while !got.contains("\"b\"") {
        got += std::str::from_utf8(&soon("a piece", response.chunk()).await.unwrap().unwrap()).unwrap();
    }
    let Bench { gate, server, log } = bench;
    let key = gate.key()[3..13].to_owned();
    soon("the gate's end", gate.stop()).await;
    let lines = log.lines_with(&["\"request_id\":\"once-cut\"", "\"message\":\"call\""]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["output_tokens"], 2);
    assert_eq!(log.lines_with(&["settled Call", &key]).len(), 1, "the stop waits until policies are told");
    drop(server);
}

#[tokio::test]
async fn what_is_recorded_of_callers_who_leave_half_way_is_what_was_written() {
    const WRITTEN: usize = 5;
    let bench = Bench::start().await;
    let ollama = (0..WRITTEN).fold(Script::ndjson(), |script, at| script.chunk(line(&format!("word{at}"))));
    let chunk = |delta: Value| format!("data: {}\n\n", json!({ "choices": [{ "index": 0, "delta": delta }] }));
    let first = Script::sse().chunk(chunk(json!({ "role": "assistant", "content": "" })));
    let openai = (0..WRITTEN).fold(first, |script, at| script.chunk(chunk(json!({ "content": format!("word{at}") }))));
    let event = |name: &str, data: Value| format!("event: {name}\ndata: {data}\n\n");
    let usage = json!({ "message": { "usage": { "input_tokens": 9, "output_tokens": 1 } } });
    let first = Script::sse().chunk(event("message_start", usage)).chunk(event("content_block_start", json!({})));
    let anthropic = (0..WRITTEN).fold(first, |script, at| {
        let delta = json!({ "delta": { "type": "text_delta", "text": format!("word{at}") } });
        script.chunk(event("content_block_delta", delta))
    });
    let mut calls = 0;
    for (path, script, surface) in
        [(OLLAMA, ollama, "ollama"), (OPENAI, openai, "openai"), (ANTHROPIC, anthropic, "anthropic")]
    {
        // Half of them leave; of those who stay a backend that breaks off tells as little.
        for turn in 0..6 {
            let id = format!("half-way-{surface}-{turn}");
            let leaves = turn % 2 == 0;
            bench.server.script(if leaves { script.clone().stall() } else { script.clone().reset() });
            if leaves {
                bench.leave(&id, path, &format!("word{}", WRITTEN - 1)).await;
            } else {
                drop(soon("an error", bench.call(&id, path).send().await.unwrap().bytes()).await);
            }
            calls += 1;
            bench.check_one(&id, if leaves { "client_left" } else { "failed" }, f64::from(calls)).await;
            let line = bench.lines(&id).await.remove(0);
            assert_eq!((&line["output_tokens"], &line["tokens_estimated"]), (&json!(WRITTEN), &json!(true)), "{id}");
        }
        let series = format!("tollgate_tokens_total{{surface=\"{surface}\",direction=\"output\",estimated=\"true\"}}");
        assert_eq!(bench.gate.metric(&series).await, 30.0, "six times five");
    }
}

#[tokio::test]
async fn what_is_used_beyond_an_estimate_is_owed_and_a_cap_owes_nothing() {
    let bench = Bench::start().await;
    let error = async |direction: &str, kind: &str| {
        let labels = format!("direction=\"{direction}\",kind=\"{kind}\"");
        bench.gate.metric(&format!("tollgate_estimate_error_tokens_total{{{labels}}}")).await
    };
    let call = async |id: &str, cap: Option<u64>, input: u64, output: u64| {
        let last = json!({ "done": true, "prompt_eval_count": input, "eval_count": output }).to_string();
        bench.server.script(Script::json(200, &last));
        let mut body = json!({ "model": "llama3", "messages": [] });
        if let Some(cap) = cap {
            body["options"] = json!({ "num_predict": cap });
        }
        let call = bench.gate.request(Method::POST, OLLAMA).header("x-request-id", id).body(body.to_string());
        soon("an answer", call.send().await.unwrap().bytes()).await.unwrap();
        bench.lines(id).await;
    };
    // With a cap the output is within it, always.
    call("owes-capped", Some(1000), 14, 1000).await;
    assert_eq!(error("output", "owed").await, 0.0);
    assert_eq!(error("output", "spare").await, 0.0);
    // Without one a first guess of 256 is taken; the body has 32 bytes, 8 tokens.
    call("owes-more", None, 9, 300).await;
    assert_eq!(error("output", "owed").await, 44.0);
    let spare = error("input", "spare").await;
    call("owes-less", None, 2, 256).await;
    assert_eq!(error("input", "spare").await - spare, 6.0);
    let mut last = 44.0;
    for turn in 0..40 {
        call(&format!("owes-{turn}"), None, 9, 300).await;
        let owed = error("output", "owed").await;
        if turn > 20 {
            assert_eq!(owed, last, "it has learned that this model writes more");
        }
        last = owed;
    }
}

#[tokio::test]
async fn policies_hear_of_as_many_calls_as_there_were() {
    let bench = Bench::start().await;
    for turn in 0..20 {
        bench.server.script(Script::ndjson().chunk("{\"done\":true}\n").end());
        let id = format!("many-{turn}");
        soon("an answer", bench.call(&id, OLLAMA).send().await.unwrap().bytes()).await.unwrap();
    }
    until("all calls' telling", async || bench.told() == 20).await;
    bench.gate.until_metric(TOLD, 20.0).await;
}
