//! What policies change in a call at `admit`: backends get it, later policies, limits and scopes go by it, and the rest of the
//! call stays as it came.
//!
//! `ask-admit` edits as a call asks it to, and answers in the log what became of it; `ask-admit-next` is asked behind it.

use http::Method;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tollgate::ports::keys::Scope;

use crate::support::{Answer, Asking, LlmServer, Log, Script, TestProxy, asking::told, guest, proxy::Builder};

const CHAT: &str = "/v1/chat/completions";

struct Bench {
    asking: Asking,
    log: Log,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with(|builder| builder).await
    }

    async fn start_with(more: impl FnOnce(Builder) -> Builder) -> Self {
        let log = Log::listen();
        let next = |builder: Builder| builder.policy("ask-admit-next", &guest::gallery("ask-admit-next"));
        let server = LlmServer::start("gpu-1", &["llama3:latest", "small:1b", "big:cloud"]).await;
        // One that speaks every dialect.
        server.set_version("0.14.0");
        let asking = Asking::before(server, |builder| next(more(builder))).await;
        Self { asking, log }
    }

    fn call(&self, path: &str, body: &str, edits: &str) -> RequestBuilder {
        let request = self.asking.gate.request(Method::POST, path).body(body.to_owned());
        request.header("x-ask-at", "admit").header("x-answer", "log").header("x-ask", edits)
    }

    /// What the backend is sent of this call.
    async fn sent(&mut self, path: &str, body: &str, edits: &str) -> String {
        let answer = answer(self.call(path, body, edits)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        self.asking.server.seen().await.body
    }

    /// What the policy reads of its edits, none of which happens.
    async fn refused(&self, path: &str, body: &str, edit: &str) -> String {
        let request = self.asking.gate.request(Method::POST, path).body(body.to_owned());
        let answer = answer(request.header("x-ask-at", "admit").header("x-ask", edit)).await;
        assert_eq!(answer.status, 403, "{answer:?}");
        answer.body
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_value_is_set_or_taken_out_and_the_rest_of_the_body_stays_as_it_came() {
    let mut bench = Bench::start().await;
    for (path, body, edits, expected) in [
        (
            "/api/chat",
            r#"{ "model":"llama3:latest" , "messages":[], "x":1.50,"e":"\u00e9" }"#,
            "set-json /options/num_ctx 8192 | set-json /keep_alive \"5m\"",
            r#"{"keep_alive":"5m","options":{"num_ctx":8192}, "model":"llama3:latest" , "messages":[], "x":1.50,"e":"\u00e9" }"#,
        ),
        (
            "/api/generate",
            r#"{"model":"llama3:latest","options":null,"prompt":"a"}"#,
            "set-json /options/num_ctx 1 | remove-json /prompt | remove-json /nothing/there",
            r#"{"model":"llama3:latest","options":{"num_ctx":1}}"#,
        ),
        (
            CHAT,
            r#"{"model":"llama3:latest","messages":[{"role":"user","content":"a"},{"role":"user"}]}"#,
            "set-json /messages/0/content \"b\" | remove-json /messages/1",
            r#"{"model":"llama3:latest","messages":[{"role":"user","content":"b"}]}"#,
        ),
        (
            "/v1/messages",
            r#"{"model":"llama3:latest","max_tokens":9,"messages":[]}"#,
            "set-json /max_tokens 5",
            r#"{"model":"llama3:latest","max_tokens":5,"messages":[]}"#,
        ),
        (
            "/v1/responses",
            r#"{"model":"llama3:latest","input":"a"}"#,
            "set-json /max_output_tokens 5",
            r#"{"max_output_tokens":5,"model":"llama3:latest","input":"a"}"#,
        ),
        (
            "/v1/completions",
            r#"{"model":"llama3:latest","prompt":"a"}"#,
            "set-json /n 2",
            r#"{"n":2,"model":"llama3:latest","prompt":"a"}"#,
        ),
        (
            "/api/embed",
            r#"{"model":"llama3:latest","input":["a"]}"#,
            "set-json /truncate true",
            r#"{"truncate":true,"model":"llama3:latest","input":["a"]}"#,
        ),
        (
            "/v1/embeddings",
            r#"{"model":"llama3:latest","input":["a"]}"#,
            "remove-json /input/0",
            r#"{"model":"llama3:latest","input":[]}"#,
        ),
        (
            "/api/show",
            r#"{"name":"llama3:latest"}"#,
            "set-json /verbose true",
            r#"{"verbose":true,"name":"llama3:latest"}"#,
        ),
    ] {
        assert_eq!(bench.sent(path, body, edits).await, expected, "{path}");
    }
}

#[tokio::test]
async fn another_model_runs_where_a_policy_sets_it_on_every_surface() {
    let mut bench = Bench::start().await;
    for (path, body, expected) in [
        ("/api/chat", r#"{"model":"llama3","messages":[]}"#, r#"{"model":"small:1b","messages":[]}"#),
        ("/api/generate", r#"{"prompt":"a","model":"none-has-it"}"#, r#"{"prompt":"a","model":"small:1b"}"#),
        ("/api/embed", r#"{"model":"llama3"}"#, r#"{"model":"small:1b"}"#),
        (CHAT, r#"{"model":"llama3"}"#, r#"{"model":"small:1b"}"#),
        ("/v1/completions", r#"{"model":"llama3"}"#, r#"{"model":"small:1b"}"#),
        ("/v1/responses", r#"{"model":"llama3"}"#, r#"{"model":"small:1b"}"#),
        ("/v1/messages", r#"{"model":"llama3"}"#, r#"{"model":"small:1b"}"#),
        ("/api/show", r#"{"name":"llama3"}"#, r#"{"name":"small:1b"}"#),
    ] {
        assert_eq!(bench.sent(path, body, "set-model Small:1b").await, expected, "{path}");
    }
    let by_path = bench.asking.gate.request(Method::GET, "/v1/models/llama3");
    let by_path = by_path.header("x-ask-at", "admit").header("x-answer", "log").header("x-ask", "set-model small:1b");
    assert_eq!(answer(by_path).await.json()["id"], "small:1b");
}

#[tokio::test]
async fn a_policy_behind_sees_the_edited_call_and_its_facts() {
    let bench = Bench::start().await;
    let body = r#"{"model":"llama3","messages":[],"max_tokens":7}"#;
    let edits = "set-model small:1b | set-json /max_tokens 50 | set-json /n 2";
    let edited = r#"{"n":2,"model":"small:1b","messages":[],"max_tokens":50}"#;
    let length = edited.len();
    let call = bench.call(CHAT, body, edits).header("x-ask-next", "facts").header("x-request-id", "edits-1");
    assert_eq!(answer(call).await.status, 200);
    let facts = format!(
        "next Call {{ surface: Surface::Openai, operation: Operation::Chat, model: \\\"small:1b\\\", \
         body-bytes: {length}, input-tokens: {}, output-cap: Some(100), streaming: false }}",
        length.div_ceil(4)
    );
    bench.log.says(&[&facts]).await;
    let call = bench.call(CHAT, body, edits).header("x-ask-next", "json  | candidates small:1b | json /model");
    assert_eq!(answer(call).await.status, 200);
    // The line is JSON, and the text in it holds JSON.
    let answers = format!("next {} | 1 | {}", edited.replace('"', "\\\""), "\\\"small:1b\\\"");
    bench.log.says(&[&answers]).await;
    // A policy doesn't read its own edits back: they are part of the call once it has decided.
    let own = format!("{edits} | json /max_tokens");
    assert!(bench.refused(CHAT, body, &own).await.contains("ok | ok | ok | 7"));
}

#[tokio::test]
async fn routing_is_by_the_edited_call() {
    let llama = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let small = LlmServer::start("gpu-2", &["small:1b"]).await;
    let builder = TestProxy::builder().backend(&llama).backend(&small);
    let builder = builder.policy("ask-admit", &guest::gallery("ask-admit"));
    // One that picks the second backend, where it is told of a model with so many letters: the other has thirteen.
    let length = "small:1b".len();
    let pick = format!(
        "(i32.store8 (i32.const 2048) (i32.const 3)) (if (i32.eq (local.get 3) (i32.const {length})) (then {}))
         (i32.const 2048)",
        "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052) (i32.const 1))"
    );
    let gate = builder.policy("by-model", &guest::router(&pick)).start().await;
    let served_by = async |model: &str, edits: &str| {
        let body = json!({ "model": model, "messages": [] }).to_string();
        let call = gate.request(Method::POST, CHAT).body(body).header("x-ask-at", "admit").header("x-answer", "log");
        answer(call.header("x-ask", edits)).await.backend().map(str::to_owned)
    };
    for model in ["llama3", "small:1b", "nobody-has-it"] {
        assert_eq!(served_by(model, "set-model small:1b").await.as_deref(), Some("gpu-2"), "{model}");
        assert_eq!(served_by(model, "set-model llama3").await.as_deref(), Some("gpu-1"), "{model}");
    }
    assert_eq!((llama.calls(), small.calls()), (3, 3));
    for (decision, calls) in [("rank", 3.0), ("abstain", 3.0)] {
        let series = format!(
            r#"tollgate_policy_decisions_total{{policy="by-model",hook="route",decision="{decision}",code=""}}"#
        );
        gate.until_metric(&series, calls).await;
    }
}

#[tokio::test]
async fn edits_are_dropped_when_the_policy_or_a_later_one_rejects_or_fails() {
    let bench = Bench::start().await;
    let body = r#"{"model":"llama3","messages":[]}"#;
    let edits = "set-model small:1b | set-response-header x-set 1";
    for (next, status, code) in [("reject", 403, "next"), ("fail", 503, "policy_fault")] {
        let refused = answer(bench.call(CHAT, body, edits).header("x-ask-next", next)).await;
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{refused:?}");
        assert_eq!(refused.header("x-set"), None, "a refusal is the gate's own: {refused:?}");
    }
    let faulty = answer(bench.call(CHAT, body, &format!("{edits} | peer-in x"))).await;
    assert_eq!((faulty.status, faulty.header("x-set")), (503, None), "{faulty:?}");
    assert_eq!(bench.asking.server.calls(), 0);
    bench.asking.gate.until_metric("tollgate_buffered_bytes", 0.0).await;
}

#[tokio::test]
async fn limits_charge_for_the_edited_cap_and_number_of_answers() {
    let bench = Bench::start().await;
    let call = async |edits: &str, capacity: u32| {
        let rule = format!("tokens=output:1000/window:{capacity}:60000");
        let call = bench.call(CHAT, r#"{"model":"llama3","messages":[],"max_tokens":10}"#, edits);
        answer(call.header("x-charge", rule)).await.status
    };
    assert_eq!(call("json /model", 100).await, 200, "10 of 100");
    assert_eq!(call("set-json /max_tokens 101", 100).await, 429);
    assert_eq!(call("set-json /max_tokens 40 | set-json /n 3", 100).await, 429, "120 of 100");
    assert_eq!(call("remove-json /max_tokens | set-json /max_tokens 9", 100).await, 200);
}

#[tokio::test]
async fn the_final_model_must_be_in_the_key_s_scope_and_no_cloud_model() {
    let mut scoped = String::new();
    let bench = Bench::start_with(|mut builder| {
        scoped = builder.add_key("scoped", |key| key.scope = Scope::Models(["llama3:latest".into()].into()));
        builder
    })
    .await;
    let gate = &bench.asking.gate;
    let call = async |model: &str, edits: &str| {
        let body = json!({ "model": model, "messages": [] }).to_string();
        let request = gate.client().post(gate.url(CHAT)).bearer_auth(&scoped).body(body);
        answer(request.header("x-ask-at", "admit").header("x-answer", "log").header("x-ask", edits)).await
    };
    call("llama3", "set-model small:1b").await.refusal(CHAT, 404, "model_not_found");
    call("llama3", "set-model nobody-has-it").await.refusal(CHAT, 404, "model_not_found");
    call("llama3", "set-model big:cloud").await.refusal(CHAT, 403, "cloud_model");
    assert_eq!(bench.asking.server.calls(), 0);
    for asked in ["small:1b", "big:cloud", "nobody-has-it"] {
        assert_eq!(
            call(asked, "set-model llama3").await.status,
            200,
            "what was asked for first doesn't matter: {asked}"
        );
    }
}

#[tokio::test]
async fn headers_reach_the_backend_and_the_caller() {
    let mut bench = Bench::start().await;
    let edits = "set-upstream-header X-Team blue | set-response-header x-note hello | \
                 set-response-header cache-control no-store";
    let body = r#"{"model":"llama3:latest","messages":[]}"#;
    for status in [200, 400, 500] {
        let script = Script::raw(&format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncache-control: max-age=9\r\ncontent-length: 2\r\n\r\n{{}}"
        ));
        bench.asking.server.script(script);
        let answer = answer(bench.call(CHAT, body, edits)).await;
        assert_eq!((answer.status, answer.header("x-note")), (status, Some("hello")), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "it takes the place of the backend's");
        assert_eq!(answer.backend(), Some("gpu-1"));
        let seen = bench.asking.server.seen().await;
        assert_eq!((seen.header("x-team"), seen.body.as_str()), (Some("blue"), body), "headers alone leave the body");
    }
    let list =
        bench.asking.gate.request(Method::GET, "/v1/models").header("x-ask-at", "admit").header("x-answer", "log");
    let list = answer(list.header("x-ask", "set-response-header x-note list")).await;
    assert_eq!((list.status, list.header("x-note")), (200, Some("list")), "on what the gate answers itself too");
}

#[tokio::test]
async fn a_policy_sets_only_headers_that_it_was_granted_once_its_toml_names_any() {
    let terms = "[grants]\nheaders = [\"x-team-\", \"authorization-\"]";
    let mut bench = Bench::start_with(|builder| builder.policy_terms("ask-admit", terms)).await;
    bench.log.says(&["the policy is in force", "\"ask-admit\"", "headers x-team- authorization-"]).await;
    let body = r#"{"model":"llama3:latest","messages":[]}"#;
    for edit in ["set-upstream-header X-Note 1", "set-response-header x-team 1"] {
        let said = bench.refused(CHAT, body, edit).await;
        assert!(said.contains("is not granted to this policy"), "{said}");
        assert!(said.contains("to `headers` under [grants] in ask-admit.toml"), "{said}");
    }
    let never = bench.refused(CHAT, body, "set-upstream-header authorization 1").await;
    assert!(never.contains("not a policy's to set"), "{never}");
    let edits = "set-upstream-header X-Team-Blue 1 | set-response-header x-team-blue 2";
    let answer = answer(bench.call(CHAT, body, edits)).await;
    assert_eq!((answer.status, answer.header("x-team-blue")), (200, Some("2")), "{answer:?}");
    assert_eq!(bench.asking.server.seen().await.header("x-team-blue"), Some("1"));
    // The policy behind it has no such line, and may set what policies may.
    let next = bench.call(CHAT, body, "path").header("x-ask-next", "set-response-header x-note 3");
    assert_eq!(self::answer(next).await.header("x-note"), Some("3"));
    bench.asking.gate.put_policy_terms("ask-admit", "grants.headers = []");
    bench.log.says(&["the policy is in force", "\"ask-admit\"", "no headers"]).await;
    let said = bench.refused(CHAT, body, "set-upstream-header x-team-blue 1").await;
    assert!(said.contains("is not granted to this policy"), "{said}");
}

#[tokio::test]
async fn headers_of_all_policies_together_are_bounded_and_who_finds_no_room_is_told() {
    let bench = Bench::start().await;
    let body = r#"{"model":"llama3","messages":[]}"#;
    let many = (0..16).map(|at| format!("set-response-header x-{at} 1")).collect::<Vec<_>>().join(" | ");
    for _ in 0..8 {
        let call = bench.call(CHAT, body, &many);
        let call = call.header("x-ask-next", "set-response-header x-more 1 | set-response-header x-0 2");
        let answer = answer(call).await;
        let set = (answer.header("x-0"), answer.header("x-15"), answer.header("x-more"));
        assert_eq!((answer.status, set), (200, (Some("2"), Some("1"), None)), "{answer:?}");
    }
    bench.log.says(&["next policies may set 16 headers each way in one call | ok"]).await;
    assert!(bench.log.lines_with(&["policy_fault"]).is_empty());
}

#[tokio::test]
async fn hostile_edits_change_nothing_and_say_why() {
    let bench = Bench::start().await;
    let body = r#"{"model":"llama3","messages":[{}],"s":"x","stream":false}"#;
    let deep = format!("set-json {} 1", "/a".repeat(33));
    let nested = format!("set-json /a {}1{}", "[".repeat(64), "]".repeat(64));
    for (edit, why) in [
        ("set-json /stream true", "the caller's choice"),
        ("remove-json /stream", "the caller's choice"),
        ("set-json /stream/x true", "the caller's choice"),
        ("set-json /stream_options {}", "the caller's choice"),
        ("set-json /STREAM true", "not in plain lower case"),
        ("set-json /model 1", "set-model"),
        ("set-json  {}", "the whole body"),
        ("set-json x 1", "does not start with"),
        (deep.as_str(), "more than 32 segments"),
        (nested.as_str(), "nested more than 64 levels"),
        ("set-json /messages/1 {}", "has no such item"),
        ("set-json /messages/- {}", "has no such item"),
        ("set-json /messages/00 {}", "has no such item"),
        ("set-json /s/x 1", "neither an object nor an array"),
        ("set-json /a {", "not one JSON value"),
        ("set-json /a 1,\"model\":\"b\"", "not one JSON value"),
        ("set-json /a {\"b\":1,\"b\":2}", "stands twice"),
        ("set-json /messages/0 {\"Role\":1}", "not in plain lower case"),
        ("set-json /max_tokens \"x\"", "not a number"),
        ("set-json-of /a 70000", "more than 65536 bytes"),
        ("set-model a@b", "model name"),
        ("set-model ", "model name"),
        ("set-two-lines x-a first", "on one line"),
        ("set-upstream-header Authorization x", "not a policy's to set"),
        ("set-upstream-header Content-Length 3", "not a policy's to set"),
        ("set-upstream-header TRANSFER-ENCODING chunked", "not a policy's to set"),
        ("set-upstream-header X-Forwarded-For 1.2.3.4", "not a policy's to set"),
        ("set-upstream-header host evil", "not a policy's to set"),
        ("set-response-header Set-Cookie a=b", "not a policy's to set"),
        ("set-response-header Access-Control-Allow-Origin *", "not a policy's to set"),
        ("set-response-header X-Request-Id 1", "not a policy's to set"),
        ("set-response-header x-tollgate-backend 1", "not a policy's to set"),
    ] {
        let said: Value = serde_json::from_str(&bench.refused(CHAT, body, edit).await).unwrap();
        let said = said["error"]["message"].as_str().unwrap();
        assert!(said.contains(why), "{edit}: {said}");
    }
    let many = vec!["set-json /a 1"; 65].join(" | ");
    assert!(bench.refused(CHAT, body, &format!("{many} | path")).await.contains("64 edits"));
    assert_eq!(bench.asking.server.calls(), 0);
    let pull = bench.asking.gate.request(Method::POST, "/api/pull").body(r#"{"model":"a"}"#);
    assert_eq!(answer(pull).await.status, 403, "this key changes no backend");
}

#[tokio::test]
async fn what_changes_a_backend_passes_as_it_came() {
    let bench = Bench::start_with(Builder::managing).await;
    let said =
        bench.refused("/api/pull", r#"{"model":"a"}"#, "set-model b | set-json /insecure true | remove-json /x").await;
    assert_eq!(said.matches("calls that change a backend can't be edited").count(), 3, "{said}");
}

#[tokio::test]
async fn an_edited_body_keeps_the_bounds_of_any_body() {
    let bench =
        Bench::start_with(|builder| builder.set("server.max_body = \"4KiB\"").set("server.max_buffered = \"8KiB\""))
            .await;
    let body = format!(r#"{{"model":"llama3","messages":[],"s":"{}"}}"#, "x".repeat(1500));
    let said = bench.refused(CHAT, &body, "set-json-of /a 2000 | set-json-of /b 2000").await;
    assert!(said.contains("ok | the body may have 4096 bytes, and would have more"), "{said}");
    bench.asking.gate.until_metric("tollgate_buffered_bytes", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_is_edited_like_any_other() {
    let mut bench = Bench::start().await;
    let rest = format!(r#""model":"llama3:latest","messages":[],"s":"{}"}}"#, "x".repeat(1 << 20));
    let sent = bench.sent(CHAT, &format!("{{{rest}"), "set-json /max_tokens 5").await;
    assert!(sent == format!(r#"{{"max_tokens":5,{rest}"#), "{} bytes", sent.len());
}

#[tokio::test]
async fn a_stream_that_tells_its_usage_to_the_gate_alone_can_be_edited_too() {
    let mut bench = Bench::start().await;
    let usage = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}\n\n";
    let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    bench.asking.server.script(Script::sse().chunk(piece).chunk(usage).chunk("data: [DONE]\n\n").end());
    let body = r#"{"model":"llama3","messages":[],"stream":true}"#;
    let edits = "set-model small:1b | set-json /max_tokens 3 | set-response-header x-note s";
    let answer = answer(bench.call(CHAT, body, edits)).await;
    assert_eq!((answer.body.as_str(), answer.header("x-note")), (&*format!("{piece}data: [DONE]\n\n"), Some("s")));
    let sent = bench.asking.server.seen().await.body;
    let expected =
        r#"{"stream_options":{"include_usage":true},"max_tokens":3,"model":"small:1b","messages":[],"stream":true}"#;
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn edits_belong_to_admit() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    for hook in ["authenticate", "route"] {
        for edit in
            ["set-model a", "set-json /a 1", "remove-json /a", "set-upstream-header x-a 1", "set-response-header x-a 1"]
        {
            let answer = answer(asking.call(hook, edit)).await;
            assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{edit} at {hook}");
            let name = edit.split(' ').next().unwrap();
            log.says(&[&format!("it called `edits.{name}`, which may not be called in {hook}")]).await;
        }
    }
    assert_eq!(asking.server.calls(), 0);
}

#[tokio::test]
async fn what_no_policy_edits_goes_out_as_it_came() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server);
    let gate = builder.policy("ask-admit", &guest::gallery("ask-admit")).start().await;
    let body = " { \"model\" : \"llama3:latest\",\"x\":1.0e1 ,\"messages\":[ ] } ";
    assert_eq!(gate.post_text(CHAT, body).await.status, 200);
    assert_eq!(server.seen().await.body, body);
    let refused = gate.request(Method::POST, CHAT).body(body).header("x-ask-at", "admit");
    let refused = told(refused.header("x-ask", "set-json /a {")).await;
    assert!(refused.contains("not one JSON value"), "{refused}");
}
