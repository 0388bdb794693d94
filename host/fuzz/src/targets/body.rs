//! Bodies: what passes is one JSON object that all readers understand alike, and putting in a model changes nothing else.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::Value;

use crate::llm::body::JsonBody;

const FIELDS: [&str; 2] = ["model", "name"];
const OTHER: &str = "other\"\\:é";

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
    let Some(range) = body.model_range() else {
        assert!(body.spliced(&bytes, OTHER).iter().all(Bytes::is_empty), "where no model stands none is put in");
        return;
    };
    let literal: String = serde_json::from_slice(&input[range]).expect("the model's place is a string");
    assert_eq!(Some(literal.as_str()), named);
    let spliced = Bytes::from(body.spliced(&bytes, OTHER).concat());
    let other = JsonBody::read(&spliced, &FIELDS).expect("a body with another model passes as well");
    assert_eq!(other.model(), Some(OTHER));
    assert_eq!((other.stream(), other.output_cap()), (body.stream(), body.output_cap()));
}
