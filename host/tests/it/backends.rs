//! Backends that are added, removed and drained while the gate serves.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::Method;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};
use tollgate::{
    config::{self, BackendKind, BackendUrl},
    llm::listing,
    ports::store::{Store, StoredBackend},
    store::SqliteStore,
    upstream::declared::{DeclaredBackend, Origin},
};

use crate::support::{Answer, LlmServer, Script, TestProxy, binary, rpm, soon, until};

const CHAT: &str = "/api/chat";

fn ask(model: &str) -> Value {
    json!({ "model": model, "messages": [] })
}

fn declared(server: &LlmServer) -> DeclaredBackend {
    declared_at(server.name(), &server.url())
}

fn declared_at(name: &str, url: &str) -> DeclaredBackend {
    let url = BackendUrl::parse(url, false).unwrap();
    let config = config::Backend { name: name.to_owned(), url, kind: BackendKind::Ollama, weight: 1, anthropic: false };
    DeclaredBackend::of_config(&config)
}

fn drained(server: &LlmServer) -> DeclaredBackend {
    DeclaredBackend { is_drained: true, ..declared(server) }
}

/// Two servers that share `llama3`; each has a model of its own besides.
async fn two() -> (LlmServer, LlmServer) {
    let one = LlmServer::start("gpu-1", &["llama3:latest", "only-1:latest"]).await;
    (one, LlmServer::start("gpu-2", &["llama3:latest", "only-2:latest"]).await)
}

fn names(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let models = json["models"].as_array().or(json["data"].as_array()).unwrap();
    models.iter().map(|model| model["name"].as_str().or(model["id"].as_str()).unwrap().to_owned()).collect()
}

/// A stream on this server, of which the first piece has come.
async fn begin_on(gate: &TestProxy, server: &LlmServer, model: &str, go_on: &Arc<Notify>) -> Response {
    server.script(Script::ndjson().chunk("{}\n").wait(go_on).chunk("{\"done\":true}\n").end());
    let call = gate.request(Method::POST, CHAT).body(ask(model).to_string());
    let mut response = soon("the head of an answer", call.send()).await.unwrap();
    assert_eq!(response.headers()["x-tollgate-backend"], server.name());
    assert_eq!(soon("the first piece", response.chunk()).await.unwrap().unwrap(), "{}\n");
    response
}

async fn check_ends_well(mut response: Response, go_on: &Notify) {
    go_on.notify_one();
    assert_eq!(soon("the last piece", response.chunk()).await.unwrap().unwrap(), "{\"done\":true}\n");
    assert!(soon("the end", response.chunk()).await.unwrap().is_none());
}

/// Which backends answered so many calls, sorted.
async fn answered_by(gate: &TestProxy, calls: usize) -> Vec<String> {
    let mut backends = Vec::new();
    for _ in 0..calls {
        let answer = gate.post(CHAT, &ask("llama3")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        backends.push(answer.backend().unwrap().to_owned());
    }
    backends.sort();
    backends
}

/// Waits until so many more calls have reached a server.
async fn until_calls(server: &LlmServer, more: usize) {
    let before = server.calls();
    until("calls", || async { server.calls() >= before + more }).await;
}

/// How often a server was asked whether it is up.
fn probes(server: &LlmServer) -> usize {
    server.control_paths().iter().filter(|path| *path == "/api/version").count()
}

async fn until_probed_again(server: &LlmServer) {
    let before = probes(server);
    until("two more probes", || async { probes(server) >= before + 2 }).await;
}

#[tokio::test]
async fn a_backend_that_is_added_is_looked_at_and_gets_calls() {
    let (one, two) = two().await;
    let gate = TestProxy::builder().backend(&one).set("upstream.probe_interval = \"1h\"").start().await;
    assert_eq!(gate.post(CHAT, &ask("only-2")).await.status, 404);
    let added = DeclaredBackend { origin: Origin::Store, ..declared(&two) };
    gate.fleet().apply(&[declared(&one), added]);
    until("its models", || async { gate.post(CHAT, &ask("only-2")).await.status == 200 }).await;
    assert_eq!(answered_by(&gate, 4).await, ["gpu-1", "gpu-1", "gpu-2", "gpu-2"]);
    let status = gate.fleet().describe();
    let seen: Vec<_> = status.iter().map(|of| (of.id, &*of.name, of.origin, of.is_up, of.models)).collect();
    assert_eq!(seen, [(0, "gpu-1", Origin::Config, true, 2), (1, "gpu-2", Origin::Store, true, 2)]);
    assert_eq!(status[1].version.as_deref(), Some("0.9.1"));
    assert_eq!(status[1].url.to_string(), two.url());
}

#[tokio::test]
async fn a_backend_that_is_removed_finishes_its_calls_and_leaves_nothing_behind() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let go_on = Arc::new(Notify::new());
    let running = begin_on(&gate, &two, "only-2", &go_on).await;
    assert_eq!(gate.metric(r#"tollgate_backend_in_flight{backend="gpu-2"}"#).await, 1.0);

    gate.fleet().apply(&[declared(&one)]);
    assert_eq!(gate.post(CHAT, &ask("only-2")).await.status, 404, "nobody has it any more");
    assert_eq!(answered_by(&gate, 3).await, ["gpu-1"; 3]);
    assert_eq!(names(&gate.get("/api/tags").await), ["llama3:latest", "only-1:latest"]);
    let metrics = gate.admin("/metrics").await.body;
    assert!(!metrics.contains("gpu-2") && metrics.contains("gpu-1"), "{metrics}");
    check_ends_well(running, &go_on).await;

    // Both were probed at the same pace; from now on only one is.
    until_probed_again(&one).await;
    let before = probes(&two);
    until_probed_again(&one).await;
    assert_eq!(probes(&two), before);

    gate.fleet().apply(&[declared(&one), declared(&two)]);
    until("its models", || async { gate.post(CHAT, &ask("only-2")).await.status == 200 }).await;
    let ids: Vec<u32> = gate.fleet().backends().iter().map(|backend| backend.id()).collect();
    assert_eq!(ids, [0, 2], "an id is never used again");
}

#[tokio::test]
async fn a_drained_backend_finishes_its_calls_and_gets_no_new_ones_until_it_is_drained_no_more() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let go_on = Arc::new(Notify::new());
    let running = begin_on(&gate, &two, "only-2", &go_on).await;

    gate.fleet().apply(&[declared(&one), drained(&two)]);
    assert_eq!(answered_by(&gate, 4).await, ["gpu-1"; 4]);
    let refused = gate.post(CHAT, &ask("only-2")).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
    for path in ["/api/tags", "/v1/models"] {
        assert_eq!(names(&gate.get(path).await), ["llama3:latest", "only-1:latest"], "{path}");
    }
    assert_eq!(gate.get("/v1/models/only-2:latest").await.status, 404);
    assert_eq!(gate.metric(r#"tollgate_backend_drained{backend="gpu-2"}"#).await, 1.0);
    until_probed_again(&two).await;
    assert_eq!(gate.metric(r#"tollgate_backend_up{backend="gpu-2"}"#).await, 1.0, "drained is not down");
    check_ends_well(running, &go_on).await;

    gate.fleet().apply(&[drained(&one), drained(&two)]);
    for path in [CHAT, "/v1/chat/completions"] {
        let refused = gate.post(path, &ask("llama3")).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
    }
    assert_eq!(names(&gate.get("/api/tags").await), [""; 0]);
    assert_eq!(gate.admin("/readyz").await.status, 503, "nobody takes calls");

    gate.fleet().apply(&[declared(&one), declared(&two)]);
    assert_eq!(answered_by(&gate, 4).await, ["gpu-1", "gpu-1", "gpu-2", "gpu-2"]);
    assert_eq!(gate.post(CHAT, &ask("only-2")).await.status, 200);
}

#[tokio::test]
async fn who_stays_stays_known_when_others_come_and_go() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one, &two]).await;
    let before = gate.fleet().named("gpu-1").unwrap();
    let mut heavier = declared(&one);
    heavier.config.weight = 7;
    gate.fleet().apply(&[heavier]);
    let after = gate.fleet().named("gpu-1").unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    assert_eq!((after.status().weight, after.status().models), (7, 2));
    assert_eq!(gate.post(CHAT, &ask("only-1")).await.status, 200);
    assert!(gate.fleet().named("gpu-2").is_none());
}

#[tokio::test]
async fn a_backend_that_moves_is_another_one_and_keeps_its_name_in_the_metrics() {
    let (one, two) = two().await;
    let gate = TestProxy::before(&[&one]).await;
    let moved = declared_at("gpu-1", &two.url());
    gate.fleet().apply(&[moved]);
    until("the new place's models", || async { gate.post(CHAT, &ask("only-2")).await.status == 200 }).await;
    assert_eq!(gate.post(CHAT, &ask("only-1")).await.status, 404);
    let metrics = gate.admin("/metrics").await.body;
    assert_eq!(metrics.matches(r#"tollgate_backend_up{backend="gpu-1"} 1"#).count(), 1, "{metrics}");
}

#[tokio::test]
async fn no_call_fails_while_backends_come_go_and_drain() {
    let (one, two) = two().await;
    let builder = TestProxy::builder().backend(&one).backend(&two);
    let gate = builder.with_key(rpm(1_000_000)).start().await;
    let body = ask("llama3");
    let is_over = AtomicBool::new(false);
    let changing = async {
        for _ in 0..10 {
            gate.fleet().apply(&[declared(&one), drained(&two)]);
            until_calls(&one, 3).await;
            gate.fleet().apply(&[declared(&one), declared(&two)]);
            until_calls(&two, 3).await;
            gate.fleet().apply(&[declared(&one)]);
            until_calls(&one, 3).await;
            gate.fleet().apply(&[declared(&one), declared(&two)]);
            until_calls(&two, 3).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let calling = futures_util::future::join_all((0..8).map(|_| async {
        while !is_over.load(Ordering::Relaxed) {
            let answer = gate.post(CHAT, &body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }));
    tokio::join!(changing, calling);
    gate.until_idle().await;
    gate.until_metric(r#"tollgate_backend_in_flight{backend="gpu-1"}"#, 0.0).await;
}

#[tokio::test]
async fn a_list_that_has_changed_is_read_again_on_demand_and_nobody_waits_for_it() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).set("upstream.probe_interval = \"1h\"").start().await;
    server.set_models(&["llama3:latest", "new:latest"]);
    let backend = gate.fleet().named("gpu-1").unwrap();
    let lists = || server.control_paths().iter().filter(|path| *path == "/api/tags").count();
    let before = lists();
    for _ in 0..50 {
        gate.fleet().refresh_one(&backend);
    }
    until("the new model", || async { names(&gate.get("/api/tags").await).len() == 2 }).await;
    until("its being loaded no more", || async { lists() == before + 2 }).await;
    server.set_models(&["new:latest"]);
    gate.fleet().refresh_one(&backend);
    until("the model's leaving", || async { names(&gate.get("/api/tags").await) == ["new:latest"] }).await;
    assert!(lists() <= before + 4, "fifty at once are two readings: {}", lists() - before);
}

#[tokio::test]
async fn a_backend_that_falls_silent_in_its_handshake_is_passed_over_in_time() {
    let two = LlmServer::start("gpu-2", &["llama3:latest"]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let mut builder = TestProxy::builder().backend_at("gpu-1", &url, "ollama").backend(&two);
    // Long enough for the other one, whatever else the machine does.
    for line in ["probe_interval = \"1h\"", "probe_timeout = \"1s\"", "connect_timeout = \"1s\""] {
        builder = builder.set(&format!("upstream.{line}"));
    }
    let gate = builder.start().await;
    // It answered once, and had the model.
    let backend = gate.fleet().named("gpu-1").unwrap();
    backend.note_models(listing::parse_tags(br#"{"models":[{"name":"llama3:latest"}]}"#).unwrap());
    backend.note_up(true);
    for _ in 0..4 {
        let answer = soon("an answer", gate.post(CHAT, &ask("llama3"))).await;
        assert_eq!((answer.status, answer.backend()), (200, Some("gpu-2")), "{answer:?}");
    }
    assert!(!backend.is_up(), "it was tried, and found silent");
    gate.until_metric("tollgate_bound_reached_total{bound=\"upstream_connect_timeout\"}", 1.0).await;
}

/// The command line, on the gate's own configuration.
async fn backends(gate: &TestProxy, arguments: &[&str]) {
    let folder = gate.folder().to_owned();
    let arguments: Vec<String> = ["backends"].iter().chain(arguments).map(|&word| word.to_owned()).collect();
    let running = tokio::task::spawn_blocking(move || {
        binary::run(&folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let outcome = running.await.unwrap();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

#[tokio::test]
async fn commands_add_drain_and_remove_backends_of_a_gate_that_serves() {
    let (one, two) = two().await;
    // Waiting takes many calls, which the default limit must not refuse.
    let gate = TestProxy::builder().backend(&one).with_key(rpm(1_000_000)).start().await;
    backends(&gate, &["add", "gpu-2", &two.url()]).await;
    until("its models", || async { gate.post(CHAT, &ask("only-2")).await.status == 200 }).await;
    backends(&gate, &["drain", "gpu-1"]).await;
    until("its draining", || async { gate.post(CHAT, &ask("only-1")).await.status == 503 }).await;
    assert_eq!(answered_by(&gate, 3).await, ["gpu-2"; 3]);
    backends(&gate, &["undrain", "gpu-1"]).await;
    until("its return", || async { gate.post(CHAT, &ask("only-1")).await.status == 200 }).await;
    backends(&gate, &["remove", "gpu-2"]).await;
    until("its leaving", || async { gate.fleet().named("gpu-2").is_none() }).await;
    assert_eq!(gate.post(CHAT, &ask("only-2")).await.status, 404);
}

#[tokio::test]
async fn what_was_declared_before_the_start_is_there_from_the_first_call_on() {
    let (one, two) = two().await;
    let mut builder = TestProxy::builder().backend(&one);
    builder = builder.set("upstream.probe_interval = \"1h\"");
    let store = SqliteStore::open(&builder.config().store.path).await.unwrap();
    let (name, url, kind) = (two.name().to_owned(), two.url(), "ollama".to_owned());
    store.add_backend(StoredBackend { name, url, kind, weight: 1, anthropic: false, created_at_ms: 1 }).await.unwrap();
    store.set_backend_drained("gpu-1", true, &["gpu-1".to_owned()]).await.unwrap();
    store.close().await;
    let gate = builder.start().await;
    assert_eq!(answered_by(&gate, 2).await, ["gpu-2"; 2]);
    assert_eq!(gate.post(CHAT, &ask("only-1")).await.status, 503);
}

#[tokio::test]
async fn a_file_of_authorities_that_can_t_be_used_stops_the_start() {
    let builder = TestProxy::builder().set("upstream.ca = \"ca.pem\"");
    let config = builder.config();
    assert!(config.upstream.ca.as_deref().is_some_and(std::path::Path::is_absolute), "{config:?}");
    let error = tollgate::app::App::start(config, tollgate::clock::Clock::system()).await.unwrap_err();
    assert!(error.is_configuration());
    assert!(error.to_string().contains("name a PEM file"), "{error}");
}
