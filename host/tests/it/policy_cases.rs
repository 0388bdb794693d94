//! Cases of policies: what they may say, what they are told when they are wrong, and that a policy serves only if they hold.

use std::{fs, path::Path, sync::Arc};

use serde_json::{Value, json};
use tollgate::{
    clock::Clock,
    config::{Config, PolicyFile},
    ports::{catalogue::NoBackends, limits::LimitSet},
    wasm::{CaseReport, Cases, Runtime, RuntimeConfig, Started, Terms},
};

use crate::support::{LlmServer, Log, TestProxy, guest, until};

/// What a gate gives a policy, but for the time: on a busy machine a case that needs more than this is wrong all the same.
const TERMS: &str = "cpu_budget = \"20ms\"\n[grants]\nraw_credential = true\n";

/// A policy that is asked nothing but cases, on the gate's own terms and these.
fn loaded(name: &str, component: &[u8], more: &str) -> (Runtime, Started) {
    let gate = Config::defaults_in(Path::new("/")).policies;
    let config = RuntimeConfig {
        cpu_budget: gate.cpu_budget,
        memory_bytes: 64 << 20,
        masked_headers: Vec::new(),
        default_limits: LimitSet::default(),
        ready_instances: 1,
        recheck_every: 0,
        cache: None,
    };
    let runtime = Runtime::start(config, Clock::system(), Arc::new(NoBackends)).unwrap();
    let file = PolicyFile::parse(&format!("{TERMS}{more}"), "p.toml", &gate).unwrap();
    let compiled = runtime.compile(component).unwrap();
    let started = runtime.start_policy(&name.into(), &compiled, &Terms::from(&file)).unwrap();
    (runtime, started)
}

fn reports(name: &str, component: &[u8], cases: &Value) -> Vec<CaseReport> {
    reports_with(name, component, "", cases)
}

/// The same with these settings, among others.
fn reports_with(name: &str, component: &[u8], more: &str, cases: &Value) -> Vec<CaseReport> {
    let (runtime, started) = loaded(name, component, more);
    runtime.run_cases(started.policy(), &Cases::parse(cases.to_string().as_bytes()).unwrap())
}

#[track_caller]
fn hold(name: &str, cases: &Value) {
    for report in reports(name, &guest::gallery(name), cases) {
        assert!(report.holds(), "{}: {:?}; got {}", report.name, report.differences, report.got);
    }
}

/// A case of the guest that asks imports, with what it must have been told.
fn asked(hook: &str, question: &str, told: &str, more: Value) -> Value {
    let mut case = json!({ "name": question, "hook": hook, "request": { "headers": {} },
        "expect": { "reject": { "code": "asked", "message": told } } });
    if let Value::Object(more) = more {
        more.into_iter().for_each(|(name, value)| case[name.as_str()] = value);
    }
    case["request"]["headers"]["x-ask-at"] = json!(hook);
    case["request"]["headers"]["x-ask"] = json!(question);
    case
}

#[test]
fn imports_answer_what_the_case_says() {
    let request = json!({ "request": { "headers": { "x-a": "b" }, "body": { "model": "m", "n": [1] }, "peer": "10.1.2.3",
        "path": "/api/generate" } });
    let principals = json!({ "principal": { "subject": "k7", "user": "ann" }, "call": { "model": "llama3" }, "principals": {
        "attributes": { "groups": ["a", "b"] },
        "limits": [{ "holder": "key", "name": "requests-per-minute", "value": 5 },
            { "holder": "user", "name": "tokens-per-day", "of-model": true, "value": 9 }] } });
    let catalogue = json!({ "catalogue": { "models": { "llama3": { "candidates": 2, "size-bytes": 7, "parameters": 8 } },
        "backend-names": { "3": "gpu" } } });
    let state = json!({ "state": { "counters": { "c": 41 }, "values": { "v": "text" } } });
    let night = json!({ "clock": "2026-07-01T22:30:05Z" });
    hold(
        "ask-admit",
        &json!([
            asked(
                "admit",
                "header x-a | header x-b | json /n/0 | json /none | path | peer | peer-in 10.0.0.0/8",
                "b | none | 1 | none | /api/generate | 10.1.2.3 | true",
                request
            ),
            asked(
                "admit",
                "attribute groups | limits llama3:latest | limit key requests-per-minute",
                "a+b | Holder::Key LimitName::RequestsPerMinute 5, Holder::User LimitName::TokensPerDay 9* | 5",
                principals
            ),
            asked(
                "admit",
                "candidates llama3:latest | size-bytes llama3 | parameters llama3 | parameters other | backend-name 3",
                "2 | 7 | 8 | none | gpu",
                catalogue
            ),
            asked("admit", "add c 1 0 | get v | get none", "42 | text | none", state),
            asked("admit", "now | local Europe/Berlin", "1782945005000 | 2026-07-02 4 00:30:05", night),
        ]),
    );
}

#[test]
fn a_key_is_verified_as_the_case_says() {
    let key = |standing: &str| json!({ "keys": { "verify": { "id": "k7", "user": "ann", "standing": standing } } });
    hold(
        "ask-authenticate",
        &json!([
            asked("authenticate", "verify", "none", json!({})),
            { "name": "allowed", "hook": "authenticate", "request": { "headers": { "x-ask-at": "authenticate", "x-ask": "allow ann" } },
                "expect": { "allow": { "subject": "ann" } } },
            { "name": "no question", "hook": "authenticate", "expect": "abstain" },
        ]),
    );
    let (runtime, started) = loaded("ask-authenticate", &guest::gallery("ask-authenticate"), "");
    for (standing, told) in
        [("active", "Active"), ("disabled", "Disabled"), ("expired", "Expired"), ("revoked", "Revoked")]
    {
        let cases = json!([asked("authenticate", "verify", "", key(standing))]);
        let reports = runtime.run_cases(started.policy(), &Cases::parse(cases.to_string().as_bytes()).unwrap());
        let got = reports[0].got.to_string();
        assert!(got.contains(told) && got.contains("k7") && got.contains("ann"), "{got}");
    }
}

#[test]
fn settings_time_and_state_are_each_case_s_own() {
    let office = |name: &str, clock: &str, settings: Value, expect: Value| json!({ "name": name, "hook": "admit", "clock": clock, "settings": settings, "expect": expect });
    let closed = json!({ "reject": { "reason": "forbidden", "code": "outside_office_hours" } });
    hold(
        "office-hours",
        &json!([
            office("a Tuesday at noon", "2026-03-03T12:00:00Z", json!({}), json!("abstain")),
            office("a Sunday", "2026-03-01T12:00:00Z", json!({}), closed.clone()),
            office("it is 18 o'clock in Berlin", "2026-07-01T16:00:00Z", json!({ "zone": "Europe/Berlin" }), closed),
            office(
                "a setting that it doesn't know",
                "2026-03-03T12:00:00Z",
                json!({ "zones": 1 }),
                json!({ "fault": "instantiate" })
            ),
        ]),
    );
    // Twice the same: the second finds nothing of the first.
    let sticky = json!({ "name": "nobody was here", "hook": "route", "backends": [{ "id": 0, "in-flight": 1 }, { "id": 1 }],
        "expect": { "ranked": [1, 0] } });
    hold("sticky", &json!([sticky, sticky]));
    let used = json!({ "name": "a million is told", "hook": "settle", "outcome": { "input-tokens": 600_000, "output-tokens": 400_000 },
        "principal": { "subject": "ann" }, "expect": "done", "log": ["ann has used 1000000 tokens today"] });
    hold("spend-alert", &json!([used]));
}

#[test]
fn edits_are_what_the_call_is_with_them() {
    let body = json!({ "model": "llama3:latest", "options": { "seed": 1 } });
    let pinned = json!({ "name": "pinned", "hook": "admit", "request": { "body": body.clone() }, "expect": { "admit": [] },
        "edits": { "model": "llama3:latest", "body": { "options": { "num_ctx": 8192, "seed": 1 } } } });
    let unedited = json!({ "name": "not Ollama's", "hook": "admit", "call": { "surface": "openai" },
        "request": { "body": body }, "expect": "abstain", "edits": "none" });
    let mut wrong = pinned.clone();
    wrong["edits"]["body"]["options"]["num_ctx"] = json!(4096);
    let mut silent = pinned.clone();
    silent["edits"] = json!("none");
    let reports = reports("pin-num-ctx", &guest::gallery("pin-num-ctx"), &json!([pinned, unedited, wrong, silent]));
    assert!(reports[0].holds() && reports[1].holds(), "{reports:?}");
    assert_eq!(reports[2].differences, ["in its edits: at /body/options/num_ctx: expected 4096, got 8192"]);
    assert!(reports[3].differences.concat().starts_with("in its edits: expected \"none\", got {"), "{reports:?}");
    let headers = "set-upstream-header x-a 1 | set-response-header x-b 2";
    let case = json!({ "name": "headers", "hook": "admit", "expect": "abstain",
        "request": { "headers": { "x-ask-at": "admit", "x-answer": "log", "x-ask": headers } },
        "edits": { "upstream-headers": { "x-a": "1" }, "response-headers": { "x-b": "2" } } });
    let told = &reports_with("ask-admit", &guest::gallery("ask-admit"), "", &json!([case]))[0];
    assert!(told.holds(), "{told:?}");
}

#[test]
fn a_granted_credential_is_the_case_s_and_so_is_what_is_said_of_the_caller() {
    let settings = "[settings]\nsecret = \"a secret of thirty-two bytes, ok!\"";
    // HS256 over `sub` "ann" and an `exp` in the year 2100, by that secret.
    let token = concat!(
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJleHAiOjQxMDI0NDQ4MDB9.",
        "zdOvMn4i1BBICDRkWRHElIk_0sj2TxO7kuyZUvgBY1c"
    );
    let case = |name: &str, credential: &str, expect: Value| {
        json!({ "name": name, "hook": "authenticate", "presented": { "scheme": "bearer", "credential": credential },
            "expect": expect })
    };
    let known = json!({ "allow": { "subject": "ann", "attributes": {} } });
    let cases = json!([
        case("signed", token, known),
        case("forged", "eyJhbGciOiJIUzI1NiJ9.e30.e30", json!({ "reject": { "code": "invalid_token" } })),
        case("no token", "op_something", json!("abstain")),
    ]);
    for report in reports_with("jwt", &guest::gallery("jwt"), settings, &cases) {
        assert!(report.holds(), "{report:?}");
    }
}

#[test]
fn a_failing_case_says_where_and_a_fault_says_which() {
    let failing = |component: &[u8], expect: Value| {
        let cases = json!([{ "name": "c", "hook": "route", "backends": [{ "id": 0 }, { "id": 1 }], "expect": expect }]);
        let report = reports("p", component, &cases).remove(0);
        (report.differences.join("; "), report.got)
    };
    assert_eq!(failing(&guest::picking(1), json!({ "pick": 0 })).0, "at /pick: expected 0, got 1");
    assert_eq!(failing(&guest::picking(1), json!({ "pick": 1 })).0, "");
    let unknown = failing(&guest::picking(9), json!({ "pick": 9 }));
    assert_eq!(unknown.1["detail"], "it named backend 9, which it was not offered");
    assert_eq!(failing(&guest::router("unreachable"), json!({ "fault": "trap" })).0, "");
    assert_eq!(failing(&guest::router("(loop (br 0)) (unreachable)"), json!({ "fault": "budget" })).0, "");
    assert!(failing(&guest::router("unreachable"), json!("abstain")).0.starts_with("expected \"abstain\", got {"));
}

#[test]
fn a_file_that_is_no_list_of_cases_says_where_it_is_wrong() {
    let case = |more: &str| format!(r#"[{{"name":"a","hook":"route","expect":"abstain"{more}}}]"#);
    for (text, place, problem) in [
        ("{}".to_owned(), "the top", "expected a sequence"),
        ("[1]".to_owned(), "[0]", "expected struct Case"),
        (
            r#"[{"name":"a","hook":"rout","expect":"abstain"}]"#.to_owned(),
            "[0].hook",
            "'rout' is none of authenticate, admit",
        ),
        (r#"[{"name":"a","hook":"route"}]"#.to_owned(), "[0]", "missing field `expect`"),
        (
            r#"[{"name":"a","hook":"route","expect":{"picks":1}}]"#.to_owned(),
            "[0].expect",
            "answers one of \"abstain\"",
        ),
        (case(r#","call":{"modle":"m"}"#), "[0].call.modle", "unknown field `modle`, expected one of"),
        (case(r#","call":{"operation":"chatt"}"#), "[0].call.operation", "'chatt' is none of generate, chat"),
        (case(r#","clock":"noon""#), "[0].clock", "write one like 2026-"),
        (case(r#","head":{}"#), "[0].head", "the hook `route` isn't told this"),
        (case(r#","backends":[]"#), "[0].backends", "name one at least"),
        (case(r#","edits":"none""#), "[0].edits", "the hook `route` changes no calls"),
        (
            r#"[{"name":"a","hook":"admit","expect":"abstain","edits":{"headers":{}}}]"#.to_owned(),
            "[0].edits",
            "an object of model, body, upstream-headers, response-headers",
        ),
        (case(r#","backends":[{"id":-1}]"#), "[0].backends[0].id", "invalid value"),
        (case(r#","request":{"headers":{"a b":"c"}}"#), "[0].request.headers.a b", "no header"),
        (
            case(r#","principals":{"limits":[{"holder":"key","name":"rpm","value":1}]}"#),
            "[0].principals.limits[0].name",
            "'rpm'",
        ),
        ("[] []".to_owned(), "the top", "trailing"),
        (format!("[{}]", vec![case("").trim_matches(['[', ']']); 201].join(",")), "", "201 cases"),
        (" ".repeat(2 << 20), "", "more than"),
    ] {
        let error = Cases::parse(text.as_bytes()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(problem), "{text:.100}: {error}");
    }
}

const ROUTES_TO_1: &str =
    r#"[{"name":"one","hook":"route","expect":{"pick":1}},{"name":"again","hook":"route","expect":{"pick":1}}]"#;

#[tokio::test]
async fn a_policy_whose_case_fails_never_serves_and_the_log_says_which_and_why() {
    let log = Log::listen();
    let (gpu_1, gpu_2) =
        (LlmServer::start("gpu-1", &["llama3:latest"]).await, LlmServer::start("gpu-2", &["llama3:latest"]).await);
    let builder = TestProxy::builder().backend(&gpu_1).backend(&gpu_2).policy_folder();
    let gate = builder.set("limits.requests_per_minute = 1000000").start().await;
    let serves = async |backend: &str| {
        let chat = async || gate.post("/v1/chat/completions", &json!({ "model": "llama3", "messages": [] })).await;
        let (one, other) = (chat().await, chat().await);
        one.backend() == Some(backend) && other.backend() == Some(backend)
    };
    fs::write(gate.policies().join("pick.cases.json"), ROUTES_TO_1).unwrap();
    gate.put_policy("pick", &guest::picking(1));
    until("the policy whose cases hold serves", async || serves("gpu-2").await).await;
    gate.put_policy("pick", &guest::picking(0));
    log.says(&[
        "policy 'pick' is not used: 2 of its 2 cases fail: 'one': at /pick: expected 1, got 0",
        "goes on serving",
    ])
    .await;
    assert!(serves("gpu-2").await, "the old version serves");
    fs::write(gate.policies().join("pick.cases.json"), r#"[{"nam":"one"}]"#).unwrap();
    log.says(&["policy 'pick' is not used: ", "pick.cases.json: at [0].nam: unknown field `nam`"]).await;
    fs::write(gate.policies().join("pick.cases.json"), ROUTES_TO_1.replace(":1}", ":0}")).unwrap();
    until("once its cases hold it serves", async || serves("gpu-1").await).await;
    assert_eq!(gate.policy_status("pick").await["last_failure"]["step"], "cases");
    // Cases that nothing is there for are nobody's concern.
    fs::write(gate.policies().join("nobody.cases.json"), ROUTES_TO_1).unwrap();
    fs::write(gate.policies().join("round-robin.cases.json"), ROUTES_TO_1).unwrap();
    log.says(&["policy 'round-robin' is not used: 2 of its 2 cases fail", "the built-in policy goes on serving"]).await;
    assert!(log.lines_with(&["policy 'nobody'"]).is_empty());
}
