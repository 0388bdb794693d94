//! Bodies: what passes is one JSON object that all readers understand alike, and putting in a model changes nothing else.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::Value;

use crate::llm::body::{Edits, JsonBody};

const FIELDS: [&str; 2] = ["model", "name"];
const OTHER: &str = "other\"\\:é";

const RENAMED: Edits<'_> = Edits { model: Some(OTHER), asks_for_usage: false };

/// Tries any body.
pub fn check(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let body = match JsonBody::read(&bytes, &FIELDS) {
        Ok(body) => body,
        Err(error) => {
            assert!(error.to_string().len() < 4096, "a message is short, whatever was sent");
            return;
        }
    };
    let value: Value = serde_json::from_slice(input).expect("what passes is JSON");
    let object = value.as_object().expect("and an object");
    let folded: HashSet<String> = object.keys().map(|key| key.to_lowercase()).collect();
    assert_eq!(folded.len(), object.len(), "no key of it is another in capitals");
    let named = FIELDS.iter().filter_map(|field| object.get(*field)?.as_str()).find(|name| !name.is_empty());
    assert_eq!(body.model(), named, "the model is that which others read");
    assert_eq!(body.stream(), object.get("stream").and_then(Value::as_bool));
    assert_ne!(body.output_cap(), Some(0));
    check_asking(&body, &bytes, value.clone());
    let Some(range) = body.model_range() else {
        assert!(body.edited(&bytes, RENAMED).iter().all(Bytes::is_empty), "where no model stands none is put in");
        return;
    };
    let literal: String = serde_json::from_slice(&input[range]).expect("the model's place is a string");
    assert_eq!(Some(literal.as_str()), named);
    let spliced = Bytes::from(body.edited(&bytes, RENAMED).concat());
    let other = JsonBody::read(&spliced, &FIELDS).expect("a body with another model passes as well");
    assert_eq!(other.model(), Some(OTHER));
    assert_eq!((other.stream(), other.output_cap()), (body.stream(), body.output_cap()));
}

/// A body that asks for its usage is the same otherwise, and asks no second time.
fn check_asking(body: &JsonBody, bytes: &Bytes, mut expected: Value) {
    let edits = Edits { model: None, asks_for_usage: true };
    let edited = Bytes::from(body.edited(bytes, edits).concat());
    if body.may_ask_for_usage() {
        let asks = Value::from(true);
        let options = Value::Object([("include_usage".to_owned(), asks.clone())].into_iter().collect());
        let object = expected.as_object_mut().expect("it was one");
        match object.get_mut("stream_options").and_then(Value::as_object_mut) {
            Some(known) => drop(known.insert("include_usage".to_owned(), asks)),
            None => drop(object.insert("stream_options".to_owned(), options)),
        }
        let again = JsonBody::read(&edited, &FIELDS).expect("a body that asks passes as well");
        assert!(!again.may_ask_for_usage());
    }
    assert_eq!(serde_json::from_slice::<Value>(&edited).expect("it is JSON still"), expected);
}
