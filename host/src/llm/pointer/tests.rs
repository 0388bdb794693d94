//! Lookups against serde_json's own pointers, and what must be absent or refused.

use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use serde_json::Value;

use super::super::body::JsonBody;
use super::super::body::samples::json_object;
use super::{PointerError, asked, at};

const BODY: &str =
    r#" { "model" : "m", "a/b": {"m~n": [10, {"":  [ true ] }, null]}, "esc\u0061ped": "\u00e9", "0": "zero" } "#;

#[test]
fn a_pointer_finds_the_raw_text() {
    fn check(pointer: &str, expected: Option<&str>) {
        assert_eq!(at(BODY.as_bytes(), pointer), Ok(expected), "{pointer:?}");
    }
    check("", Some(BODY.trim()));
    check("/model", Some("\"m\""));
    check("/a~1b/m~0n/0", Some("10"));
    check("/a~1b/m~0n/1/", Some("[ true ]"));
    check("/a~1b/m~0n/1//0", Some("true"));
    check("/a~1b/m~0n/2", Some("null"));
    check("/escaped", Some("\"\\u00e9\""));
    check("/0", Some("\"zero\""));
}

#[test]
fn what_is_not_there_is_absent() {
    for pointer in [
        "/",
        "/Model",
        "/model/0",
        "/model/",
        "/a/b",
        "/a~1b/m~0n/3",
        "/a~1b/m~0n/-",
        "/a~1b/m~0n/00",
        "/a~1b/m~0n/01",
        "/a~1b/m~0n/+1",
        "/a~1b/m~0n/-1",
        "/a~1b/m~0n/1.0",
        "/a~1b/m~0n/ 1",
        "/a~1b/m~0n/",
        "/a~1b/m~0n/99999999999999999999999",
        "/a~1b/m~0n/2/0",
        "/a~1b/m~0n/0/x",
    ] {
        assert_eq!(at(BODY.as_bytes(), pointer), Ok(None), "{pointer:?}");
    }
}

#[test]
fn a_malformed_pointer_is_an_error() {
    fn check(pointer: &str, expected: PointerError) {
        assert_eq!(at(BODY.as_bytes(), pointer), Err(expected), "{pointer:?}");
    }
    check("model", PointerError::NoSlash);
    check("#/model", PointerError::NoSlash);
    check(" /model", PointerError::NoSlash);
    check("/~", PointerError::BadEscape);
    check("/a~2", PointerError::BadEscape);
    check("/a~/b", PointerError::BadEscape);
    check("/model/~", PointerError::BadEscape);
    check(&"/a".repeat(33), PointerError::TooLong);
    assert_eq!(at(BODY.as_bytes(), &"/a".repeat(32)), Ok(None));
}

#[test]
fn a_pointer_of_32_segments_reaches_its_value() {
    let body = format!("{}7{}", "{\"a\":".repeat(32), "}".repeat(32));
    assert_eq!(at(body.as_bytes(), &"/a".repeat(32)), Ok(Some("7")));
}

#[test]
fn what_is_asked_stands_in_the_first_field_that_asks() {
    fn check(body: &str, expected: Option<&str>) {
        assert_eq!(asked(body.as_bytes()), expected.map(str::as_bytes), "{body}");
    }
    check(r#"{"input":"c","prompt":"b","messages":["a"]}"#, Some(r#"["a"]"#));
    check(r#"{"input":"c","prompt":"b"}"#, Some(r#""b""#));
    check(r#"{"input":"c","prompt":null}"#, Some(r#""c""#));
    check(r#"{"messages":[],"prompt":"more"}"#, Some("[]"));
    check(r#"{"model":"b"}"#, None);
}

/// Every pointer into a value, with the value.
fn all_pointers(value: &Value, pointer: &str, into: &mut Vec<(String, Value)>) {
    into.push((pointer.to_owned(), value.clone()));
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                all_pointers(value, &format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                all_pointers(value, &format!("{pointer}/{index}"), into);
            }
        }
        _ => {}
    }
}

proptest! {
    // Generated bodies are slow to make without optimisation.
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_value_of_a_body_is_found_by_its_pointer(object in json_object()) {
        let text = object.to_string();
        let mut pointers = Vec::new();
        all_pointers(&object, "", &mut pointers);
        for (pointer, value) in pointers {
            let found = at(text.as_bytes(), &pointer).expect("a good pointer").expect("a value");
            prop_assert_eq!(serde_json::from_str::<Value>(found).expect("JSON"), value);
        }
    }

    #[test]
    fn absence_agrees_with_serde_json(object in json_object(), pointer in "(/[a-c~/0-2-]{0,3}){0,3}") {
        let text = object.to_string();
        if let Ok(found) = at(text.as_bytes(), &pointer) {
            prop_assert_eq!(found.is_some(), object.pointer(&pointer).is_some());
        }
    }

    #[test]
    fn any_bytes_and_any_pointer_never_panic(
        body in any::<Vec<u8>>(),
        pointer in any::<String>(),
    ) {
        at(&body, &pointer).ok();
        let _ = asked(&body);
    }

    #[test]
    fn a_cut_body_never_panics(
        object in json_object(),
        cut in any::<proptest::sample::Index>(),
        pointer in "(/[a-c0-2]){0,4}",
    ) {
        let text = object.to_string();
        let body = &text.as_bytes()[..cut.index(text.len())];
        at(body, &pointer).ok();
        let _ = asked(body);
        drop(JsonBody::read(&bytes::Bytes::copy_from_slice(body), &["model"]));
    }
}
