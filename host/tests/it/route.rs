//! Which backend a call goes to, and which calls go nowhere.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use http::Method;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tollgate::ports::keys::Scope;

use crate::support::{Answer, LlmServer, Script, TestProxy, guest, soon};

const SHARED: [&str; 6] = [
    "LLAMA3",
    "llama3",
    "llama3:latest",
    "library/llama3",
    "registry.ollama.ai/library/llama3:latest",
    "Registry.Ollama.AI/Library/Llama3:LATEST",
];
const OF_ONE: [&str; 3] = ["phi4:14b", "library/PHI4:14B", "registry.ollama.ai/library/phi4:14b"];
const OF_TWO: [&str; 3] = ["bob/qwen:7b", "Bob/Qwen:7B", "registry.ollama.ai/bob/qwen:7b"];
const PATHS: [&str; 6] =
    ["/api/chat", "/api/generate", "/api/embed", "/api/show", "/v1/chat/completions", "/v1/embeddings"];

fn ask(model: &str) -> Value {
    json!({ "model": model, "messages": [], "stream": false })
}

/// Two servers that share one model and own one each, not spelled alike.
async fn two() -> (LlmServer, LlmServer) {
    let one = LlmServer::start("gpu-1", &["llama3:latest", "phi4:14b"]).await;
    (one, LlmServer::start("gpu-2", &["LLaMA3:Latest", "bob/Qwen:7B"]).await)
}

fn lists_asked(server: &LlmServer) -> usize {
    server.control_paths().iter().filter(|path| *path == "/api/tags").count()
}

/// An order of the numbers below `length`, another one for each seed.
fn shuffled(length: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let keys = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    });
    let mut keyed: Vec<(u64, usize)> = keys.zip(0..length).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, n)| n).collect()
}

#[test]
fn orders_are_orders_and_differ() {
    let (mut one, two) = (shuffled(24, 1), shuffled(24, 2));
    assert_ne!(one, two);
    one.sort_unstable();
    assert_eq!(one, (0..24).collect::<Vec<_>>());
}

#[tokio::test]
async fn calls_alternate_on_the_shared_model_and_go_to_the_owner_otherwise_in_any_order_and_spelling() {
    let (mut one, mut two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let names: Vec<&str> = SHARED.into_iter().chain(SHARED).chain(OF_ONE).chain(OF_TWO).collect();
    let mut last_shared: Option<String> = None;
    for seed in 0..6 {
        for (number, at) in shuffled(names.len(), seed).into_iter().enumerate() {
            let (name, path) = (names[at], PATHS[number % PATHS.len()]);
            let answer = gate.post(path, &ask(name)).await;
            let what = format!("order {seed}, call {number}, {path} with {name:?}: {answer:?}");
            assert_eq!(answer.status, 200, "{what}");
            let backend = answer.backend().unwrap().to_owned();
            let seen = if backend == "gpu-1" { one.seen().await } else { two.seen().await };
            assert_eq!(seen.path, path, "{what}");
            let own = if OF_ONE.contains(&name) {
                assert_eq!(backend, "gpu-1", "{what}");
                "phi4:14b"
            } else if OF_TWO.contains(&name) {
                assert_eq!(backend, "gpu-2", "{what}");
                "bob/Qwen:7B"
            } else {
                assert_ne!(Some(&backend), last_shared.as_ref(), "two in a row: {what}");
                last_shared = Some(backend.clone());
                if backend == "gpu-1" { "llama3:latest" } else { "LLaMA3:Latest" }
            };
            assert_eq!(seen.json()["model"], own, "the backend's own spelling: {what}");
        }
    }
    assert_eq!((one.calls(), two.calls()), (54, 54), "108 calls: 36 and 18 for each");
}

#[tokio::test]
async fn calls_at_the_same_time_are_split_evenly_too() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let bodies: Vec<Value> = SHARED.iter().cycle().take(60).map(|name| ask(name)).collect();
    let answers = join_all(bodies.iter().map(|body| gate.post("/api/chat", body))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!((one.calls(), two.calls()), (30, 30));
}

#[tokio::test]
async fn nothing_of_a_body_changes_but_the_spelling_of_the_model() {
    let mut server = LlmServer::start("gpu-1", &["Llama3:latest"]).await;
    let gate = TestProxy::before(&[&server]).await;
    let body = |model: &str| {
        format!(
            "\n{{ \"n\":1e2,\"x\" : {{\"model\":\"LLAMA3\"}} ,\"model\":{model}, \"messages\":[ {{\"content\":\"\\u00e9 é\"}}]}}\t"
        )
    };
    for model in ["\"LLAMA3\"", "\"\\u006clama3\"", "\" llama3 \"", "\"Llama3:latest\""] {
        assert_eq!(gate.post_text("/api/chat", body(model)).await.status, 200, "{model}");
        assert_eq!(server.seen().await.body, body("\"Llama3:latest\""), "{model}");
    }
}

#[tokio::test]
async fn a_tag_is_a_part_of_the_name() {
    let one = LlmServer::start("gpu-1", &["llama3:70b"]).await;
    let two = LlmServer::start("gpu-2", &["llama3:8b", "bob/llama3:latest"]).await;
    let gate = TestProxy::before(&[&one, &two]).await;
    for name in ["llama3", "llama3:latest", "llama3:7b", "llama3:70", "library/llama3", "llama", "alice/llama3"] {
        assert_eq!(gate.post("/api/chat", &ask(name)).await.status, 404, "{name}");
    }
    for _ in 0..3 {
        assert_eq!(gate.post("/api/chat", &ask("llama3:70B")).await.backend(), Some("gpu-1"));
        assert_eq!(gate.post("/api/chat", &ask("llama3:8b")).await.backend(), Some("gpu-2"));
        assert_eq!(gate.post("/api/chat", &ask("bob/llama3")).await.backend(), Some("gpu-2"));
    }
}

/// That there is no such model, in the dialect of the path.
fn check_unknown(answer: &Answer, path: &str, model: &str) {
    let message = format!("model '{model}' not found");
    let wanted = if path.starts_with("/v1/") {
        let error =
            json!({ "message": message, "type": "invalid_request_error", "param": null, "code": "model_not_found" });
        json!({ "error": error })
    } else {
        json!({ "error": message })
    };
    assert_eq!((answer.status, answer.json()), (404, wanted), "{path}: {answer:?}");
}

#[tokio::test]
async fn an_unknown_model_is_a_404_in_each_dialect_after_one_look_at_the_lists() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let before = (lists_asked(&one), lists_asked(&two));
    for path in PATHS {
        check_unknown(&gate.post(path, &ask("NoSuch:1b")).await, path, "NoSuch:1b");
    }
    check_unknown(&gate.get("/v1/models/NoSuch:1b").await, "/v1/models/", "NoSuch:1b");
    assert_eq!((lists_asked(&one), lists_asked(&two)), (before.0 + 1, before.1 + 1));
    assert_eq!(one.calls() + two.calls(), 0);
}

#[tokio::test]
async fn fifty_unknown_models_at_once_are_one_look_at_the_lists_and_so_is_each_five_seconds() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let before = (lists_asked(&one), lists_asked(&two));
    for looks in 1..=3 {
        let bodies: Vec<Value> = (0..50).map(|n| ask(&format!("no-such-{n}"))).collect();
        let answers = join_all(bodies.iter().map(|body| gate.post("/api/chat", body))).await;
        assert!(answers.iter().all(|answer| answer.status == 404), "{answers:?}");
        gate.hand.advance(Duration::from_millis(4_999));
        assert_eq!(gate.post("/api/chat", &ask("no-such")).await.status, 404);
        assert_eq!((lists_asked(&one), lists_asked(&two)), (before.0 + looks, before.1 + looks));
        gate.hand.advance(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_model_pulled_on_a_backend_is_found_when_it_is_first_asked_for() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    one.set_models(&["llama3:latest", "phi4:14b", "new:1b"]);
    assert_eq!(gate.post("/api/chat", &ask("NEW:1b")).await.backend(), Some("gpu-1"));
    two.set_models(&["llama3:latest", "newer:1b"]);
    assert_eq!(gate.post("/api/chat", &ask("newer:1b")).await.status, 404, "it was looked a moment ago");
    gate.hand.advance(Duration::from_secs(5));
    assert_eq!(gate.post("/v1/chat/completions", &ask("newer:1b")).await.backend(), Some("gpu-2"));
    gate.hand.advance(Duration::from_secs(5));
    check_unknown(&gate.post("/api/chat", &ask("bob/qwen:7b")).await, "/api/chat", "bob/qwen:7b");
}

#[tokio::test]
async fn a_model_whose_only_backend_is_down_is_a_503_and_not_a_404() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    two.kill().await;
    gate.until_backend_is("gpu-2", false).await;
    let asked = lists_asked(&one);
    for path in PATHS {
        let answer = gate.post(path, &ask("Bob/qwen:7b")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{path}: {answer:?}");
        let error = &answer.json()["error"];
        let message = if path.starts_with("/v1/") { &error["message"] } else { error };
        assert_eq!(message, "no backend that has model 'Bob/qwen:7b' is up: try again soon");
        assert_eq!(answer.code(), if path.starts_with("/v1/") { "no_backend" } else { "" });
    }
    assert_eq!(lists_asked(&one), asked, "it is known: there is nothing to look for");
}

#[tokio::test]
async fn a_model_out_of_the_key_s_scope_is_answered_exactly_like_one_that_is_nowhere() {
    let server = LlmServer::start("gpu-1", &["llama3:latest", "secret:latest"]).await;
    let mut builder = TestProxy::builder().backend(&server);
    let key = builder.add_key("one-model", |key| {
        key.scope = Scope::Models(["absent:latest", "llama3:latest"].map(Into::into).into());
    });
    let gate = builder.start().await;
    let told = |answer: Answer, name: &str| {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &answer.headers {
            headers.insert(name.to_string(), value.to_str().unwrap().to_owned());
        }
        let id = headers.remove("x-request-id");
        assert!(id.is_some() && headers.remove("date").is_some(), "{headers:?}");
        (answer.status, headers, answer.body.replace(name, "it"))
    };
    for path in PATHS {
        let [secret, nowhere, absent] = ["secret", "nosuch", "absent"];
        let secret = told(gate.post_as(&key, path, &ask(secret)).await, secret);
        assert_eq!(secret.0, 404);
        assert_eq!(secret, told(gate.post_as(&key, path, &ask(nowhere)).await, nowhere), "{path}");
        assert_eq!(secret, told(gate.post_as(&key, path, &ask(absent)).await, absent), "{path}");
        assert_eq!(gate.post_as(&key, path, &ask("LLAMA3")).await.status, 200, "{path}");
    }
    let get = async |name: &str| {
        let request = gate.client().get(gate.url(&format!("/v1/models/{name}"))).bearer_auth(&key);
        told(Answer::of(request.send().await.unwrap()).await, name)
    };
    assert_eq!(get("secret").await, get("nosuch").await);
    assert_eq!(get("llama3").await.0, 200);
    assert_eq!(gate.post("/api/chat", &ask("secret")).await.status, 200, "another key may");
}

#[tokio::test]
async fn an_openai_server_s_names_are_exact_and_it_serves_only_openai_s_paths() {
    let vllm = LlmServer::start("vllm", &["Qwen/Qwen2.5-7B", "llama3"]).await;
    let ollama = LlmServer::start("ollama", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend_at("vllm", &vllm.url(), "openai").backend(&ollama).start().await;

    let answer = gate.post("/v1/chat/completions", &ask("Qwen/Qwen2.5-7B")).await;
    assert_eq!((answer.status, answer.backend()), (200, Some("vllm")));
    for name in ["qwen/qwen2.5-7b", "Qwen/Qwen2.5-7B:latest", "library/Qwen/Qwen2.5-7B"] {
        check_unknown(&gate.post("/v1/chat/completions", &ask(name)).await, "/v1/", name);
    }
    let answer = gate.post("/api/chat", &ask("Qwen/Qwen2.5-7B")).await;
    let told = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(answer.status == 404 && told.contains("no backend that has model 'Qwen/Qwen2.5-7B' serves this"), "{told}");

    // The one name that both read alike; any other spelling of it is Ollama's alone.
    let mut served = Vec::new();
    for name in ["llama3", "llama3", "llama3:latest", "LLAMA3"] {
        served.push(gate.post("/v1/chat/completions", &ask(name)).await.backend().unwrap().to_owned());
    }
    served[..2].sort();
    assert_eq!(served, ["ollama", "vllm", "ollama", "ollama"]);
    for _ in 0..4 {
        assert_eq!(gate.post("/api/chat", &ask("llama3")).await.backend(), Some("ollama"));
    }
    assert!(vllm.control_paths().iter().all(|path| path == "/v1/models"), "{:?}", vllm.control_paths());
}

/// A policy that picks the backend of which this expression, over the address of its facts in `$at`, is least.
fn least(value: &str) -> Vec<u8> {
    guest::router(&format!(
        "(local $at i32) (local $end i32) (local $least i32) (local $best i32) (local $value i32)
         (local.set $at (local.get 14))
         (local.set $end (i32.add (local.get 14) (i32.mul (local.get 15) (i32.const 48))))
         (local.set $least (i32.const -1))
         (loop $next
            (local.set $value {value})
            (if (i32.lt_u (local.get $value) (local.get $least))
                (then (local.set $least (local.get $value)) (local.set $best (i32.load (local.get $at)))))
            (local.set $at (i32.add (local.get $at) (i32.const 48)))
            (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
         (i32.store8 (i32.const 2048) (i32.const 0))
         (i32.store (i32.const 2052) (local.get $best))
         (i32.const 2048)"
    ))
}

/// A gate before two servers with the same two models, with such a policy.
async fn gate_by(value: &str) -> (LlmServer, LlmServer, TestProxy) {
    let one = LlmServer::start("gpu-1", &["llama3:latest", "phi4:latest"]).await;
    let two = LlmServer::start("gpu-2", &["phi4:latest", "llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&one).backend(&two).policy("least", &least(value)).start().await;
    (one, two, gate)
}

async fn served_by(gate: &TestProxy, model: &str) -> String {
    let answer = gate.post("/api/chat", &ask(model)).await;
    answer.backend().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// A stream on `server`, whose turn it must be, that runs until its gate opens.
async fn hold(gate: &TestProxy, server: &LlmServer, model: &str) -> (Response, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    server.script(Script::ndjson().chunk("{}\n").wait(&go_on).end());
    let request = gate.request(Method::POST, "/api/chat").body(ask(model).to_string());
    let response = soon("the head of an answer", request.send()).await.unwrap();
    assert_eq!(response.headers()["x-tollgate-backend"], server.name());
    (response, go_on)
}

#[tokio::test]
async fn policies_see_the_calls_in_flight_as_they_come_and_go() {
    let (one, two, gate) = gate_by("(i32.load offset=8 (local.get $at))").await;
    assert_eq!(served_by(&gate, "llama3").await, "gpu-1", "of equals the first");
    let (first, first_ends) = hold(&gate, &one, "llama3").await;
    assert_eq!(served_by(&gate, "llama3").await, "gpu-2");
    assert_eq!(served_by(&gate, "phi4").await, "gpu-2", "another model's calls count as well");
    let (second, _second_ends) = hold(&gate, &two, "llama3").await;
    assert_eq!(served_by(&gate, "llama3").await, "gpu-1", "one each");
    first_ends.notify_one();
    soon("the end of the stream", first.text()).await.unwrap();
    let (_third, _third_ends) = hold(&gate, &one, "llama3").await;
    drop(second);
    gate.until_metric("tollgate_requests_in_flight", 1.0).await;
    assert_eq!(served_by(&gate, "llama3").await, "gpu-2", "a caller who left is in flight no more");
}

#[tokio::test]
async fn policies_see_the_calls_in_flight_of_the_model_alone() {
    let (one, _two, gate) = gate_by("(i32.load offset=12 (local.get $at))").await;
    let (_response, _ends) = hold(&gate, &one, "llama3").await;
    assert_eq!(served_by(&gate, "llama3").await, "gpu-2");
    assert_eq!(served_by(&gate, "phi4").await, "gpu-1");
}

#[tokio::test]
async fn policies_see_how_long_the_first_token_took_for_each_model() {
    // Unknown counts as 0 here, so that each backend is tried first.
    let (one, two, gate) =
        gate_by("(i32.mul (i32.load8_u offset=28 (local.get $at)) (i32.load offset=32 (local.get $at)))").await;
    for (mut server, name, ms) in [(one, "gpu-1", 80), (two, "gpu-2", 10)] {
        let go_on = Arc::new(Notify::new());
        server.script(Script::ndjson().wait(&go_on).chunk("{}\n").end());
        let slow = async {
            server.seen().await;
            gate.hand.advance(Duration::from_millis(ms));
            go_on.notify_one();
        };
        assert_eq!(tokio::join!(served_by(&gate, "llama3"), slow).0, name);
        if ms == 80 {
            assert_eq!(served_by(&gate, "phi4").await, "gpu-1", "nothing is known of another model");
        }
    }
    for _ in 0..3 {
        assert_eq!(served_by(&gate, "llama3").await, "gpu-2", "the quicker one");
    }
}

#[tokio::test]
async fn policies_see_the_share_of_failed_calls_and_what_is_loaded() {
    let (one, _two, gate) = gate_by("(i32.load16_u offset=44 (local.get $at))").await;
    one.script(Script::json(500, "{}"));
    assert_eq!(gate.post("/api/chat", &ask("llama3")).await.status, 500);
    assert_eq!(served_by(&gate, "llama3").await, "gpu-2");
    let (_one, _two, gate) = gate_by("(i32.sub (i32.const 1) (i32.load8_u offset=46 (local.get $at)))").await;
    assert_eq!(served_by(&gate, "llama3").await, "gpu-1");
    assert_eq!(served_by(&gate, "phi4").await, "gpu-2");
}
