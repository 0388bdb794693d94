//! What holds for any body: splicing changes the model alone, and no text brings the reader down.

use bytes::Bytes;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use serde_json::Value;

use super::named;
use crate::llm::body::{JsonBody, samples::json_object};

/// The same JSON text with every letter of its strings written as an escape.
fn escaped(text: &str) -> String {
    let escape = |unit: u16| format!("\\u{unit:04x}");
    let inner: String = text.encode_utf16().map(escape).collect();
    format!("\"{inner}\"")
}

proptest! {
    // Generated bodies are slow to make without optimisation.
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn splicing_replaces_the_model_and_nothing_else(
        object in json_object(),
        before in any::<String>(),
        after in any::<String>(),
        escape in any::<bool>(),
        is_first in any::<bool>(),
    ) {
        let text = object.to_string();
        let literal = if escape { escaped(&before) } else { Value::from(before.as_str()).to_string() };
        let inner = text.get(1..text.len() - 1).unwrap();
        let comma = if inner.is_empty() { "" } else { "," };
        let text = if is_first {
            format!("{{\"model\": {literal} {comma}{inner}}}")
        } else {
            format!("{{{inner}{comma}\n\"model\":{literal}}}")
        };
        let bytes = Bytes::from(text);
        let body = JsonBody::read(&bytes, &["model"]).expect("a good body");
        prop_assert_eq!(body.model(), Some(before.as_str()).filter(|name| !name.is_empty()));
        if body.model().is_some() {
            let spliced = body.edited(&bytes, named(&after)).concat();
            let mut expected = object;
            expected["model"] = Value::from(after);
            prop_assert_eq!(serde_json::from_slice::<Value>(&spliced).expect("JSON"), expected);
        }
    }

    #[test]
    fn a_repeated_key_is_refused_wherever_it_stands(
        object in json_object(),
        key in "[a-z]{1,5}",
        around in "[a-z]{1,5}|tools|format",
        depth in 0_usize..8,
        escape in any::<bool>(),
    ) {
        let first = Value::from(key.as_str()).to_string();
        let second = if escape { escaped(&key) } else { first.clone() };
        let bad = format!("{{{first}:{object},\"#\":[{object}],{second}:1}}");
        let text = format!("{}{bad}{}", format!("{{\"{around}\":[").repeat(depth), "]}".repeat(depth));
        prop_assert!(JsonBody::read(&Bytes::from(text), &[]).is_err());
    }

    #[test]
    fn no_two_names_of_a_body_that_passes_are_alike_for_go(
        names in proptest::collection::vec("[aAkK\u{212a}sSſß]{1,2}", 1..4),
    ) {
        let pairs: Vec<String> = names.iter().map(|name| format!("\"{name}\":1")).collect();
        let passes = JsonBody::read(&Bytes::from(format!("{{{}}}", pairs.join(","))), &[]).is_ok();
        let go = |name: &String| name.to_lowercase().replace('ſ', "s");
        let mut folded: Vec<String> = names.iter().map(go).collect();
        folded.sort();
        folded.dedup();
        prop_assert!(!passes || folded.len() == names.len());
        prop_assert!(!passes || names.iter().all(|name| name.is_ascii() && *name == name.to_lowercase()));
    }

    #[test]
    fn any_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        drop(JsonBody::read(&Bytes::from(bytes), &["model"]));
    }

    #[test]
    fn text_that_looks_like_json_passes_only_if_it_is(
        text in r#"\{("(model|stream|options|a)":(1|""|"a"|true|null|\{\}|\[\]|1e5|\{"a":1\}|"\\u00),?){0,4}\}?[ x]?"#,
    ) {
        if JsonBody::read(&Bytes::from(text.clone()), &["model"]).is_ok() {
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object()));
        }
    }
}
