//! Limits that several gates share through a real redis-server: exact over all of them, and as declared while it is gone.
//!
//! What is repeated is repeated with a fresh key, five times over one gate and five times over three.

#![expect(clippy::print_stdout, reason = "the figures are for who reads the run")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::Notify, task::JoinSet, time::interval};
use tollgate::{app::App, clock::Clock, ports::limits::LimitName};

use crate::support::{
    LlmServer, Script, TestProxy,
    binary::run,
    proxy::{Builder, overall},
    redis::RedisServer,
    rpm, until,
};

const CALLERS: usize = 200;
const RUNS: usize = 5;
/// No call is to be late only because this machine is.
const PATIENT: &str = "redis.deadline = \"10s\"";

/// Three gates with one state folder and one Redis.
struct Three {
    first: TestProxy,
    others: [App; 2],
}

impl Three {
    async fn start(builder: Builder) -> Self {
        let first = builder.start().await;
        let others = [first.another().await, first.another().await];
        Self { first, others }
    }

    fn addresses(&self) -> [SocketAddr; 3] {
        let [second, third] = &self.others;
        [self.first.address(), second.data_plane(), third.data_plane()]
    }

    /// Waits until this line stands in the metrics of each gate.
    async fn until_each_says(&self, line: &str) {
        let [second, third] = &self.others;
        for admin in [self.first.admin_address(), second.admin(), third.admin()] {
            let says = async || metrics(&self.first, admin).await.lines().any(|said| said.starts_with(line));
            until(line, says).await;
        }
    }
}

async fn metrics(gate: &TestProxy, admin: SocketAddr) -> String {
    gate.client().get(format!("http://{admin}/metrics")).send().await.unwrap().text().await.unwrap()
}

async fn server() -> LlmServer {
    LlmServer::start("gpu-1", &["llama3:latest"]).await
}

fn sharing(server: &LlmServer, redis: &RedisServer) -> Builder {
    TestProxy::builder().backend(server).set(&format!("redis.url = \"{}\"", redis.url()))
}

/// All callers at once, in turn over these gates; the statuses come as they end.
fn call_at_once(gate: &TestProxy, addresses: &[SocketAddr], key: &str, callers: usize) -> JoinSet<u16> {
    let body =
        json!({ "model": "llama3", "messages": [], "stream": false, "options": { "num_predict": 90 } }).to_string();
    let mut calls = JoinSet::new();
    for address in addresses.iter().cycle().take(callers) {
        let url = format!("http://{address}/api/chat");
        let request = gate.client().post(url).bearer_auth(key).body(body.clone());
        calls.spawn(async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            // A call runs until its last byte.
            answer.bytes().await.unwrap();
            status
        });
    }
    calls
}

/// How many passed; all others were told that there are too many.
async fn passed(calls: JoinSet<u16>) -> usize {
    let statuses = calls.join_all().await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_hundred_callers_at_once_exactly_a_hundred_pass_over_one_gate_and_over_three() {
    let (redis, server) = (RedisServer::start(), server().await);
    let mut builder = sharing(&server, &redis).set(PATIENT);
    let keys: Vec<String> = (0..2 * RUNS).map(|n| builder.add_key(&format!("key-{n}"), rpm(100))).collect();
    let gates = Three::start(builder).await;
    let all = gates.addresses();
    for pair in keys.chunks(2) {
        assert_eq!(passed(call_at_once(&gates.first, &all[..1], &pair[0], CALLERS)).await, 100, "over one");
        assert_eq!(passed(call_at_once(&gates.first, &all, &pair[1], CALLERS)).await, 100, "over three");
    }
    assert_eq!(server.calls(), 2 * RUNS * 100);
    gates.until_each_says("tollgate_redis_degraded 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_run_at_the_same_time_over_three_gates_than_a_key_may_have_running() {
    let (redis, server) = (RedisServer::start(), server().await);
    let mut builder = sharing(&server, &redis).set(PATIENT);
    let five = |key: &mut tollgate::ports::store::NewKey| {
        key.limits.push(overall(LimitName::Concurrent, 5));
        key.limits.push(overall(LimitName::RequestsPerMinute, 100_000));
    };
    let keys: Vec<String> = (0..RUNS).map(|n| builder.add_key(&format!("key-{n}"), five)).collect();
    let gates = Three::start(builder).await;
    for (run, key) in keys.iter().enumerate() {
        let goes_on = held(&server, 5);
        let mut calls = call_at_once(&gates.first, &gates.addresses(), key, CALLERS);
        for _ in 0..CALLERS - 5 {
            assert_eq!(calls.join_next().await.unwrap().unwrap(), 429);
        }
        until("five calls", async || server.calls() == (run + 1) * 5).await;
        assert_eq!(finish(calls, &goes_on).await, [200; 5]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_tokens_are_reserved_over_three_gates_than_the_limit_says() {
    let (redis, server) = (RedisServer::start(), server().await);
    let mut builder = sharing(&server, &redis).set(PATIENT);
    let key = builder.add_key("tokens", |key| {
        key.limits.push(overall(LimitName::TokensPerMinute, 1_000));
        key.limits.push(overall(LimitName::RequestsPerMinute, 100_000));
    });
    let gates = Three::start(builder).await;
    let goes_on = held(&server, CALLERS);
    let mut calls = call_at_once(&gates.first, &gates.addresses(), &key, CALLERS);
    let mut refused = 0;
    while refused + server.calls() < CALLERS {
        tokio::select! {
            status = calls.join_next() => {
                assert_eq!(status.unwrap().unwrap(), 429);
                refused += 1;
            }
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    let running = server.calls();
    println!("{running} calls of 90 output tokens run at the same time under a limit of 1,000");
    assert!((5..=1_000 / 90).contains(&running), "{running}");
    assert_eq!(finish(calls, &goes_on).await, vec![200; running]);
}

/// So many of the server's next calls wait.
fn held(server: &LlmServer, calls: usize) -> Arc<Notify> {
    let goes_on = Arc::new(Notify::new());
    for _ in 0..calls {
        server.script(Script::ndjson().wait(&goes_on).chunk("{\"done\":true}\n").end());
    }
    goes_on
}

/// Lets all go on that wait, until every call has ended.
async fn finish(mut calls: JoinSet<u16>, goes_on: &Notify) -> Vec<u16> {
    let mut statuses = Vec::new();
    let mut ticks = interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            ended = calls.join_next() => match ended {
                Some(status) => statuses.push(status.unwrap()),
                None => return statuses,
            },
            _ = ticks.tick() => goes_on.notify_waiters(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_leaves_each_gate_its_share_and_hears_of_it_when_it_is_back() {
    let (redis, server) = (RedisServer::start(), server().await);
    let mut builder = sharing(&server, &redis).set(&format!("{PATIENT}\nredis.replicas = 3"));
    let key = builder.add_key("key", rpm(100));
    let gates = Three::start(builder).await;
    let first = passed(call_at_once(&gates.first, &gates.addresses(), &key, 40)).await;
    assert_eq!(first, 40);
    let port = redis.port();
    drop(redis);
    gates.until_each_says("tollgate_redis_degraded 1").await;
    let second = passed(call_at_once(&gates.first, &gates.addresses(), &key, CALLERS)).await;
    println!("{first} passed with Redis and {second} without, under a limit of 100");
    assert_eq!(second, 3 * 33, "each gate admits its third; so at most twice the limit passes in all");
    let answer = gates.first.post_as(&key, "/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
    assert_eq!((answer.status, answer.header("x-tollgate-limits")), (429, Some("degraded")));
    let readiness = gates.first.admin("/readyz").await;
    assert_eq!((readiness.status, &readiness.json()["limits"]), (200, &json!("degraded")));

    let _empty = RedisServer::start_at(port);
    gates.until_each_says("tollgate_redis_degraded 0").await;
    gates.until_each_says("tollgate_redis_replayed_total 1").await;
    let third = passed(call_at_once(&gates.first, &gates.addresses(), &key, 10)).await;
    assert_eq!(third, 1, "it knows of the 99, and of nothing that it had forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_closed_refuses_for_a_second_and_open_lets_all_pass() {
    for (mode, expected) in [("closed", 503), ("open", 200)] {
        let (redis, server) = (RedisServer::start(), server().await);
        let builder = sharing(&server, &redis).set(PATIENT).set(&format!("redis.mode = \"{mode}\""));
        let gate = builder.with_key(rpm(3)).start().await;
        let call = async || gate.post("/v1/chat/completions", &json!({ "model": "llama3", "messages": [] })).await;
        assert_eq!((call().await.status, call().await.header("x-tollgate-limits")), (200, None));
        drop(redis);
        gate.until_metric("tollgate_redis_degraded", 1.0).await;
        for _ in 0..10 {
            let answer = call().await;
            assert_eq!((answer.status, answer.header("x-tollgate-limits")), (expected, Some("degraded")), "{mode}");
            if mode == "closed" {
                assert_eq!(answer.header("retry-after"), Some("1"));
                assert!(answer.body.contains("limits_unavailable"), "{answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_the_script_is_sent_it_again() {
    let (redis, server) = (RedisServer::start(), server().await);
    let gate = sharing(&server, &redis).set(PATIENT).with_key(rpm(5)).start().await;
    let mut passed = 0;
    for _ in 0..10 {
        redis.run(&["SCRIPT", "FLUSH"]);
        let answer = gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
        passed += usize::from(answer.status == 200);
        assert_eq!(answer.header("x-tollgate-limits"), None);
    }
    assert_eq!(passed, 5);
}

/// Time is the matter here. A busy machine may make a call late by itself, but not each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_redis_costs_a_call_its_deadline_at_most() {
    let mut paused = Vec::new();
    while paused.len() < 3 {
        let costs = cost_of_a_pause().await;
        if costs < Duration::from_millis(200) {
            return;
        }
        paused.push(costs);
    }
    panic!("calls were late by {paused:?}");
}

/// By how much the slowest call is slower while Redis takes calls and answers none.
async fn cost_of_a_pause() -> Duration {
    let (redis, server) = (RedisServer::start(), server().await);
    let gate = sharing(&server, &redis).with_key(rpm(100_000)).start().await;
    let clock = Clock::system();
    let slowest_of = async |calls: usize| {
        let mut slowest = Duration::ZERO;
        for _ in 0..calls {
            let began = clock.monotonic();
            let answer = gate.post("/api/chat", &json!({ "model": "llama3", "messages": [] })).await;
            assert_eq!(answer.status, 200);
            slowest = slowest.max(clock.monotonic().saturating_sub(began));
        }
        slowest
    };
    let before = slowest_of(20).await;
    redis.pause();
    let (paused, left_alone) = (slowest_of(20).await, slowest_of(20).await);
    println!("slowest of 20 calls: {before:?} before, {paused:?} as Redis is paused, {left_alone:?} after that");
    gate.until_metric("tollgate_redis_degraded", 1.0).await;
    paused.saturating_sub(before)
}

#[tokio::test]
async fn no_password_of_redis_is_printed_and_what_is_wrong_with_it_is_said() {
    let check = async |lines: &[&str]| {
        let (folder, _key) = lines.iter().fold(TestProxy::builder(), |builder, line| builder.set(line)).write().await;
        let outcome = run(folder.path(), &["check"]);
        assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
        outcome
    };
    let good = check(&["redis.url = \"redis://gate:hunter2@127.0.0.1:1/2\"", "redis.mode = \"closed\""]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.stdout.contains("redis: redis://127.0.0.1:1/2 (closed)\n"), "{good:?}");
    let missing = check(&["redis.url = \"rediss://gate:hunter2@127.0.0.1:1\"", "redis.ca = \"nowhere.pem\""]).await;
    assert_eq!(missing.code, Some(78), "{missing:?}");
    assert!(missing.stderr.contains("redis.ca"), "{missing:?}");
}
