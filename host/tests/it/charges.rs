//! Charges of every unit and shape, asked for by a policy and held by the gate.

use std::{sync::Arc, time::Duration};

use reqwest::Response;
use tokio::sync::Notify;

use crate::support::{Answer, Asking, Log, Script, soon, until};

/// What the gate takes the body of a call for.
const INPUT: u64 = 10;

/// A call that is charged by these rules.
async fn call(asking: &Asking, rules: &str) -> Answer {
    let request = asking.call("admit", &format!("rules {rules}"));
    Answer::of(soon("an answer", request.send()).await.unwrap()).await
}

/// The same, answered with so many tokens.
async fn call_taking(asking: &Asking, rules: &str, (input, output): (u64, u64)) -> Answer {
    let usage = format!(r#"{{"usage":{{"prompt_tokens":{input},"completion_tokens":{output}}}}}"#);
    asking.server.script(Script::json(200, &usage));
    call(asking, rules).await
}

#[track_caller]
fn refused(answer: &Answer, code: &str, says: &str) -> Option<u64> {
    assert_eq!((answer.status, answer.code().as_str()), (429, code), "{answer:?}");
    assert!(answer.body.contains(says), "{answer:?}");
    answer.header("retry-after").map(|seconds| seconds.parse().unwrap())
}

/// Starts a stream; its first piece has come, and it ends when the script may go on.
async fn stream(asking: &Asking, rules: &str) -> (Response, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    asking.server.script(Script::sse().chunk("data: {}\n\n").wait(&go_on).end());
    let request = asking.call("admit", &format!("rules {rules}"));
    let mut response = soon("the head of an answer", request.send()).await.unwrap();
    assert_eq!(response.status(), 200);
    soon("the first piece", response.chunk()).await.unwrap();
    (response, go_on)
}

#[tokio::test]
async fn tokens_are_reserved_by_estimate_and_settled_by_usage() {
    let asking = Asking::start().await;
    // The estimate is the input and 256 tokens, for no cap is set.
    let rules = format!("tpm=all:1000/window:{}:60000", 2 * (INPUT + 256));
    for _ in 0..6 {
        assert_eq!(call_taking(&asking, &rules, (30, 20)).await.status, 200, "50 each");
    }
    let wait = refused(&call(&asking, &rules).await, "rate_limit_exceeded", "'tpm' of 532 tokens in 60 seconds");
    assert_eq!(wait, Some(61));
    asking.gate.advance(Duration::from_secs(60)).await;
    assert_eq!(call(&asking, &rules).await.status, 429);
    asking.gate.advance(Duration::from_secs(1)).await;
    assert_eq!(call_taking(&asking, &rules, (1, 1)).await.status, 200);
}

#[tokio::test]
async fn what_was_used_beyond_the_estimate_is_owed() {
    let asking = Asking::start().await;
    let rules = "in=input:1000/window:100:60000";
    assert_eq!(call_taking(&asking, rules, (250, 0)).await.status, 200);
    assert_eq!(refused(&call(&asking, rules).await, "rate_limit_exceeded", "input tokens"), Some(61));
    asking.gate.advance(Duration::from_secs(61)).await;
    assert_eq!(call_taking(&asking, rules, (1, 1)).await.status, 200, "the debt is paid");
    assert_eq!(asking.gate.metric("tollgate_limits_debt_units_total").await, 150.0);
    assert_eq!(asking.gate.metric("tollgate_limits_overshoot_units_total").await, 0.0);
}

#[tokio::test]
async fn a_backend_that_fails_costs_the_request_and_no_tokens() {
    let asking = Asking::start().await;
    let rules = "out=output:1000/window:300:60000 rpm=requests:1/window:3:60000";
    for (status, text) in [(404, r#"{"error":"no such model"}"#), (500, r#"{"error":"out of memory"}"#)] {
        asking.server.script(Script::json(status, text));
        assert_eq!(call(&asking, rules).await.status, status);
    }
    assert_eq!(call_taking(&asking, rules, (1, 44)).await.status, 200, "no token was taken");
    refused(&call(&asking, rules).await, "rate_limit_exceeded", "'rpm' of 3 requests");
    let more = "out=output:1000/window:300:60000";
    assert_eq!(call_taking(&asking, more, (1, 1)).await.status, 200, "44 are used, and 256 fit beside them");
    refused(&call(&asking, more).await, "rate_limit_exceeded", "'out' of 300 output tokens");
}

#[tokio::test]
async fn a_call_that_the_gate_gave_up_waiting_for_costs_the_input_that_may_have_been_read() {
    let asking = Asking::start_with(|builder| builder.set("upstream.first_byte_timeout = \"80ms\"")).await;
    let rules = "in=input:1000/window:15:60000";
    asking.server.script(Script::silence());
    assert_eq!(call(&asking, rules).await.status, 504);
    refused(&call(&asking, rules).await, "rate_limit_exceeded", "'in' of 15 input tokens");
}

#[tokio::test]
async fn a_caller_who_leaves_pays_for_what_came() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let rules = "all=all:1000/window:600:60000 running=concurrent:1";
    let (response, _go_on) = stream(&asking, rules).await;
    refused(&call(&asking, rules).await, "rate_limit_exceeded", "'running' of 1 calls at the same time");
    drop(response);
    log.says(&["\"message\":\"call\"", "\"end\":\"client_left\""]).await;
    // Had all that was reserved stayed, there would be no room for a third such call.
    for _ in 0..2 {
        assert_eq!(call_taking(&asking, rules, (10, 20)).await.status, 200);
    }
}

#[tokio::test]
async fn a_bucket_lets_a_burst_through_and_then_keeps_its_rate() {
    let asking = Asking::start().await;
    let rules = "burst=requests:1/bucket:3:1:10000";
    for _ in 0..3 {
        assert_eq!(call(&asking, rules).await.status, 200);
    }
    let says = "'burst' of 3 requests at once and 1 every 10 seconds";
    assert_eq!(refused(&call(&asking, rules).await, "rate_limit_exceeded", says), Some(10));
    asking.gate.hand.advance(Duration::from_millis(9_999));
    assert_eq!(refused(&call(&asking, rules).await, "rate_limit_exceeded", says), Some(1));
    asking.gate.hand.advance(Duration::from_millis(1));
    assert_eq!(call(&asking, rules).await.status, 200);
    assert_eq!(call(&asking, rules).await.status, 429);
}

#[tokio::test]
async fn a_budget_is_spent_until_midnight_and_clients_are_told_not_to_retry() {
    let asking = Asking::start().await;
    let rules = "day=requests:1/calendar:2:day";
    for _ in 0..2 {
        assert_eq!(call(&asking, rules).await.status, 200);
    }
    // The clock of tests starts at noon.
    let answer = call(&asking, rules).await;
    let wait = refused(&answer, "insufficient_quota", "'day' of 2 requests in each day of UTC is reached");
    assert_eq!((wait, answer.header("x-should-retry")), (Some(12 * 3_600), Some("false")));
    asking.gate.advance(Duration::from_secs(12 * 3_600 - 1)).await;
    let answer = call(&asking, rules).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{answer:?}");
    asking.gate.hand.advance(Duration::from_secs(1));
    assert_eq!(call(&asking, rules).await.status, 200);
}

#[tokio::test]
async fn calls_at_the_same_time_are_counted_until_their_last_byte() {
    let asking = Asking::start().await;
    let rules = "running=concurrent:2";
    let (first, second) = (stream(&asking, rules).await, stream(&asking, rules).await);
    let answer = call(&asking, rules).await;
    let wait = refused(&answer, "rate_limit_exceeded", "'running' of 2 calls at the same time is reached");
    assert_eq!((wait, answer.header("x-should-retry")), (None, None), "nobody knows when one ends");
    first.1.notify_one();
    soon("the end of a stream", first.0.bytes()).await.unwrap();
    until("a place is free", async || call(&asking, rules).await.status == 200).await;
    let _third = stream(&asking, rules).await;
    refused(&call(&asking, rules).await, "rate_limit_exceeded", "'running'");
    drop(second.0);
    until("the place of a caller who left is free", async || call(&asking, rules).await.status == 200).await;
}

#[tokio::test]
async fn of_several_charges_all_are_reserved_or_none_and_the_longest_wait_binds() {
    let asking = Asking::start().await;
    let both = "rpm=requests:1/window:5:60000 day=requests:1/calendar:1:day running=concurrent:5";
    assert_eq!(call(&asking, both).await.status, 200);
    for _ in 0..10 {
        refused(&call(&asking, both).await, "insufficient_quota", "'day'");
    }
    for _ in 0..4 {
        assert_eq!(call(&asking, "rpm=requests:1/window:5:60000").await.status, 200, "the refused ones took nothing");
    }
    assert_eq!(call(&asking, "rpm=requests:1/window:5:60000").await.status, 429);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_faults_of_their_policy() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    for (rules, says) in [
        ("big=requests:1/bucket:9007199254740991:1:1000", "its limit 'big' is a bucket too large to count exactly"),
        ("twice=concurrent:1 twice=concurrent:2", "it charged 'twice' twice in one call"),
    ] {
        let answer = call(&asking, rules).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "policy_fault"), "{answer:?}");
        log.says(&["ask-admit", says]).await;
    }
    let never = refused(&call(&asking, "none=concurrent:0").await, "rate_limit_exceeded", "no retry will help");
    assert_eq!(never, None);
    assert_eq!(asking.server.calls(), 0);
}
