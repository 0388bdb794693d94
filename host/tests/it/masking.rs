//! The credential that a caller presents is no policy's business: no import tells it, wherever the caller repeats it, and
//! nothing that a policy writes holds it.
//!
//! What a policy was told comes here spelled, letter by letter: the gate would blank it in a plain text, and hide a leak.

use std::{collections::BTreeSet, fs};

use http::Method;
use reqwest::RequestBuilder;
use serde_json::json;
use wit_parser::Resolve;

use crate::support::{Answer, Asking, Log, asking::told, guest};

/// What a policy may call, and the test that the credential doesn't come through it.
const IMPORTS: [(&str, &str); 28] = [
    ("request.header", "masking::no_import_tells_the_credential"),
    ("request.json", "masking::no_import_tells_the_credential"),
    ("request.peer", "masking::no_import_tells_the_credential"),
    ("request.peer-in", "masking::an_argument_that_holds_the_credential_is_blanked_in_the_fault"),
    ("request.path", "masking::a_path_that_names_the_credential_is_blanked_and_refused"),
    ("request.prefix-hash", "masking::no_import_tells_the_credential"),
    ("edits.set-model", "masking::the_credential_is_put_into_no_call"),
    ("edits.set-json", "masking::the_credential_is_put_into_no_call"),
    ("edits.remove-json", "masking::the_credential_is_put_into_no_call"),
    ("edits.set-upstream-header", "masking::the_credential_is_put_into_no_call"),
    ("edits.set-response-header", "masking::the_credential_is_put_into_no_call"),
    ("catalogue.candidates", "masking::no_import_tells_the_credential"),
    ("catalogue.size-bytes", "masking::no_import_tells_the_credential"),
    ("catalogue.parameters", "masking::no_import_tells_the_credential"),
    ("catalogue.backend-name", "masking::no_import_tells_the_credential"),
    ("principals.limit", "masking::an_argument_that_holds_the_credential_is_blanked_in_the_fault"),
    ("principals.limits", "masking::no_import_tells_the_credential"),
    ("principals.attribute", "masking::no_import_tells_the_credential"),
    ("keys.verify", "masking::no_import_tells_the_credential"),
    ("credential.raw", "credential::a_policy_that_was_granted_it_reads_the_credential_and_still_writes_it_nowhere"),
    ("credential.set-attribute", "credential::attributes_are_bounded_and_hold_no_credential"),
    ("state.add", "masking::state_keeps_no_credential"),
    ("state.get", "masking::state_keeps_no_credential"),
    ("state.put", "masking::state_keeps_no_credential"),
    ("env.now-ms", "masking::no_import_tells_the_credential"),
    ("env.local-now", "masking::no_import_tells_the_credential"),
    ("env.random", "masking::no_import_tells_the_credential"),
    ("env.log", "masking::the_log_and_the_output_hold_no_credential"),
];

/// Where a policy's words go besides, and the test.
const DECISIONS: [(&str, &str); 6] = [
    ("message of a rejection", "masking::a_message_holds_no_credential"),
    ("code of a rejection", "masking::a_name_that_holds_the_credential_is_a_bad_answer"),
    ("name of a charge", "masking::a_name_that_holds_the_credential_is_a_bad_answer"),
    ("partition of a charge", "masking::a_name_that_holds_the_credential_is_a_bad_answer"),
    ("subject", "masking::a_name_that_holds_the_credential_is_a_bad_answer"),
    ("facts", "masking::no_fact_tells_the_credential"),
];

/// The interfaces of `imports.wit`.
const INTERFACES: [&str; 8] = ["request", "edits", "catalogue", "principals", "keys", "credential", "state", "env"];

/// What another service would give out: it fits wherever a name fits.
const FOREIGN: &str = "skforeign0123456789abcd";

#[test]
fn every_import_has_its_test_of_masking() {
    let text = fs::read_to_string(guest::root().join("wit/imports.wit")).unwrap();
    let named: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("interface ")?.strip_suffix(" {")).collect();
    assert_eq!(named, INTERFACES);
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(guest::root().join("wit")).unwrap();
    let functions: BTreeSet<String> = INTERFACES
        .iter()
        .flat_map(|name| {
            let id = resolve.packages[package].interfaces[*name];
            resolve.interfaces[id].functions.keys().map(move |function| format!("{name}.{function}"))
        })
        .collect();
    let listed: BTreeSet<String> = IMPORTS.iter().map(|(import, _)| (*import).to_owned()).collect();
    assert_eq!(listed, functions);
    for (what, test) in IMPORTS.iter().chain(&DECISIONS) {
        let (module, name) = test.split_once("::").unwrap();
        let source = fs::read_to_string(guest::root().join(format!("host/tests/it/{module}.rs"))).unwrap();
        let is_there = source.split("#[tokio::test").any(|item| item.contains(&format!("async fn {name}() {{")));
        assert!(is_there, "{what}: there is no test {test}");
    }
}

/// The credential in a form in which the gate doesn't know it, and a test's policy does.
fn glued(credential: &str) -> String {
    let (begin, end) = credential.split_at(credential.len() / 2);
    format!("{begin}{{+}}{end}")
}

/// The call with the key wherever a caller may put it.
fn repeated(call: RequestBuilder, key: &str) -> RequestBuilder {
    let text = format!("it is {key}, twice: {key}");
    let body = json!({
        "model": "llama3", "messages": [{ "role": "user", "content": text }], "user": key, "metadata": { "k": [key] }, "n": [key],
    });
    let (client, call) = call.build_split();
    let mut call = call.unwrap();
    call.url_mut().set_query(Some(&format!("key={key}")));
    RequestBuilder::from_parts(client, call)
        .body(body.to_string())
        .header("x-api-key", key)
        .header("cookie", format!("key={key}"))
        .header("proxy-authorization", format!("Bearer {key}"))
        .header("api-key", key)
        .header("x-said", &text)
        .header("x-said", key)
        .header("user-agent", key)
        .header("referer", format!("http://gate/?key={key}"))
        .header("x-request-id", format!("-{key}"))
}

/// What a policy was told, put together again.
async fn unspelled(call: RequestBuilder) -> String {
    let told = told(call.header("x-answer", "spelled")).await;
    let mut letters = told.chars();
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        text.push(letter);
        assert_eq!(letters.next(), Some('-'), "{told}");
    }
    text
}

#[tokio::test]
async fn no_import_tells_the_credential() {
    let asking = Asking::start().await;
    let key = asking.gate.key();
    let headers = "header authorization | header x-api-key | header api-key | header cookie \
                   | header proxy-authorization";
    let any = [
        (headers, "none | none | none | none | none"),
        ("header x-said", "it is [credential], twice: [credential], [credential]"),
        ("header user-agent | header x-request-id", "[credential] | -[credential]"),
        ("header referer", "http://gate/?key=[credential]"),
        ("path | peer", "/v1/chat/completions | 127.0.0.1"),
        ("backend-name 0 | size-bytes llama3 | parameters llama3", "gpu-1 | 4000000000 | 8000000000"),
    ];
    for hook in ["authenticate", "admit", "route"] {
        for (questions, answers) in any {
            let told = unspelled(repeated(asking.call(hook, questions), key)).await;
            assert_eq!(told, answers, "{questions} at {hook}");
        }
        let told = unspelled(repeated(asking.call(hook, "now | local UTC | random"), key)).await;
        assert!(!told.contains(&key[14..]), "{told} at {hook}");
    }
    let later = [
        ("json /user", "\"[credential]\""),
        ("json /messages/0/content", "\"it is [credential], twice: [credential]\""),
        ("json /n", "[\"[credential]\"]"),
        (
            "attribute groups | candidates llama3 | limit key requests-per-minute | limits llama3",
            " | 1 | 100 | Holder::Key LimitName::RequestsPerMinute 100",
        ),
    ];
    for hook in ["admit", "route"] {
        for (questions, answers) in later {
            let told = unspelled(repeated(asking.call(hook, questions), key)).await;
            assert_eq!(told, answers, "{questions} at {hook}");
        }
        let whole = unspelled(repeated(asking.call(hook, "json "), key)).await;
        assert!(whole.contains("metadata") && !whole.contains(&key[14..]), "{whole} at {hook}");
        // The credential begins between the two, and is not told letter by letter.
        let hashes = unspelled(repeated(asking.call(hook, "prefix-hash 12 | prefix-hash 40"), key)).await;
        let (before, within) = hashes.split_once(" | ").unwrap();
        assert!(before.parse::<u64>().is_ok() && within == "none", "{hashes}");
    }
    let verified = unspelled(repeated(asking.call("authenticate", "verify"), key)).await;
    assert!(verified.contains(&key[3..13]) && !verified.contains(&key[14..]), "{verified}");
}

#[tokio::test]
async fn a_credential_that_is_spelled_in_escapes_is_blanked_too() {
    let asking = Asking::start().await;
    let key = asking.gate.key();
    let escaped: String = key.chars().map(|letter| format!("\\u{:04X}", u32::from(letter))).collect();
    for spelled in [escaped, format!("\\u006f{}", &key[1..]), key.replace('_', "\\u005F")] {
        let body = format!(r#"{{"model":"llama3","messages":["it is \"{spelled}\"","{spelled}","\u00e9"]}}"#);
        for hook in ["admit", "route"] {
            let told = async |questions: &str| unspelled(asking.call(hook, questions).body(body.clone())).await;
            assert_eq!(told("json /messages/0").await, r#""it is \"[credential]\"""#, "{spelled}");
            let whole = r#"{"model":"llama3","messages":["it is \"[credential]\"","[credential]","\u00e9"]}"#;
            assert_eq!(told("json ").await, whole, "{spelled}");
            assert_eq!(told("prefix-hash 11").await, "none", "{spelled}");
            assert!(told("prefix-hash 10").await.parse::<u64>().is_ok(), "{spelled}");
        }
    }
}

#[tokio::test]
async fn no_fact_tells_the_credential() {
    let asking = Asking::start().await;
    let key = asking.gate.key();
    for hook in ["authenticate", "admit", "route"] {
        let facts = unspelled(repeated(asking.call(hook, "facts"), key)).await;
        assert!(!facts.contains(&key[14..]), "{facts} at {hook}");
    }
    // A model's name would come in lower case.
    for model in [key.to_owned(), format!("library/{key}"), format!("x:{key}")] {
        let call = asking.call("admit", "facts").body(json!({ "model": model }).to_string());
        let answer = Answer::of(call.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_model_name"), "{answer:?}");
        assert!(!answer.body.contains(&key[14..]), "{answer:?}");
    }
}

#[tokio::test]
async fn a_path_that_names_the_credential_is_blanked_and_refused() {
    let asking = Asking::start().await;
    let (gate, key) = (&asking.gate, asking.gate.key());
    let encoded: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for name in [key, &encoded] {
        let path = format!("/v1/models/{name}");
        let call = gate.request(Method::GET, &path).header("x-ask-at", "authenticate").header("x-ask", "path");
        assert_eq!(unspelled(call).await, "/v1/models/[credential]");
        gate.get(&path).await.refusal("/v1", 400, "bad_model_name");
    }
}

#[tokio::test]
async fn an_argument_that_holds_the_credential_is_blanked_in_the_fault() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let key = asking.gate.key();
    for (question, told) in [
        ("peer-in", "'[credential]' is no network"),
        ("limit key", "there is no limit '[credential]'"),
        ("no-such-question", "failed at admit (trap)"),
    ] {
        let call = asking.call("admit", &format!("{question} {}", glued(key)));
        assert_eq!(Answer::of(call.send().await.unwrap()).await.status, 503, "{question}");
        log.says(&["policy_fault", told]).await;
    }
    // A panic is told on the output.
    let call = asking.call("admit", &glued(key));
    assert_eq!(Answer::of(call.send().await.unwrap()).await.status, 503);
    log.says(&["policy says", "there is no question `[credential]`"]).await;
    assert!(log.lines_with(&[&key[14..]]).is_empty());
}

#[tokio::test]
async fn the_log_and_the_output_hold_no_credential() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let key = asking.gate.key();
    for hook in ["authenticate", "admit", "route"] {
        for way in ["log", "print", "print-error"] {
            told(asking.call(hook, &format!("{way} masked-{hook}-{way} {0} {0}", glued(key)))).await;
            log.says(&["policy says", &format!("masked-{hook}-{way} [credential] [credential]")]).await;
        }
        asking.gate.hand.advance(std::time::Duration::from_secs(1));
    }
    assert!(log.lines_with(&[&key[14..]]).is_empty());
}

#[tokio::test]
async fn a_message_holds_no_credential() {
    let asking = Asking::start().await;
    for hook in ["authenticate", "admit", "route"] {
        let said = asking.ask(hook, &format!("say <{}>", glued(asking.gate.key()))).await;
        assert_eq!(said, "<[credential]>", "{hook}");
    }
}

#[tokio::test]
async fn a_name_that_holds_the_credential_is_a_bad_answer() {
    // Lets in everybody, as `x`.
    let allows = "(i32.store8 (i32.const 3000) (i32.const 120)) (i32.store8 (i32.const 2048) (i32.const 0))
        (i32.store (i32.const 2052) (i32.const 3000)) (i32.store (i32.const 2056) (i32.const 1))
        (i32.store8 (i32.const 2060) (i32.const 0)) (i32.const 2048)";
    let log = Log::listen();
    let asking = Asking::start_with(|builder| builder.policy("let-in", &guest::authenticator(allows))).await;
    let foreign = glued(FOREIGN);
    for (hook, question, what) in [
        ("authenticate", format!("allow {foreign}"), "subject"),
        ("authenticate", format!("code {foreign}"), "rejection's code"),
        ("admit", format!("code {foreign}"), "rejection's code"),
        ("route", format!("code {foreign}"), "rejection's code"),
        ("admit", format!("charge {foreign} 1"), "limit's name"),
        ("admit", format!("charge lunches 1 {foreign}"), "partition"),
    ] {
        let mut call = asking.call(hook, &question).build().unwrap();
        call.headers_mut().insert("authorization", format!("Bearer {FOREIGN}").parse().unwrap());
        let answer = Answer::of(asking.gate.client().execute(call).await.unwrap()).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{question}: {answer:?}");
        log.says(&[&format!("failed at {hook} (bad_answer)"), &format!("a {what} may not hold the credential")]).await;
    }
    assert_eq!(asking.server.calls(), 0);
    assert!(log.lines_with(&[FOREIGN]).is_empty());
}

#[tokio::test]
async fn the_credential_is_put_into_no_call() {
    let asking = Asking::start().await;
    let key = asking.gate.key();
    let (glued, spelled) = (glued(key), key.replace('o', "\\u006f"));
    let questions = [
        format!("set-model {glued}"),
        format!("set-json /a \"<{glued}>\""),
        format!("set-json /a \"{spelled}\""),
        format!("set-json /a/{glued} 1"),
        format!("set-json /a {{\"{glued}\":1}}"),
        format!("set-upstream-header x-a <{glued}>"),
        format!("set-response-header x-a <{glued}>"),
    ];
    let said = unspelled(asking.call("admit", &questions.join(" | "))).await;
    let expected = vec!["what is put into a call may not hold the credential"; questions.len()];
    assert_eq!(said.split(" | ").collect::<Vec<_>>(), expected);
    // What is taken out tells nothing.
    assert_eq!(unspelled(asking.call("admit", &format!("remove-json /{glued}"))).await, "ok");
}

#[tokio::test]
async fn state_keeps_no_credential() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let key = asking.gate.key();
    for hook in ["authenticate", "admit", "route"] {
        for question in [
            format!("put word <{}> 0", glued(key)),
            format!("put {} word 0", glued(key)),
            format!("add {} 1 0", glued(key)),
            format!("get {}", glued(key)),
        ] {
            let answer = Answer::of(asking.call(hook, &question).send().await.unwrap()).await;
            assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{question} at {hook}");
            log.says(&["neither a state key nor a state value may hold the credential", hook]).await;
        }
        // What was read is blanked, and may be kept.
        let call = asking.call(hook, &format!("put word {key} 0 | get word"));
        assert_eq!(unspelled(call).await, "done | [credential]", "{hook}");
    }
}
