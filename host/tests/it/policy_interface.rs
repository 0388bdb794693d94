//! Every function and hook of the interface has a test that sees what it does, or that it is refused. Here stand the
//! list, the hooks and the set-up; imports have modules of their own.

use std::{collections::BTreeSet, fs};

use http::Method;
use serde_json::json;
use wit_parser::Resolve;

use crate::support::{Answer, Asking, LlmServer, Log, TestProxy, asking::told, guest, rpm, until};

/// What the interface has, and the test for it.
const TESTS: [(&str, &str); 34] = [
    ("lifecycle.configure", "policy_interface::a_policy_that_refuses_its_settings_leaves_the_old_one_serving"),
    ("authenticate.check", "policy_interface::authenticate_lets_in_rejects_or_has_no_opinion"),
    ("admit.decide", "policy_interface::admit_charges_rejects_or_has_no_opinion"),
    ("route.choose", "policy_interface::route_picks_ranks_rejects_or_has_no_opinion"),
    ("settle.done", "settle_hook::an_observer_is_told_once_of_every_call_and_what_it_came_to"),
    ("edits.set-model", "edits::another_model_runs_where_a_policy_sets_it_on_every_surface"),
    ("edits.set-json", "edits::a_value_is_set_or_taken_out_and_the_rest_of_the_body_stays_as_it_came"),
    ("edits.remove-json", "edits::a_value_is_set_or_taken_out_and_the_rest_of_the_body_stays_as_it_came"),
    ("edits.set-upstream-header", "edits::headers_reach_the_backend_and_the_caller"),
    ("edits.set-response-header", "edits::headers_reach_the_backend_and_the_caller"),
    ("credential.raw", "credential::a_policy_that_was_granted_it_reads_the_credential_and_still_writes_it_nowhere"),
    (
        "credential.set-attribute",
        "credential::attributes_that_a_policy_gives_hold_for_the_call_where_the_store_has_none",
    ),
    ("request.header", "policy_interface_request::headers_are_seen_save_credentials_cookies_and_masked_ones"),
    ("request.json", "policy_interface_request::json_is_read_by_pointer_and_null_is_not_absent"),
    ("request.peer", "policy_interface_request::the_caller_s_address_is_known_at_every_hook"),
    ("request.peer-in", "policy_interface_request::the_caller_s_address_is_known_at_every_hook"),
    ("request.path", "policy_interface_request::the_path_has_no_query"),
    ("request.prefix-hash", "policy_interface_request::prompts_that_begin_alike_have_one_hash"),
    ("catalogue.candidates", "policy_interface_request::candidates_are_counted_within_the_key_s_scope"),
    ("catalogue.size-bytes", "policy_interface_request::models_and_backends_are_described"),
    ("catalogue.parameters", "policy_interface_request::models_and_backends_are_described"),
    ("catalogue.backend-name", "policy_interface_request::models_and_backends_are_described"),
    ("principals.limit", "policy_interface_request::policies_are_told_each_limit_of_key_user_and_model"),
    ("principals.limits", "policy_interface_request::policies_are_told_each_limit_of_key_user_and_model"),
    ("principals.attribute", "policy_interface_request::attributes_are_those_of_the_key"),
    ("keys.verify", "policy_interface_request::verify_tells_of_a_proven_key_only"),
    ("state.add", "policy_interface_env::counters_and_values_outlive_a_reload_and_belong_to_one_policy"),
    ("state.get", "policy_interface_env::counters_and_values_outlive_a_reload_and_belong_to_one_policy"),
    ("state.put", "policy_interface_env::counters_and_values_outlive_a_reload_and_belong_to_one_policy"),
    ("env.now-ms", "policy_interface_env::the_time_stands_still_within_a_hook"),
    ("env.local-now", "policy_interface_env::local_time_follows_the_zone_through_the_end_of_summer_time"),
    ("env.random", "policy_interface_env::random_numbers_differ_by_draw_call_and_policy"),
    ("env.log", "policy_interface_env::a_policy_s_words_stand_in_the_log_in_bounds"),
    ("types.facts", "policy_interface::each_hook_is_told_the_facts_of_the_call"),
];

#[test]
fn every_function_and_hook_has_its_test() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(guest::root().join("wit")).unwrap();
    let interfaces = resolve.packages[package].interfaces.iter();
    let functions = interfaces.flat_map(|(name, id)| {
        let functions = resolve.interfaces[*id].functions.keys();
        functions.map(move |function| format!("{name}.{function}"))
    });
    // Data has no function; what carries it has one test.
    let expected: BTreeSet<String> = functions.chain(["types.facts".to_owned()]).collect();
    let listed: BTreeSet<String> = TESTS.iter().map(|(function, _)| (*function).to_owned()).collect();
    assert_eq!(listed, expected);
    for (function, test) in TESTS {
        let (module, name) = test.split_once("::").unwrap();
        let source = fs::read_to_string(guest::root().join(format!("host/tests/it/{module}.rs"))).unwrap();
        let is_there = source.split("#[tokio::test").any(|item| item.contains(&format!("async fn {name}() {{")));
        assert!(is_there, "{function}: there is no test {test}");
    }
}

async fn two_backends() -> (LlmServer, LlmServer) {
    (LlmServer::start("gpu-1", &["llama3:latest"]).await, LlmServer::start("gpu-2", &["llama3:latest"]).await)
}

async fn chat(gate: &TestProxy) -> Answer {
    gate.post("/v1/chat/completions", &json!({ "model": "llama3", "messages": [] })).await
}

async fn sent(request: reqwest::RequestBuilder) -> Answer {
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn authenticate_lets_in_rejects_or_has_no_opinion() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let keyless = |asked: &str| {
        let body = json!({ "model": "llama3", "messages": [] }).to_string();
        let request = asking.gate.client().post(asking.gate.url("/v1/chat/completions")).body(body);
        request.header("x-ask-at", "authenticate").header("x-ask", asked.to_owned())
    };
    assert_eq!(sent(keyless("allow guest-7")).await.status, 200, "it lets in whom no key proves");
    log.says(&["\"message\":\"call\"", "ask-authenticate/guest-7"]).await;
    assert_eq!(told(keyless("path")).await, "/v1/chat/completions", "it rejects");
    let no_opinion = sent(keyless("path").header("x-answer", "log")).await;
    assert_eq!((no_opinion.status, no_opinion.code().as_str()), (401, "invalid_api_key"), "{no_opinion:?}");
    // A key's own id, claimed by a caller who didn't prove it, is a name like any other.
    let id = asking.gate.key()[3..13].to_owned();
    assert_eq!(sent(keyless(&format!("allow {id}"))).await.status, 200);
    log.says(&["\"message\":\"call\"", &format!("ask-authenticate/{id}")]).await;
}

#[tokio::test]
async fn admit_charges_rejects_or_has_no_opinion() {
    let asking = Asking::start().await;
    for _ in 0..2 {
        assert_eq!(sent(asking.call("admit", "charge lunches 2")).await.status, 200);
    }
    let third = sent(asking.call("admit", "charge lunches 2")).await;
    assert_eq!((third.status, third.code().as_str()), (429, "rate_limit_exceeded"), "{third:?}");
    assert!(third.body.contains("lunches"), "{third:?}");
    assert_eq!(asking.ask("admit", "path").await, "/v1/chat/completions");
    let no_opinion = sent(asking.call("admit", "path").header("x-answer", "log")).await;
    assert_eq!(no_opinion.status, 200, "{no_opinion:?}");
}

#[tokio::test]
async fn route_picks_ranks_rejects_or_has_no_opinion() {
    let (gpu_1, gpu_2) = two_backends().await;
    let gpu_3 = LlmServer::start("gpu-3", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&gpu_1).backend(&gpu_2).backend(&gpu_3);
    // No probe tells the gate which of them are gone.
    let builder = builder.set("upstream.probe_interval = \"1h\"");
    let gate = builder.policy("ask-route", &guest::gallery("ask-route")).start().await;
    let ask = |question: &str| {
        let body = json!({ "model": "llama3", "messages": [] }).to_string();
        let request = gate.request(Method::POST, "/v1/chat/completions").body(body);
        request.header("x-ask-at", "route").header("x-ask", question.to_owned())
    };
    for _ in 0..3 {
        assert_eq!(sent(ask("pick 1")).await.backend(), Some("gpu-2"));
        assert_eq!(sent(ask("rank 0 1")).await.backend(), Some("gpu-1"));
    }
    let calls = gpu_1.calls() + gpu_2.calls();
    assert_eq!(told(ask("path")).await, "/v1/chat/completions");
    assert_eq!(gpu_1.calls() + gpu_2.calls(), calls, "a rejected call goes nowhere");
    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(sent(ask("path").header("x-answer", "log")).await.backend().unwrap().to_owned());
    }
    assert_ne!(turns[0], turns[1], "without an opinion the built-in policy decides: {turns:?}");
    assert_eq!(turns[..3], turns[3..]);

    gpu_2.kill().await;
    gpu_3.kill().await;
    assert_eq!(sent(ask("rank 2 0")).await.backend(), Some("gpu-1"), "the next in the order is tried");
    let picked = sent(ask("pick 1")).await;
    assert_eq!((picked.status, picked.code().as_str()), (502, "backend_unreachable"), "no other is tried: {picked:?}");
}

#[tokio::test]
async fn each_hook_is_told_the_facts_of_the_call() {
    let asking = Asking::start_with(|builder| builder.with_key(|key| key.user = Some("ann".to_owned()))).await;
    let body = json!({ "model": "Llama3", "messages": [], "max_tokens": 7, "stream": true }).to_string();
    let length = body.len();
    let tokens = length.div_ceil(4);
    let id = asking.gate.key()[3..13].to_owned();
    let facts = async |hook: &str| told(asking.call(hook, "facts").body(body.clone())).await;

    let told = facts("authenticate").await;
    let scheme = format!("Some(Presented {{ scheme: Scheme::Bearer, key-id: Some(\"{id}\") }})");
    assert_eq!(
        told,
        format!("Head {{ surface: Surface::Openai, operation: Operation::Chat, body-bytes: Some({length}) }} {scheme}")
    );
    let call = format!(
        "Call {{ surface: Surface::Openai, operation: Operation::Chat, model: \"llama3:latest\", body-bytes: {length}, \
         input-tokens: {tokens}, output-cap: Some(7), streaming: true }}"
    );
    let principal = format!("Principal {{ subject: \"{id}\", user: Some(\"ann\") }}");
    assert_eq!(facts("admit").await, format!("{call} {principal}"));
    let backend = "[Backend { id: 0, weight: 1, in-flight: 0, model-in-flight: 0, capacity: None, queued: 0, \
                   first-token-us: None, tokens-per-second-milli: None, errors-permille: 0, resident: true }]";
    assert_eq!(facts("route").await, format!("{call} {backend}"));
}

#[tokio::test]
async fn a_policy_that_refuses_its_settings_leaves_the_old_one_serving() {
    const LOG: &str = r#"(import "tollgate:policy/env@0.1.0" "log" (func $log (param i32 i32 i32)))"#;
    const NOW: &str = r#"(import "tollgate:policy/env@0.1.0" "now-ms" (func $now (result i64)))"#;
    // "no!" at 3000.
    const WORD: &str = "(i32.store (i32.const 3000) (i32.const 0x216f6e))";
    let refuses = format!(
        "{WORD} (i32.store8 (i32.const 1024) (i32.const 1))
         (i32.store (i32.const 1028) (i32.const 3000)) (i32.store (i32.const 1032) (i32.const 3)) (i32.const 1024)"
    );
    let logs = format!("{WORD} (call $log (i32.const 1) (i32.const 3000) (i32.const 3)) (i32.const 1024)");
    // Two bytes, `{}`.
    let reads = "(if (i32.ne (i32.load16_u (local.get 0)) (i32.const 0x7d7b)) (then (unreachable)))
        (if (i32.ne (local.get 1) (i32.const 2)) (then (unreachable))) (i32.const 1024)";

    let log = Log::listen();
    let (gpu_1, gpu_2) = two_backends().await;
    // Waiting takes many calls, which the default limit must not refuse.
    let builder = TestProxy::builder().backend(&gpu_1).backend(&gpu_2).with_key(rpm(1_000_000));
    let gate = builder.policy("settings-reader", &guest::picking(1)).start().await;
    for (imports, configure, says) in [
        ("", refuses.as_str(), "it refuses its settings: no!"),
        ("", "(unreachable)", "its `configure` failed"),
        ("", "(loop $again (br $again)) (unreachable)", "its `configure` failed"),
        (NOW, "(drop (call $now)) (i32.const 1024)", "it called `env.now-ms`, which may not be called in configure"),
    ] {
        gate.put_policy("settings-reader", &picks_the_first(imports, configure));
        log.says(&["policy 'settings-reader' is not used", says, "the version before it goes on serving"]).await;
        assert_eq!(chat(&gate).await.backend(), Some("gpu-2"), "{says}");
    }
    for (imports, configure) in [(LOG, logs.as_str()), ("", reads)] {
        gate.put_policy("settings-reader", &picks_the_first(imports, configure));
        until("the new version", async || chat(&gate).await.backend() == Some("gpu-1")).await;
        gate.put_policy("settings-reader", &guest::picking(1));
        until("the old version", async || chat(&gate).await.backend() == Some("gpu-2")).await;
    }
    log.says(&["settings-reader", "\"text\":\"no!\""]).await;
}

fn picks_the_first(imports: &str, configure: &str) -> Vec<u8> {
    let hook = r#"(func (export "tollgate:policy/route@0.1.0#choose")
        (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052) (i32.const 0)) (i32.const 2048))"#;
    guest::component("router", &guest::module_that(imports, configure, hook))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_may_take_longer_to_start_than_to_answer() {
    let (gpu_1, gpu_2) = two_backends().await;
    let builder = TestProxy::builder().backend(&gpu_1).backend(&gpu_2);
    let builder = builder.with_key(rpm(1_000_000));
    let gate = builder.policy("slow-starter", &guest::picking(1)).start().await;
    // Some 20 ms: ten times what a hook may take.
    let works = "(local.set 0 (i32.const 20000000))
        (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 1024)";
    gate.put_policy("slow-starter", &picks_the_first("", works));
    until("the new version", async || {
        let answer = chat(&gate).await;
        assert_eq!(answer.status, 200, "a version that was taken serves: {answer:?}");
        answer.backend() == Some("gpu-1")
    })
    .await;
}

#[tokio::test]
async fn an_interface_that_this_version_does_not_have_is_refused_by_name() {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).policy_folder().start().await;
    for (name, import, why) in [
        ("wants-future", "tollgate:policy/future@0.1.0", "this version has no such interface"),
        ("wants-version", "tollgate:policy/edits@0.9.0", "it was built for another version of the interface"),
    ] {
        gate.put_policy(name, &wat::parse_str(format!(r#"(component (import "{import}" (instance)))"#)).unwrap());
        let import = format!("it imports `{import}`, which the gate doesn't link");
        log.says(&[&format!("policy '{name}' is not used"), &import, why]).await;
    }
    assert_eq!(chat(&gate).await.status, 200, "the gate serves on");
}
