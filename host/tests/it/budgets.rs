//! Budgets of the calendar outlive the process that counted them.

use std::{path::Path, sync::Arc, time::Duration};

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::Notify;
use tollgate::{ports::store::Store, store::SqliteStore};

use crate::support::{
    LlmServer, Log, Script, TestProxy,
    binary::{Running, run},
    until,
};

const DAY: &str = "limits.tokens_per_day = 10000";
const MONTH: &str = "limits.tokens_per_month = 100000";
const FAILS: &[&str] = &["what is used of budgets can't be written"];

fn chat() -> Value {
    json!({ "model": "llama3", "messages": [], "max_tokens": 10 })
}

/// An answer that took 520 tokens.
fn spends_520() -> Script {
    let usage = json!({ "prompt_tokens": 20, "completion_tokens": 500, "total_tokens": 520 });
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    Script::json(
        200,
        &json!({ "id": "1", "object": "chat.completion", "choices": [choice], "usage": usage }).to_string(),
    )
}

async fn server() -> LlmServer {
    LlmServer::start("gpu-1", &["llama3:latest"]).await
}

async fn call(gate: &TestProxy, server: &LlmServer) {
    server.script(spends_520());
    assert_eq!(gate.post("/v1/chat/completions", &chat()).await.status, 200);
}

/// What the gate says is spent of the day and of the month.
async fn spent(gate: &TestProxy) -> [u64; 2] {
    let list = gate.api(Method::GET, "/api/v1/keys/default/limits").await.json();
    ["tokens-per-day", "tokens-per-month"].map(|name| {
        let limit = list["limits"].as_array().unwrap().iter().find(|limit| limit["limit"] == name).unwrap();
        assert_eq!(limit["reserved"], 0, "{list}");
        limit["spent"].as_u64().unwrap()
    })
}

/// Waits until this much of a budget is written.
async fn until_written(store: &SqliteStore, period: &str, now_us: u64, wanted: impl Fn(u64) -> bool) {
    until("the write", async || {
        let budgets = store.budgets(now_us).await.unwrap();
        budgets.iter().any(|budget| *budget.name.period == *period && wanted(budget.used))
    })
    .await;
}

#[tokio::test]
async fn a_restart_keeps_what_is_used_of_day_and_month_and_a_new_day_starts_anew() {
    let server = server().await;
    let gate = TestProxy::builder().backend(&server).set(DAY).set(MONTH).start().await;
    call(&gate, &server).await;
    let gate = gate.restart().await;
    assert_eq!(spent(&gate).await, [520, 520]);
    call(&gate, &server).await;
    let gate = gate.restart().await;
    assert_eq!(spent(&gate).await, [1_040, 1_040]);
    // The clock starts at noon.
    gate.advance(Duration::from_secs(12 * 3_600)).await;
    let gate = gate.restart().await;
    assert_eq!(spent(&gate).await, [0, 1_040], "the day is over, the month is not");
    call(&gate, &server).await;
    let gate = gate.restart().await;
    assert_eq!(spent(&gate).await, [520, 1_560]);
}

#[tokio::test]
async fn what_was_reserved_and_written_is_taken_back_when_it_was_not_used() {
    let server = server().await;
    let gate = TestProxy::builder().backend(&server).set(DAY).set(MONTH).start().await;
    let store = gate.store().await;
    let go_on = Arc::new(Notify::new());
    let usage = "{\"done\":true,\"prompt_eval_count\":20,\"eval_count\":3}\n";
    server.script(Script::ndjson().chunk("{}\n").wait(&go_on).chunk(usage).end());
    let body = json!({ "model": "llama3", "prompt": "x", "options": { "num_predict": 900 } });
    let mut running = gate.request(Method::POST, "/api/generate").body(body.to_string()).send().await.unwrap();
    running.chunk().await.unwrap();
    until_written(&store, "day", 0, |used| used >= 900).await;
    go_on.notify_one();
    running.text().await.unwrap();
    gate.until_idle().await;
    until_written(&store, "day", 0, |used| used == 23).await;
    store.close().await;
    assert_eq!(spent(&gate.restart().await).await, [23, 23]);
}

#[tokio::test]
async fn gates_that_overlap_on_one_folder_add_up() {
    let server = server().await;
    let gate = TestProxy::builder().backend(&server).set(DAY).set(MONTH).start().await;
    call(&gate, &server).await;
    let other = gate.beside().await;
    for address in [other.data_plane(), gate.address(), other.data_plane()] {
        server.script(spends_520());
        let request = gate.client().post(format!("http://{address}/v1/chat/completions")).bearer_auth(gate.key());
        assert_eq!(request.body(chat().to_string()).send().await.unwrap().status(), 200);
    }
    other.stop().await;
    let gate = gate.restart().await;
    assert_eq!(spent(&gate).await, [4 * 520, 4 * 520]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gate_forgets_no_more_than_it_had_not_written_yet() {
    let server = server().await;
    let (folder, key) = TestProxy::builder().backend(&server).set(MONTH).set("log.format = \"json\"").write().await;
    let start = |folder: &Path| {
        let mut running = Running::start(folder, &["serve"]);
        let serving = running
            .on_stderr(|line| serde_json::from_str::<Value>(line).ok().filter(|line| line["message"] == "serving"));
        let address = |which: &str| serving[which].as_str().unwrap().to_owned();
        let addresses = (address("data_plane"), address("admin"));
        (running, addresses)
    };
    let (running, (data_plane, _)) = start(folder.path());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    server.script(spends_520());
    let request = client.post(format!("http://{data_plane}/v1/chat/completions")).bearer_auth(&key);
    assert_eq!(request.body(chat().to_string()).send().await.unwrap().status(), 200);
    let store = SqliteStore::open(&folder.path().join("state/tollgate.db")).await.unwrap();
    until_written(&store, "month", 0, |used| used == 520).await;
    store.close().await;
    running.signal(Signal::KILL);
    running.wait();

    let (_running, (_, admin)) = start(folder.path());
    let show = ["limits", "show", "default", "-o", "json", "--set", &format!("admin.listen={admin}")];
    let list = run(folder.path(), &show).json();
    let month = list["limits"].as_array().unwrap().iter().find(|limit| limit["limit"] == "tokens-per-month").unwrap();
    assert_eq!(month["spent"], 520, "{list}");
}

#[tokio::test]
async fn a_store_that_fails_loses_nothing_and_is_told_of_once() {
    let server = server().await;
    let gate = TestProxy::builder().backend(&server).set(DAY).set(MONTH).start().await;
    let log = Log::listen();
    let options = SqliteConnectOptions::new().filename(gate.folder().join("state/tollgate.db"));
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("ALTER TABLE budgets RENAME TO elsewhere").execute(&mut database).await.unwrap();
    call(&gate, &server).await;
    log.says(FAILS).await;
    call(&gate, &server).await;
    sqlx::query("ALTER TABLE elsewhere RENAME TO budgets").execute(&mut database).await.unwrap();
    log.says(&["what is used of budgets is written again"]).await;
    assert_eq!(log.lines_with(FAILS).len(), 1);
    let gate = gate.restart().await;
    assert_eq!(spent(&gate).await, [1_040, 1_040]);
    database.close().await.unwrap();
}
