//! Instances of a policy: how long they live, and that a decision doesn't hang on what earlier calls left in them.

use std::{cell::RefCell, time::Duration};

use serde_json::json;

use crate::support::{
    Answer, LlmServer, Log, TestProxy, guest, guest::rejection, proxy::Builder, until, wat, wat::answer,
};

/// A router that says in its code how many calls this instance has had: `call_a` is the first.
fn counter() -> Vec<u8> {
    let says = rejection(2, b"call_0", b"no");
    let (stores, address) = says.rsplit_once("(i32.const 2048)").unwrap();
    let count = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))";
    let letter = "(i32.store8 (i32.const 3005) (i32.add (i32.const 96) (global.get $calls)))";
    guest::router(&format!("{count} {stores} {letter} (i32.const 2048) {address}"))
}

async fn bench(more: impl FnOnce(Builder) -> Builder) -> (LlmServer, TestProxy) {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).set("server.threads = 1");
    let gate = more(builder.set("limits.requests_per_minute = 1000000")).start().await;
    (server, gate)
}

async fn chat(gate: &TestProxy) -> Answer {
    gate.post("/v1/chat/completions", &json!({ "model": "llama3", "messages": [] })).await
}

async fn codes(gate: &TestProxy, calls: usize) -> Vec<String> {
    let mut codes = Vec::new();
    for _ in 0..calls {
        codes.push(chat(gate).await.code());
    }
    codes
}

#[tokio::test]
async fn an_instance_serves_as_many_calls_as_its_policy_says() {
    let (_server, gate) =
        bench(|builder| builder.policy("counting", &counter()).policy_terms("counting", "max_calls = 2")).await;
    assert_eq!(codes(&gate, 5).await, ["call_a", "call_b", "call_a", "call_b", "call_a"]);
    gate.until_metric(r#"tollgate_policy_instances_retired_total{policy="counting",reason="calls"}"#, 2.0).await;
}

#[tokio::test]
async fn an_instance_is_replaced_at_its_age_and_when_it_grows() {
    let (_server, gate) =
        bench(|builder| builder.policy("ageing", &counter()).policy_terms("ageing", "max_age = \"10s\"")).await;
    assert_eq!(codes(&gate, 2).await, ["call_a", "call_b"]);
    gate.advance(Duration::from_secs(10)).await;
    // Its age is looked at after every sixteenth call.
    assert_eq!(codes(&gate, 15).await.split_off(12), ["call_o", "call_p", "call_a"]);
    gate.until_metric(r#"tollgate_policy_instances_retired_total{policy="ageing",reason="age"}"#, 1.0).await;

    let grows = "(drop (memory.grow (i32.const 2))) (i32.store8 (i32.const 2048) (i32.const 3)) (i32.const 2048)";
    let growing = guest::router(grows);
    let (_server, gate) =
        bench(|builder| builder.policy("growing", &growing).policy_terms("growing", "max_growth = \"256KiB\"")).await;
    for _ in 0..4 {
        assert_eq!(chat(&gate).await.status, 200);
    }
    gate.until_metric(r#"tollgate_policy_instances_retired_total{policy="growing",reason="growth"}"#, 2.0).await;
}

#[tokio::test]
async fn an_instance_for_each_call_remembers_nothing() {
    let (_server, gate) =
        bench(|builder| builder.policy("hermetic", &counter()).policy_terms("hermetic", "reuse = \"per-call\"")).await;
    assert_eq!(codes(&gate, 3).await, ["call_a", "call_a", "call_a"]);
}

/// After this, decisions of a policy may be made again that are too many before.
const RECHECK_GAP: Duration = Duration::from_millis(100);

fn rechecks(policy: &str, outcome: &str) -> String {
    format!(r#"tollgate_policy_rechecks_total{{policy="{policy}",outcome="{outcome}"}}"#)
}

#[tokio::test]
async fn no_more_than_ten_decisions_a_second_are_made_again() {
    let (_server, gate) = bench(|builder| builder.set("policies.recheck_every = 1")).await;
    let same = rechecks("round-robin", "same");
    for seen in [1.0, 2.0] {
        until("a decision made again", async || {
            chat(&gate).await;
            gate.metric(&same).await > seen - 0.5
        })
        .await;
        for _ in 0..20 {
            chat(&gate).await;
        }
        assert!(gate.metric(&same).await < seen + 0.5, "the clock stands still");
        gate.hand.advance(RECHECK_GAP);
    }
}

#[tokio::test]
async fn a_policy_that_decides_by_its_memory_is_found_out_once() {
    let log = Log::listen();
    let (_server, gate) =
        bench(|builder| builder.set("policies.recheck_every = 2").policy("secretive", &counter())).await;
    until("a difference", async || {
        chat(&gate).await;
        gate.hand.advance(RECHECK_GAP);
        gate.metric(&rechecks("secretive", "different")).await > 1.5
    })
    .await;
    assert_eq!(log.lines_with(&["a fresh instance of the policy decides otherwise", "secretive"]).len(), 1);
    assert!(gate.metric(&rechecks("secretive", "same")).await < 0.5);
}

/// A router without an opinion, that writes by how many calls this instance has had: the number lies at 3008, and at 3000 a `k`.
fn keeper(import: &str, writes: &str) -> Vec<u8> {
    let body = format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (i32.store8 (i32.const 3000) (i32.const 107)) (i32.store (i32.const 3008) (global.get $calls)) {writes} {}",
        answer(3, &[])
    );
    guest::component("router", &guest::module_that(import, "(i32.const 1024)", &wat::hook(wat::ROUTE, &body)))
}

#[tokio::test]
async fn a_policy_that_writes_by_its_memory_is_found_out_too() {
    let put = r#"(import "tollgate:policy/state@0.1.0" "put" (func $put (param i32 i32 i32 i32 i32)))"#;
    let add = r#"(import "tollgate:policy/state@0.1.0" "add" (func $add (param i32 i32 i64 i32) (result i64)))"#;
    let counts =
        "(drop (call $add (i32.const 3000) (i32.const 1) (i64.extend_i32_u (global.get $calls)) (i32.const 0)))";
    for (name, policy) in [
        (
            "writes-values",
            keeper(put, "(call $put (i32.const 3000) (i32.const 1) (i32.const 3008) (i32.const 4) (i32.const 0))"),
        ),
        (
            "writes-times",
            keeper(
                put,
                "(call $put (i32.const 3000) (i32.const 1) (i32.const 3012) (i32.const 4) (global.get $calls))",
            ),
        ),
        ("writes-counters", keeper(add, counts)),
    ] {
        let (_server, gate) = bench(|builder| builder.set("policies.recheck_every = 2").policy(name, &policy)).await;
        until("a difference", async || {
            assert_eq!(chat(&gate).await.status, 200);
            gate.hand.advance(RECHECK_GAP);
            gate.metric(&rechecks(name, "different")).await > 1.5
        })
        .await;
        assert!(gate.metric(&rechecks(name, "same")).await < 0.5, "{name}");
    }
}

#[tokio::test]
async fn a_policy_that_keeps_its_state_with_the_gate_decides_the_same_again() {
    let second = LlmServer::start("gpu-2", &["llama3:latest"]).await;
    let (_server, gate) = bench(|builder| builder.backend(&second).set("policies.recheck_every = 2")).await;
    let turns = RefCell::new(Vec::new());
    until("decisions made again", async || {
        let backend = chat(&gate).await.backend().unwrap().to_owned();
        turns.borrow_mut().push(backend);
        gate.hand.advance(RECHECK_GAP);
        gate.metric(&rechecks("round-robin", "same")).await > 3.5
    })
    .await;
    assert!(gate.metric(&rechecks("round-robin", "different")).await < 0.5);
    assert!(
        turns.borrow().chunks_exact(2).all(|pair| pair[0] != pair[1]),
        "what is made again counts no turn: {turns:?}"
    );
    for policy in ["api-key", "rate-limit"] {
        assert!(gate.metric(&rechecks(policy, "different")).await < 0.5, "{policy}");
    }
}

#[tokio::test]
async fn what_a_policy_changes_in_a_call_is_asked_for_again_and_not_changed_again() {
    let (mut server, gate) =
        bench(|builder| builder.set("policies.recheck_every = 2").policy("pinning", &guest::gallery("pin-num-ctx")))
            .await;
    until("decisions made again", async || {
        assert_eq!(gate.post_text("/api/chat", r#"{"model":"llama3:latest"}"#).await.status, 200);
        gate.hand.advance(RECHECK_GAP);
        gate.metric(&rechecks("pinning", "same")).await > 1.5
    })
    .await;
    for _ in 0..server.calls() {
        assert_eq!(server.seen().await.body, r#"{"options":{"num_ctx":8192},"model":"llama3:latest"}"#);
    }
    for other in ["different", "failed"] {
        assert!(gate.metric(&rechecks("pinning", other)).await < 0.5, "{other}");
    }
}

#[tokio::test]
async fn lines_that_the_log_does_not_take_are_counted() {
    let hook = r#"(func (export "tollgate:policy/route@0.1.0#choose")
        (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (call $log (i32.const 1) (i32.const 3000) (i32.const 3)) (call $log (i32.const 1) (i32.const 3000) (i32.const 3))
        (i32.store8 (i32.const 2048) (i32.const 3)) (i32.const 2048))"#;
    let imports = r#"(import "tollgate:policy/env@0.1.0" "log" (func $log (param i32 i32 i32)))"#;
    let talker = guest::component("router", &guest::module_that(imports, "(i32.const 1024)", hook));
    let (_server, gate) =
        bench(|builder| builder.policy("talker", &talker).policy_terms("talker", "log_lines = 1")).await;
    chat(&gate).await;
    chat(&gate).await;
    gate.until_metric(r#"tollgate_policy_log_lines_dropped_total{policy="talker"}"#, 3.0).await;
}
