//! The credential itself is for policies that an operator granted it, at `authenticate` alone, and what they say of a caller
//! holds for that call.

use http::Method;
use reqwest::RequestBuilder;
use serde_json::json;

use crate::support::{Answer, Asking, LlmServer, Log, TestProxy, asking::told, guest, proxy::Builder, until};

const TOKEN: &str = "eyJ-a-token-of-somebody-else-0123456789";
const GRANT: &str = "[grants]\nraw_credential = true";

/// A gate with the policies that ask, and the one that may ask for the credential.
async fn asking_with(more: impl FnOnce(Builder) -> Builder) -> Asking {
    let granted = |builder: Builder| {
        ["ask-raw", "ask-raw-late"]
            .iter()
            .fold(builder, |builder, name| builder.policy(name, &guest::gallery(name)).policy_terms(name, GRANT))
    };
    Asking::start_with(|builder| granted(more(builder))).await
}

fn call(asking: &Asking, credential: Option<&str>, questions: &str) -> RequestBuilder {
    let body = json!({ "model": "llama3", "messages": [] }).to_string();
    let request = asking.gate.client().post(asking.gate.url("/v1/chat/completions")).body(body);
    let request = request.header("x-ask-at", "raw").header("x-ask", questions);
    match credential {
        Some(text) => request.bearer_auth(text),
        None => request,
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    Answer::of(request.send().await.unwrap()).await
}

/// The answers, letter by letter: the gate would blank the credential in them.
async fn unspelled(request: RequestBuilder) -> String {
    told(request.header("x-answer", "spelled")).await.chars().step_by(2).collect()
}

#[tokio::test]
async fn a_policy_that_was_granted_it_reads_the_credential_and_still_writes_it_nowhere() {
    let (log, asking) = (Log::listen(), asking_with(|builder| builder).await);
    log.says(&["the policy is in force", "\"ask-raw\"", "reads credentials in clear"]).await;
    log.says(&["the policy is in force", "\"ask-admit\"", "changes calls"]).await;
    assert_eq!(unspelled(call(&asking, Some(TOKEN), "raw")).await, TOKEN);
    assert_eq!(unspelled(call(&asking, None, "raw")).await, "none");
    let by_header = call(&asking, None, "raw").header("x-api-key", TOKEN);
    assert_eq!(unspelled(by_header).await, TOKEN);
    assert_eq!(told(call(&asking, Some(TOKEN), "raw")).await, "[credential]", "a message doesn't tell it");
    assert_eq!(answer(call(&asking, Some(TOKEN), "raw").header("x-answer", "log")).await.status, 200);
    log.says(&["policy says", "answers [credential]"]).await;
    assert!(log.lines_with(&[TOKEN]).is_empty());
}

#[tokio::test]
async fn without_the_grant_such_a_policy_does_not_load() {
    let (log, server) = (Log::listen(), LlmServer::start("gpu-1", &["llama3:latest"]).await);
    let gate = TestProxy::builder().backend(&server).policy_folder().start().await;
    gate.put_policy("ask-raw", &guest::gallery("ask-raw"));
    log.says(&[
        "policy 'ask-raw' is not used: it imports `tollgate:policy/credential@0.1.0`",
        "needs a grant",
        "write `raw_credential = true` under [grants] in ask-raw.toml beside it",
    ])
    .await;
    until("the list", async || gate.policy_status("ask-raw").await["last_failure"]["step"] == "imports").await;
    assert_eq!(
        gate.post("/v1/chat/completions", &json!({ "model": "llama3" })).await.status,
        200,
        "the gate serves on"
    );
    // The grant is in force without the component being put there again, and so is its end.
    gate.put_policy_terms("ask-raw", GRANT);
    log.says(&["the policy is in force", "\"ask-raw\"", "reads credentials in clear"]).await;
    gate.put_policy_terms("ask-raw", "grants.raw_credential = false");
    log.says(&["policy 'ask-raw' is not used", "needs a grant", "the version before it goes on serving"]).await;
}

#[tokio::test]
async fn the_credential_can_t_be_asked_for_once_the_caller_is_known() {
    let (log, asking) = (Log::listen(), asking_with(|builder| builder).await);
    for question in ["raw", "set-attribute a b"] {
        let late = asking.call("raw-late", question);
        let answer = answer(late).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{answer:?}");
        let name = question.split(' ').next().unwrap();
        log.says(&[&format!("it called `credential.{name}`, which may not be called in admit")]).await;
    }
}

#[tokio::test]
async fn attributes_that_a_policy_gives_hold_for_the_call_where_the_store_has_none() {
    let stored = vec![("stored".to_owned(), vec!["theirs".to_owned()])];
    let log = Log::listen();
    let asking = asking_with(|builder| builder.with_key(|key| key.attributes = stored)).await;
    // `admit` is asked by `ask-admit`, which looks for a hook of its own: two policies can't be asked in one call, so the
    // one behind reads the attributes.
    let next = guest::gallery("ask-admit-next");
    asking.gate.put_policy("ask-admit-next", &next);
    log.says(&["the policy is in force", "\"ask-admit-next\""]).await;
    let given = "set-attribute groups a b | set-attribute groups staff night-shift | set-attribute stored mine";
    let attributes = "attribute groups | attribute stored | attribute none";
    let logged = |way: &'static str, credential: &str| {
        call(&asking, Some(credential), given).header("x-answer", way).header("x-ask-next", attributes)
    };
    assert_eq!(answer(logged("log", TOKEN)).await.status, 200);
    log.says(&["next staff+night-shift | mine | "]).await;
    // A policy without an opinion says nothing of the caller, who has a key here.
    assert_eq!(answer(logged("abstain", asking.gate.key())).await.status, 200);
    log.says(&["next  | theirs | "]).await;
}

#[tokio::test]
async fn attributes_are_bounded_and_hold_no_credential() {
    let asking = asking_with(|builder| builder).await;
    let (begin, end) = TOKEN.split_at(TOKEN.len() / 2);
    let many = (0..65).map(|name| format!("set-values n{name} 1 1")).collect::<Vec<_>>().join(" | ");
    for (questions, says) in [
        ("set-attribute  x", "1 to 64 characters"),
        (&format!("set-attribute {} x", "n".repeat(65)), "1 to 64 characters"),
        ("set-values n 65 1", "at most 64 values"),
        ("set-values n 1 1025", "at most 64 values of 1024 characters"),
        ("set-values n 10 1000 | set-values m 10 1000", "ok | all attributes of a call have at most 16384 bytes"),
        (&many, "ok | a call has at most 64 attributes"),
        (&format!("set-attribute n {begin}{{+}}{end}"), "may not hold the credential"),
    ] {
        let said = told(call(&asking, Some(TOKEN), questions)).await;
        assert!(said.contains(says), "{questions}: {said}");
    }
    assert_eq!(told(call(&asking, Some(TOKEN), "set-values n 10 1000 | set-values n 16 1000")).await, "ok | ok");
    let request = asking.gate.request(Method::GET, "/v1/models");
    assert_eq!(answer(request).await.status, 200);
}
