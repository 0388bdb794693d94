//! What a policy may change, and what becomes of the call's facts.

use std::net::{IpAddr, Ipv4Addr};

use http::Method;

use super::*;
use crate::{
    llm::operations::{self, Match},
    policy::{ExchangeHead, Grants, HeaderGrant, RequestBody},
    ports::keys::Proof,
    wire::bounded::BufferBudget,
};

const CREDENTIAL: &str = "op_secret_0123456789";

/// A policy of which nobody said anything.
const ANY: Grantee<'static> =
    Grantee { policy: "any", grants: &Grants { raw_credential: false, headers: HeaderGrant::All } };

fn exchange(path: &str, body: &str) -> Arc<Exchange> {
    bounded(path, body, 10_000, &BufferBudget::new(1 << 20))
}

fn bounded(path: &str, body: &str, cap: usize, buffers: &BufferBudget) -> Arc<Exchange> {
    let method = if body.is_empty() { Method::GET } else { Method::POST };
    let Match::Row(row, parameter) = operations::find(&method, path) else { panic!("no row for {path}") };
    assert!(parameter.is_none() || body.is_empty());
    let exchange = Exchange::new(ExchangeHead {
        request_id: "r1".into(),
        row,
        seed: 1,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        path: path.into(),
        headers: HeaderMap::new(),
        credential: Some(CREDENTIAL.into()),
        proof: Proof::NotAKey,
    });
    if !body.is_empty() {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        exchange.note_body(RequestBody { bytes, cap, buffers: buffers.clone() });
    }
    Arc::new(exchange)
}

/// The call as it was read.
fn call(exchange: &Exchange) -> Call {
    let row = exchange.row();
    let json = exchange.body().map(|body| JsonBody::read(body, row.model_fields).unwrap());
    let model = json.as_ref().and_then(JsonBody::model).map(|text| ModelName::parse(text).unwrap());
    let bytes = exchange.body().map_or(0, Bytes::len);
    Call::of(row, model.as_ref(), json.as_ref(), u64::try_from(bytes).unwrap())
}

fn finished(draft: Draft, exchange: &Arc<Exchange>) -> Box<Edited> {
    draft.finish(None, exchange, &call(exchange)).unwrap_or_else(|error| panic!("{error}"))
}

fn body_of(edited: &Edited) -> &str {
    std::str::from_utf8(edited.exchange.body().unwrap()).unwrap()
}

#[track_caller]
fn refused(answer: Result<(), EditError>, says: &str) {
    let text = answer.unwrap_err().to_string();
    assert!(text.contains(says), "{text}");
    assert!(!text.contains(CREDENTIAL), "{text}");
}

#[test]
fn the_facts_are_those_of_the_edited_call() {
    let before = exchange("/v1/chat/completions", r#"{"model":"big","messages":[],"max_tokens":900,"stream":true}"#);
    let mut draft = Draft::default();
    draft.set_model(&before, "Small:1B").unwrap();
    draft.set_json(&before, "/max_tokens", "10").unwrap();
    draft.set_json(&before, "/n", "3").unwrap();
    draft.set_json(&before, "/metadata", &format!("\"{}\"", "x".repeat(400))).unwrap();
    let edited = finished(draft, &before);
    let body = body_of(&edited);
    assert!(body.ends_with(r#""n":3,"model":"Small:1B","messages":[],"max_tokens":10,"stream":true}"#), "{body}");
    let length = body.len();
    assert_eq!(
        edited.call,
        Call {
            model: "small:1b".into(),
            body_bytes: length.try_into().unwrap(),
            input_tokens: length.div_ceil(4).try_into().unwrap(),
            output_cap: Some(30),
            ..call(&before)
        }
    );
    assert_eq!(edited.body.as_ref().unwrap().json.answers(), 3);
    assert_eq!(&*call(&before).model, "big:latest", "the call itself is as it was");
    assert_eq!(edited.model.as_ref().unwrap().canonical(), "small:1b");
}

#[test]
fn a_later_policy_edits_what_an_earlier_one_made() {
    let before = exchange("/api/chat", r#"{"model":"a","messages":[]}"#);
    let mut first = Draft::default();
    first.set_json(&before, "/options/num_ctx", "8").unwrap();
    first.set_response_header(&before, ANY, "x-by", "first").unwrap();
    first.set_response_header(&before, ANY, "x-first", "1").unwrap();
    let first = finished(first, &before);
    let seen = Arc::clone(&first.exchange);
    let mut second = Draft::default();
    second.set_json(&seen, "/options/num_predict", "5").unwrap();
    second.set_response_header(&seen, ANY, "x-by", "second").unwrap();
    let both = second.finish(Some(first), &before, &call(&before)).unwrap();
    assert_eq!(body_of(&both), r#"{"options":{"num_predict":5,"num_ctx":8},"model":"a","messages":[]}"#);
    assert_eq!(both.call.output_cap, Some(5));
    assert_eq!(
        (&both.headers.response["x-by"], &both.headers.response["x-first"]),
        (&"second".parse().unwrap(), &"1".parse().unwrap())
    );
    let mut third = Draft::default();
    third.set_upstream_header(&both.exchange, ANY, "x-team", "a").unwrap();
    let all = third.finish(Some(both), &before, &call(&before)).unwrap();
    assert!(all.body.is_some(), "headers alone leave the body of the edits before");
}

#[test]
fn the_model_is_set_where_the_call_names_it_and_nowhere_else() {
    for (path, body, expected) in [
        ("/api/show", r#"{"name":"a"}"#, r#"{"name":"b"}"#),
        ("/api/show", r#"{"model":"","name":"a"}"#, r#"{"model":"","name":"b"}"#),
        ("/api/show", r#"{"name":"x","model":"a"}"#, r#"{"name":"x","model":"b"}"#),
        ("/v1/messages", r#"{"mod\u0065l" : "a"}"#, r#"{"mod\u0065l" : "b"}"#),
    ] {
        let before = exchange(path, body);
        let mut draft = Draft::default();
        draft.set_model(&before, " b ").unwrap();
        let edited = finished(draft, &before);
        assert_eq!((body_of(&edited), &*edited.call.model), (expected, "b:latest"));
    }
    let before = exchange("/v1/models/a", "");
    let mut draft = Draft::default();
    draft.set_model(&before, "b:1").unwrap();
    refused(draft.set_json(&before, "/a", "1"), "has no JSON body");
    let edited = finished(draft, &before);
    assert_eq!((edited.exchange.path(), &*edited.call.model), ("/v1/models/b:1", "b:1"));
    refused(Draft::default().set_model(&exchange("/v1/models", ""), "b"), "names no model");
}

#[test]
fn fields_that_the_gate_rests_on_are_not_a_policy_s() {
    let chat = exchange("/api/chat", r#"{"model":"a","stream":false}"#);
    for field in ["/stream", "/stream/x", "/stream_options", "/stream_options/include_usage"] {
        refused(Draft::default().set_json(&chat, field, "true"), "how the answer comes is the caller's choice");
        refused(Draft::default().remove_json(&chat, field), "how the answer comes is the caller's choice");
    }
    refused(Draft::default().set_json(&chat, "/model", "\"b\""), "set it by `set-model`");
    refused(Draft::default().remove_json(&chat, "/model"), "set it by `set-model`");
    refused(Draft::default().set_json(&exchange("/api/show", r#"{"model":"a"}"#), "/name", "\"b\""), "set-model");
    refused(Draft::default().remove_json(&chat, ""), "the whole body");
    for same in ["/Stream", "/\u{17f}tream", "/MODEL"] {
        refused(Draft::default().set_json(&chat, same, "true"), "not in plain lower case");
    }
    let pull = exchange("/api/pull", r#"{"model":"a"}"#);
    refused(Draft::default().set_model(&pull, "b"), "calls that change a backend can't be edited");
    refused(Draft::default().set_json(&pull, "/insecure", "true"), "calls that change a backend can't be edited");
    refused(Draft::default().remove_json(&pull, "/insecure"), "calls that change a backend can't be edited");
    refused(Draft::default().set_model(&chat, "a@sha256:1"), "model name");
}

#[test]
fn the_credential_is_put_nowhere() {
    let chat = exchange("/api/chat", r#"{"model":"a"}"#);
    let spelled = CREDENTIAL.replace('s', "\\u0073");
    let mut draft = Draft::default();
    for value in [format!("\"<{CREDENTIAL}>\""), format!("\"{spelled}\""), format!("{{\"{CREDENTIAL}\":1}}")] {
        refused(draft.set_json(&chat, "/metadata", &value), "may not hold the credential");
    }
    refused(draft.set_json(&chat, &format!("/metadata/{CREDENTIAL}"), "1"), "may not hold the credential");
    refused(draft.set_model(&chat, CREDENTIAL), "may not hold the credential");
    refused(draft.set_upstream_header(&chat, ANY, "x-a", &format!("k={CREDENTIAL}")), "may not hold the credential");
    refused(draft.set_response_header(&chat, ANY, "x-a", CREDENTIAL), "may not hold the credential");
    refused(draft.set_response_header(&chat, ANY, CREDENTIAL, "1"), "may not hold the credential");
    assert!(draft.is_empty());
}

#[test]
fn headers_are_plain_few_and_nobody_else_s() {
    let chat = exchange("/api/chat", r#"{"model":"a"}"#);
    let mut draft = Draft::default();
    for value in ["a\r\nx-b: 1", "a\nb", "a\0", "\u{e9}", &"x".repeat(1025)] {
        refused(draft.set_upstream_header(&chat, ANY, "x-a", value), "visible ASCII, on one line");
    }
    for name in ["", "x a", "x:a", "x-a\r\n", "x-\u{e9}", &"x".repeat(65)] {
        refused(draft.set_response_header(&chat, ANY, name, "1"), "no header's name");
    }
    for name in ["Authorization", "X-Request-ID", "content-length", "X-Tollgate-Backend", "Access-Control-Allow-Origin"]
    {
        refused(draft.set_upstream_header(&chat, ANY, name, "1"), "is not a policy's to set");
        refused(draft.set_response_header(&chat, ANY, name, "1"), "is not a policy's to set");
    }
    assert!(draft.is_empty());
    let mut draft = Draft::default();
    for at in 0..MAX_HEADERS {
        draft.set_upstream_header(&chat, ANY, &format!("x-{at}"), "1").unwrap();
    }
    refused(draft.set_upstream_header(&chat, ANY, "x-more", "1"), "16 headers each way");
    draft.set_upstream_header(&chat, ANY, "X-0", "2").unwrap();
    draft.set_response_header(&chat, ANY, "x-other-way", "1").unwrap();
    let edited = finished(draft, &chat);
    let seen = Arc::clone(&edited.exchange);
    let mut later = Draft::default();
    refused(later.set_upstream_header(&seen, ANY, "x-more", "1"), "16 headers each way");
    later.set_upstream_header(&seen, ANY, "x-1", "of the later").unwrap();
    for at in 1..MAX_HEADERS {
        later.set_response_header(&seen, ANY, &format!("x-{at}"), "1").unwrap();
    }
    refused(later.set_response_header(&seen, ANY, "x-more", "1"), "16 headers each way");
    let all = later.finish(Some(edited), &chat, &call(&chat)).unwrap().headers;
    assert_eq!((all.upstream.len(), all.response.len()), (MAX_HEADERS, MAX_HEADERS));
    assert_eq!((&all.upstream["x-0"], &all.upstream["x-1"]), (&"2".parse().unwrap(), &"of the later".parse().unwrap()));
}

#[test]
fn a_policy_sets_the_headers_that_it_was_granted_and_no_other_ever() {
    let chat = exchange("/api/chat", r#"{"model":"a"}"#);
    let grants = |prefixes: &[&str]| Grants {
        headers: HeaderGrant::Prefixed(prefixes.iter().map(|prefix| (*prefix).into()).collect()),
        ..Grants::default()
    };
    let some = grants(&["x-team-", "x-", "a"]);
    let team = grants(&["x-team-"]);
    let none = grants(&[]);
    let mut draft = Draft::default();
    let team = Grantee { policy: "teams", grants: &team };
    let says = "the header `x-other` is not granted to this policy: if it is meant to set it, add the name, or how it begins, \
                to `headers` under [grants] in teams.toml";
    refused(draft.set_upstream_header(&chat, team, "X-Other", "1"), says);
    refused(draft.set_response_header(&chat, team, "x-other", "1"), says);
    refused(draft.set_response_header(&chat, Grantee { policy: "no", grants: &none }, "x-team-a", "1"), "no.toml");
    refused(
        draft.set_upstream_header(&chat, Grantee { policy: "p", grants: &some }, "authorization", "1"),
        "is not a policy's to set",
    );
    assert!(draft.is_empty());
    draft.set_upstream_header(&chat, team, "X-Team-Blue", "1").unwrap();
    draft.set_response_header(&chat, team, "x-team-", "1").unwrap();
}

#[test]
fn edits_are_bounded_in_number_and_size_and_count_in_the_budget_for_bodies() {
    let buffers = BufferBudget::new(3072);
    let chat = bounded("/api/chat", r#"{"model":"a"}"#, 3000, &buffers);
    let mut draft = Draft::default();
    draft.set_json(&chat, "/a", &format!("\"{}\"", "x".repeat(2000))).unwrap();
    assert_eq!(buffers.held(), 2048);
    refused(draft.set_json(&chat, "/b", &format!("\"{}\"", "x".repeat(2000))), "the body may have 3000 bytes");
    refused(draft.set_json(&chat, "/b", &format!("\"{}\"", "x".repeat(70_000))), "more than 65536 bytes");
    // The copy needs room beside what it is made from.
    refused(draft.set_json(&chat, "/b", "1"), "holds as many request bodies as it may");
    assert_eq!(buffers.held(), 2048);
    let edited = finished(draft, &chat);
    assert_eq!(buffers.held(), 2048, "as long as the call has that body");
    drop(edited);
    assert_eq!(buffers.held(), 0);
    let mut draft = Draft::default();
    for _ in 0..MAX_EDITS {
        draft.remove_json(&chat, "/nothing").unwrap();
    }
    refused(draft.remove_json(&chat, "/nothing"), "64 edits");
    assert!(draft.is_empty());
}

#[test]
fn what_all_edits_together_come_to_must_be_a_body() {
    // As many keys as a body may have, but for one.
    let keys: Vec<String> = (0..65_534).map(|key| format!("\"k{key}\":0")).collect();
    let buffers = BufferBudget::new(8 << 20);
    let chat = bounded("/api/chat", &format!("{{\"model\":\"a\",{}}}", keys.join(",")), 4 << 20, &buffers);
    let mut draft = Draft::default();
    draft.set_json(&chat, "/l1", "0").unwrap();
    draft.set_json(&chat, "/l2", "0").unwrap();
    let made = draft.finish(None, &chat, &call(&chat));
    assert!(matches!(made, Err(EditError::Body(BodyError::TooManyKeys { .. }))));
}
