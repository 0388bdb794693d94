//! A policy that fails: its caller gets 503, nothing reaches a backend, the operator learns which, and the gate
//! serves on.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use http::Method;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::support::{
    Answer, Asking, LlmServer, Log, TestProxy, guest,
    guest::{picking, rejection},
    rpm,
    wat::{ENDLESS_LOOP, MEMORY_HOG, answer},
};

/// A policy that fails in its way when a call asks for as many output tokens as its number, and abstains otherwise.
struct Hostile {
    name: &'static str,
    /// The kind of fault that it must be.
    kind: &'static str,
    body: String,
}

fn hostile(name: &'static str, kind: &'static str, body: impl Into<String>) -> Hostile {
    Hostile { name, kind, body: body.into() }
}

/// The body, if the cap in this parameter is `number`; else the decision's case `abstain`.
fn only_for(number: usize, abstain: u8, body: &str) -> String {
    format!(
        "(if (i32.ne (local.get 7) (i32.const {number}))
            (then (i32.store8 (i32.const 2048) (i32.const {abstain})) (return (i32.const 2048)))) {body}"
    )
}

fn recursion(parameters: usize) -> String {
    let arguments: String = (0..parameters).map(|at| format!("(local.get {at})")).collect();
    format!("(call 2 {arguments})")
}

const PAST_THE_MEMORY: &str =
    "(drop (memory.grow (i32.const 65000))) (i32.store (i32.const 2000000000) (i32.const 1)) (unreachable)";

/// Ways to fail at `route`, where `ranked` is case 1 and `reject` case 2. What breaks the canonical ABI is a trap by
/// its rules; what the interface forbids is a bad answer.
fn routers() -> Vec<Hostile> {
    let long = "x".repeat(1025);
    vec![
        hostile("endless-loop", "budget", ENDLESS_LOOP),
        hostile("trap", "trap", "(unreachable)"),
        hostile("division-by-zero", "trap", "(i32.div_u (i32.const 1) (local.get 12))"),
        hostile("memory-hog", "memory", MEMORY_HOG),
        hostile("past-the-memory", "memory", PAST_THE_MEMORY),
        hostile("deep-recursion", "memory", recursion(16)),
        hostile("unknown-backend", "bad_answer", answer(0, &[(2052, 4_294_967_295)])),
        hostile("repeated-backend", "bad_answer", answer(1, &[(2052, 3000), (2056, 2), (3000, 0), (3004, 0)])),
        hostile("no-backend", "bad_answer", answer(1, &[(2052, 3000), (2056, 0)])),
        hostile("ranking-outside-memory", "trap", answer(1, &[(2052, 2_000_000_000), (2056, 1)])),
        hostile("endless-ranking", "trap", answer(1, &[(2052, 0), (2056, 1_000_000_000)])),
        // 800 kB of ids in its own memory: more than a guest may hand over.
        hostile(
            "long-ranking",
            "trap",
            "(drop (memory.grow (i32.const 16)))".to_owned() + &answer(1, &[(2056, 200_000)]),
        ),
        hostile("bad-code", "bad_answer", rejection(2, b"No Code!", b"no")),
        hostile("empty-code", "bad_answer", rejection(2, b"", b"no")),
        hostile("forged-line", "bad_answer", rejection(2, b"no", b"no\r\nset-cookie: a=b")),
        hostile("long-message", "bad_answer", rejection(2, b"no", long.as_bytes())),
        hostile("no-utf-8", "trap", rejection(2, b"no", b"\xff\xfe")),
        hostile("unknown-case", "trap", answer(9, &[])),
        hostile("answer-outside-memory", "trap", "(i32.const -16)"),
        hostile("answer-out-of-line", "trap", "(i32.const 2049)"),
    ]
}

async fn chat_with_cap(gate: &TestProxy, cap: usize) -> Answer {
    gate.post("/v1/chat/completions", &json!({ "model": "llama3", "messages": [], "max_tokens": cap })).await
}

/// Each in turn is met by one call; then a call that meets none of them is served.
async fn each_is_a_fault(hook: &str, policies: Vec<Hostile>, make: impl Fn(usize, &Hostile) -> Vec<u8>) {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    // One call in a minute: a call that failed must have cost nothing.
    let builder = TestProxy::builder().backend(&server).with_key(rpm(1));
    let numbered = (1..).zip(&policies);
    let gate = numbered.fold(builder, |builder, (number, policy)| builder.policy(policy.name, &make(number, policy)));
    let gate = gate.start().await;
    for (number, Hostile { name, kind, .. }) in (1..).zip(&policies) {
        let answer = chat_with_cap(&gate, number).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{name}: {answer:?}");
        assert!(!answer.body.contains(name), "what failed is the operator's to know: {answer:?}");
        let metrics = gate.admin("/metrics").await.body;
        let line = format!(r#"tollgate_policy_faults_total{{policy="{name}",hook="{hook}",kind="{kind}"}} 1"#);
        assert!(metrics.contains(&line), "{line} is missing in:\n{metrics}");
        log.says(&["policy_fault", &format!("policy '{name}' failed at {hook} ({kind})")]).await;
    }
    assert_eq!(server.calls(), 0, "nothing reached the backend");
    let answer = chat_with_cap(&gate, 1000).await;
    assert_eq!((answer.status, answer.backend()), (200, Some("gpu-1")), "the gate serves on: {answer:?}");
}

#[tokio::test]
async fn a_router_that_fails_is_a_503_that_names_it_to_the_operator_only() {
    each_is_a_fault("route", routers(), |number, policy| guest::router(&only_for(number, 3, &policy.body))).await;
}

#[tokio::test]
async fn an_admitter_that_fails_is_a_503_that_names_it_to_the_operator_only() {
    let policies = vec![
        hostile("admit-endless-loop", "budget", ENDLESS_LOOP),
        hostile("admit-trap", "trap", "(unreachable)"),
        hostile("admit-memory-hog", "memory", MEMORY_HOG),
        hostile("admit-deep-recursion", "memory", recursion(14)),
        hostile("admit-bad-code", "bad_answer", rejection(1, b"no-hyphens", b"no")),
        hostile("admit-unknown-case", "trap", answer(3, &[])),
        hostile("admit-too-many-charges", "trap", answer(0, &[(2052, 0), (2056, 1_000_000)])),
    ];
    each_is_a_fault("admit", policies, |number, policy| guest::admitter(&only_for(number, 2, &policy.body))).await;
}

/// `authenticate` knows no cap: the number is the declared length of the body.
#[tokio::test]
async fn an_authenticator_that_fails_lets_nobody_in() {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let policies = [
        hostile("auth-endless-loop", "budget", ENDLESS_LOOP),
        hostile("auth-trap", "trap", "(unreachable)"),
        hostile("auth-deep-recursion", "memory", recursion(9)),
        hostile("auth-unknown-case", "trap", answer(7, &[])),
        // `allow` with a subject of no bytes.
        hostile("auth-nobody", "bad_answer", answer(0, &[(2052, 3000), (2056, 0), (2060, 0)])),
    ];
    let mut builder = TestProxy::builder().backend(&server);
    for (at, policy) in (1..).zip(&policies) {
        let only = format!(
            "(if (i64.ne (local.get 3) (i64.const {}))
                (then (i32.store8 (i32.const 2048) (i32.const 2)) (return (i32.const 2048)))) {}",
            1000 + at,
            policy.body
        );
        builder = builder.policy(policy.name, &guest::authenticator(&only));
    }
    let gate = builder.start().await;
    let body = json!({ "model": "llama3", "messages": [] }).to_string();
    for (at, Hostile { name, kind, .. }) in (1..).zip(&policies) {
        let answer = gate.post_text("/api/chat", format!("{body:0$}", 1000 + at)).await;
        assert_eq!(answer.status, 503, "{name}: {answer:?}");
        assert!(answer.json()["error"].is_string(), "in Ollama's dialect: {answer:?}");
        log.says(&["policy_fault", &format!("policy '{name}' failed at authenticate ({kind})")]).await;
    }
    assert_eq!(server.calls(), 0);
    let answer = gate.post_text("/api/chat", format!("{body:1000}")).await;
    assert_eq!(answer.status, 200, "the gate serves on: {answer:?}");
}

#[tokio::test]
async fn calls_that_do_not_meet_the_policy_are_served() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).policy("no-route", &guest::router("(unreachable)")).start().await;
    assert_eq!(chat_with_cap(&gate, 1).await.status, 503);
    for path in ["/api/version", "/api/tags", "/v1/models", "/v1/models/llama3"] {
        let answer = gate.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let keyless = Answer::of(gate.client().get(gate.url("/v1/models")).send().await.unwrap()).await;
    assert_eq!(keyless.status, 401, "who has no key is told so before the policy that fails: {keyless:?}");
}

#[tokio::test]
async fn an_import_outside_its_hooks_is_a_fault() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    for (hook, question, import) in [
        ("authenticate", "json /model", "request.json"),
        ("authenticate", "prefix-hash 1", "request.prefix-hash"),
        ("authenticate", "limit key requests-per-minute", "principals.limit"),
        ("authenticate", "attribute groups", "principals.attribute"),
        ("authenticate", "candidates llama3", "catalogue.candidates"),
        ("admit", "verify", "keys.verify"),
        ("route", "verify", "keys.verify"),
    ] {
        is_a_fault(&asking, hook, question).await;
        log.says(&[&format!("it called `{import}`, which may not be called in {hook}")]).await;
    }
    assert_eq!(asking.server.calls(), 0);
}

#[tokio::test]
async fn what_an_import_does_not_take_is_a_fault() {
    // Ten thousand calls to a host that was not optimised take longer than the default budget.
    let asking = Asking::start_with(|builder| builder.set("policies.cpu_budget = \"100ms\"")).await;
    let log = Log::listen();
    for (hook, question, said) in [
        ("route", "calls 10001", "more than 10000 calls to the host"),
        ("route", "log-bytes 300000", "policy 'ask-route' failed at route (trap)"),
        ("admit", "put-bytes 300000", "policy 'ask-admit' failed at admit (trap)"),
        ("admit", "put-bytes 16385", "at most 16384 bytes, this one 16385"),
        ("admit", "add-key-of 0", "1 to 256 bytes, this one 0"),
        ("admit", "add-key-of 257", "1 to 256 bytes, this one 257"),
        ("admit", "json model", "does not start with `/`"),
        ("admit", "json /a~2", "neither `~0` nor `~1`"),
        ("admit", "peer-in anywhere", "'anywhere' is no network"),
        ("admit", "limit key requests-per-year", "there is no limit 'requests-per-year'"),
        ("route", "exit 0", "policy 'ask-route' failed at route (trap)"),
        ("route", "no-such-question", "policy 'ask-route' failed at route (trap)"),
    ] {
        is_a_fault(&asking, hook, question).await;
        log.says(&[said]).await;
    }
    for at_the_limit in ["calls 9000", "put-bytes 16384", "add-key-of 256"] {
        asking.ask("admit", at_the_limit).await;
    }
}

#[tokio::test]
async fn a_policy_that_would_wait_is_cut_at_once() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let hour = is_a_fault(&asking, "route", "sleep 3600000");
    tokio::time::timeout(Duration::from_secs(5), hour).await.expect("it didn't wait");
    log.says(&["policy 'ask-route'", "a policy never waits"]).await;
}

async fn is_a_fault(asking: &Asking, hook: &str, question: &str) {
    let answer = Answer::of(asking.call(hook, question).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{hook}: {question}: {answer:?}");
    assert_eq!(asking.ask(hook, "path").await, "/v1/chat/completions", "after `{question}` it answers again");
}

#[tokio::test]
async fn a_loop_is_cut_when_its_budget_is_spent() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder()
        .backend(&server)
        .policy("loop", &guest::router(&only_for(1, 3, ENDLESS_LOOP)))
        .start()
        .await;
    let mut spent = Vec::new();
    for _ in 0..5 {
        // The gate runs on this thread.
        let before = thread_cpu();
        assert_eq!(chat_with_cap(&gate, 1).await.status, 503);
        spent.push(thread_cpu() - before);
    }
    // 2 ms of budget, a tick, and the rest of the call. The least of five: on a busy machine a tick may come late.
    let least = spent.iter().min().unwrap();
    assert!(*least < Duration::from_millis(30), "the loops took {spent:?} of CPU time");
}

fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// A policy that works for some tenth of a millisecond, and then has no opinion.
fn hard_worker() -> Vec<u8> {
    let work = "(local.set 0 (i32.const 150000))
        (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))";
    guest::router(&format!("{work} {}", answer(3, &[])))
}

async fn faults(gate: &TestProxy, policy: &str, kind: &str) -> f64 {
    let labels = format!("policy=\"{policy}\",hook=\"route\",kind=\"{kind}\"");
    gate.metric(&format!("tollgate_policy_faults_total{{{labels}}}")).await
}

#[tokio::test]
async fn a_busy_machine_cuts_no_policy_that_stays_within_its_budget() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).set("limits.requests_per_minute = 1000");
    let gate = builder.policy("hard-worker", &hard_worker()).start().await;
    let busy = BusyMachine::start();
    let before = thread_cpu();
    for call in 0..200 {
        let answer = chat_with_cap(&gate, 1).await;
        assert_eq!(answer.status, 200, "call {call}: {answer:?}");
    }
    let worked = thread_cpu() - before;
    drop(busy);
    // The gate runs on this thread: so much of it was the policy's.
    assert!(worked > Duration::from_millis(5), "the policy did nothing: {worked:?}");
    assert!(!gate.admin("/metrics").await.body.contains("tollgate_policy_faults_total{"), "no fault was counted");
}

#[tokio::test]
async fn a_busy_machine_cuts_every_loop() {
    const CALLS: u8 = 50;
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).policy("loop", &guest::router(&only_for(1, 3, ENDLESS_LOOP)));
    let gate = builder.set("policies.breaker.faults = 0").start().await;
    let busy = BusyMachine::start();
    for call in 0..CALLS {
        let answer = chat_with_cap(&gate, 1).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "call {call}: {answer:?}");
    }
    drop(busy);
    assert!((faults(&gate, "loop", "budget").await - f64::from(CALLS)).abs() < 0.5, "each for its budget");
    assert_eq!(server.calls(), 0);
}

/// While nobody asks, the gate looks seldom at what runs.
#[tokio::test]
async fn a_loop_is_cut_as_soon_after_an_idle_time() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let policies = [("loop", guest::router(&only_for(1, 3, ENDLESS_LOOP))), ("worker", hard_worker())];
    let builder = TestProxy::builder().backend(&server);
    let gate = policies.iter().fold(builder, |builder, (name, policy)| builder.policy(name, policy)).start().await;
    let mut spent = Vec::new();
    for _ in 0..3 {
        // Longer than the gate goes on looking every millisecond, which it does by the machine's own time: so must the test.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let before = thread_cpu();
        assert_eq!(chat_with_cap(&gate, 1).await.code(), "policy_fault");
        spent.push(thread_cpu() - before);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(chat_with_cap(&gate, 2).await.status, 200, "and a good policy isn't");
    }
    assert!((faults(&gate, "loop", "budget").await - 3.0).abs() < 0.5);
    // The first look comes with the call: after a slow one it would be a tenth of a second.
    let least = spent.iter().min().unwrap();
    assert!(*least < Duration::from_millis(50), "the loops took {spent:?} of CPU time");
}

/// Two threads for each core, which work without a pause.
struct BusyMachine {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl BusyMachine {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = 2 * thread::available_parallelism().unwrap().get();
        let threads = (0..count).map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    black_box(0);
                }
            })
        });
        Self { threads: threads.collect(), stop }
    }
}

impl Drop for BusyMachine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

#[tokio::test]
async fn a_fault_leaves_nothing_for_the_next_call() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    // Counts its calls in its own memory, traps at the second, and else says the count in its code.
    let counts = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (if (i32.eq (global.get $calls) (i32.const 2)) (then (unreachable)))";
    let says = rejection(2, b"call_0", b"no");
    let (stores, address) = says.rsplit_once("(i32.const 2048)").unwrap();
    let digit = "(i32.store8 (i32.const 3005) (i32.add (i32.const 48) (global.get $calls)))";
    let body = format!("{counts} {stores} {digit} (i32.const 2048) {address}");
    let gate = TestProxy::builder().backend(&server).policy("counter", &guest::router(&body)).start().await;
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(chat_with_cap(&gate, 1).await.code());
    }
    assert_eq!(codes, ["call_1", "policy_fault"].repeat(3), "a new instance counts from the beginning");
}

#[tokio::test]
async fn a_looping_policy_that_is_replaced_is_forgotten() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder()
        .backend(&server)
        .policy("mended", &guest::router(&only_for(1, 3, ENDLESS_LOOP)))
        .start()
        .await;
    assert_eq!(chat_with_cap(&gate, 1).await.status, 503);
    gate.put_policy("mended", &picking(0));
    crate::support::until("the mended policy", async || chat_with_cap(&gate, 1).await.status == 200).await;
    let answer = Answer::of(gate.request(Method::GET, "/api/tags").send().await.unwrap()).await;
    assert_eq!(answer.status, 200);
}
