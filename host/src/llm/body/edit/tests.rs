//! What an edit changes, and that it changes nothing else.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::llm::body::samples::json_object;

/// The body once it is changed, or why it is not.
fn setting(body: &str, to: &str, value: &str) -> Result<String, String> {
    let change = set(body.as_bytes(), to, value).map_err(|error| error.to_string())?;
    let changed = change.apply(body.as_bytes());
    assert_eq!(changed.len(), change.length(body.as_bytes()));
    Ok(String::from_utf8(changed.to_vec()).unwrap())
}

fn removing(body: &str, at: &str) -> String {
    let change = remove(body.as_bytes(), at).unwrap_or_else(|error| panic!("{at}: {error}"));
    let changed = change.map_or_else(|| body.to_owned().into(), |change| change.apply(body.as_bytes()));
    String::from_utf8(changed.to_vec()).unwrap()
}

#[test]
fn a_value_is_put_in_its_place_and_all_else_stays_as_it_is() {
    let check = |body: &str, to: &str, value: &str, expected: &str| {
        assert_eq!(setting(body, to, value).as_deref(), Ok(expected), "{to} in {body}");
    };
    check(r#"{ "a" : 1.50 , "b":"\u00e9" }"#, "/a", "2", r#"{ "a" : 2 , "b":"\u00e9" }"#);
    check(r#"{"a":{"b":[1,{"c":"x\"}"}]}}"#, "/a/b/1/c", r#" "y" "#, r#"{"a":{"b":[1,{"c":"y"}]}}"#);
    check(r#"{"a":[[1,2],[3]]}"#, "/a/0/1", "[]", r#"{"a":[[1,[]],[3]]}"#);
    check(r#"{"\u0061":1}"#, "/a", "2", r#"{"\u0061":2}"#);
    check(r#"{"a/b":1,"c~d":2}"#, "/a~1b", "true", r#"{"a/b":true,"c~d":2}"#);
    check(r#"{"a":1}"#, "/b", "2", r#"{"b":2,"a":1}"#);
    check("{ }", "/b", "2", r#"{"b":2 }"#);
    check("{ }", "/b/c/d", "null", r#"{"b":{"c":{"d":null}} }"#);
    check(r#"{"a":{}}"#, "/a/b", "2", r#"{"a":{"b":2}}"#);
    check(r#"{"options":null,"x":1}"#, "/options/num_ctx", "8", r#"{"options":{"num_ctx":8},"x":1}"#);
    check(r#"{"a":{"":1}}"#, "/a/", "2", r#"{"a":{"":2}}"#);
}

#[test]
fn a_value_is_taken_out_with_one_comma() {
    let check = |body: &str, at: &str, expected: &str| assert_eq!(removing(body, at), expected, "{at} in {body}");
    check(r#"{"a":1,"b":2}"#, "/a", r#"{"b":2}"#);
    check(r#"{"a":1 , "b":2 }"#, "/b", r#"{"a":1  }"#);
    check(r#"{ "a":1 }"#, "/a", "{  }");
    check("{\n  \"a\": 1,\n  \"b\": 2\n}", "/a", "{\n  \"b\": 2\n}");
    check(r#"{"a":[1, 2, 3]}"#, "/a/1", r#"{"a":[1, 3]}"#);
    check(r#"{"a":[1, 2, 3]}"#, "/a/2", r#"{"a":[1, 2]}"#);
    check(r#"{"a":[{}]}"#, "/a/0", r#"{"a":[]}"#);
    check(r#"{"a":"x,"}"#, "/a", "{}");
    for absent in ["/b", "/a/0", "/a/b", "/c/1", "/c/-", "/c/01", "/d/e"] {
        check(r#"{"a":"x","c":[1],"d":null}"#, absent, r#"{"a":"x","c":[1],"d":null}"#);
    }
}

#[test]
fn what_leads_nowhere_or_may_not_stand_there_is_refused() {
    let body = r#"{"a":"x","list":[1],"options":{},"tools":[{}]}"#;
    let check = |to: &str, value: &str, says: &str| {
        let refused = setting(body, to, value).unwrap_err();
        assert!(refused.contains(says), "{to} {value}: {refused}");
    };
    check("", "{}", "the whole body");
    check("a", "1", "does not start with `/`");
    check("/~2", "1", "neither `~0` nor `~1`");
    check(&"/a".repeat(33), "1", "more than 32 segments");
    check("/a/b", "1", "the value at `/a` is neither an object nor an array");
    check("/list/1", "1", "the array at `/list` has no such item");
    check("/list/-", "1", "the array at `/list` has no such item");
    check("/list/x", "1", "the array at `/list` has no such item");
    check("/list/1/x", "1", "the array at `/list` has no such item");
    for bad in ["", "x", "1 2", "{", r#"1,"b":2"#, r#"1}"#, "nul", "'x'", "\"\n\""] {
        check("/b", bad, "not one JSON value");
    }
    check("/b", r#"{"x":1,"x":2}"#, "stands twice");
    check("/b", r#"{"X":1}"#, "not in plain lower case");
    check("/A", "1", "not in plain lower case");
    check("/opt\u{17f}", "1", "not in plain lower case");
    check("/max_tokens", "\"many\"", "not a number");
    check("/options/num_predict", "{}", "not a number");
    check("/b", r#""\ud800""#, "not valid JSON");
    check("/b", &format!("{}{}", "[".repeat(64), "]".repeat(64)), "nested more than 64 levels");
    // Below these, names are the callers' own.
    assert!(setting(body, "/tools/0/Name", r#"{"X":1}"#).is_ok());
}

#[test]
fn nothing_is_made_up_of_a_body_that_is_cut_off() {
    for body in
        ["", "{", "{\"a\"", "{\"a\":", "{\"a\":[", "{\"a\":\"", "{\"a\":\"\\", "[", "{\"a\":[1,", "null", "{1:2}"]
    {
        for at in ["/a", "/a/0", "/a/1", "/a/b/c"] {
            if let Ok(change) = set(body.as_bytes(), at, "1") {
                change.apply(body.as_bytes());
            }
            if let Ok(Some(change)) = remove(body.as_bytes(), at) {
                change.apply(body.as_bytes());
            }
        }
    }
}

/// Every pointer into a value, but that to the whole.
fn pointers(value: &Value, to: &str, all: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let below: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(key, value)| (escape(key), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    for (step, value) in below {
        let to = format!("{to}/{step}");
        pointers(value, &to, all);
        all.push(to);
    }
}

/// Takes out what serde's own pointer finds.
fn take_out(value: &mut Value, at: &str) {
    let (parent, last) = at.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    match value.pointer_mut(parent).unwrap() {
        Value::Object(members) => drop(members.remove(&last)),
        Value::Array(items) => drop(items.remove(last.parse().unwrap())),
        other => panic!("{other} has no members"),
    }
}

proptest! {
    #[test]
    fn an_edit_comes_to_what_serde_makes_of_it_and_keeps_all_other_bytes(
        document in json_object(),
        value in json_object(),
        chosen in any::<prop::sample::Index>(),
        is_pretty in any::<bool>(),
        removes in any::<bool>(),
    ) {
        let mut all = Vec::new();
        pointers(&document, "", &mut all);
        prop_assume!(!all.is_empty());
        let at = chosen.get(&all);
        let text = if is_pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
        let text = text.unwrap();
        let mut expected = document.clone();
        let change = if removes {
            take_out(&mut expected, at);
            remove(text.as_bytes(), at).unwrap().unwrap()
        } else {
            *expected.pointer_mut(at).unwrap() = value.clone();
            match set(text.as_bytes(), at, &value.to_string()) {
                Ok(change) => change,
                // A value may have names that only callers choose, or stand too deep.
                Err(EditError::Unfit(_)) => return Ok(()),
                Err(error) => panic!("{at}: {error}"),
            }
        };
        let changed = change.apply(text.as_bytes());
        prop_assert_eq!(serde_json::from_slice::<Value>(&changed).unwrap(), expected);
        let Range { start, end } = change.range;
        prop_assert_eq!(&changed[..start], &text.as_bytes()[..start]);
        prop_assert_eq!(&changed[start + change.text.len()..], &text.as_bytes()[end..]);
        // No more is touched than the value, or the member with its comma.
        let found = document.pointer(at).unwrap();
        if !removes {
            let touched = text.get(start..end).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Value>(touched).unwrap(), found);
        }
    }

    #[test]
    fn what_is_made_on_the_way_is_found_there_and_all_bytes_before_stay(
        document in json_object(),
        steps in prop::collection::vec("[a-z]{1,3}x", 1..5),
        is_pretty in any::<bool>(),
    ) {
        let text = if is_pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
        let text = text.unwrap();
        let to: String = steps.iter().map(|step| format!("/{step}")).collect();
        let Ok(change) = set(text.as_bytes(), &to, "[1.50]") else { return Ok(()) };
        let changed = change.apply(text.as_bytes());
        let read: Value = serde_json::from_slice(&changed).unwrap();
        prop_assert_eq!(read.pointer(&to), Some(&serde_json::json!([1.5])));
        let undone = remove(&changed, &format!("/{}", steps[0])).unwrap().unwrap().apply(&changed);
        if document.get(&steps[0]).is_none() {
            prop_assert_eq!(serde_json::from_slice::<Value>(&undone).unwrap(), document);
        }
    }

    #[test]
    fn nothing_makes_it_panic(body in any::<Vec<u8>>(), at in "(/[a-c0-2]{0,2}){0,4}", value in "[\\[\\]{}\",:0-9a]{0,8}") {
        if let Ok(change) = set(&body, &at, &value) {
            change.apply(&body);
        }
        if let Ok(Some(change)) = remove(&body, &at) {
            change.apply(&body);
        }
    }
}
