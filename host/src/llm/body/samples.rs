//! Generated bodies for tests.

use proptest::prelude::{Just, Strategy, any};
use serde_json::{Map, Value};

/// A JSON object that passes the strict reading, with nested values and keys in any script.
///
/// It has none of the fields that the reading interprets.
pub(crate) fn json_object() -> impl Strategy<Value = Value> {
    let leaf = proptest::prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1.0e9..1.0e9_f64).prop_map(|number| Value::from(number.round() / 8.0)),
        any::<String>().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 16, 6, |value| {
        proptest::prop_oneof![
            proptest::collection::vec(value.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key(), value), 0..6).prop_map(object),
        ]
    });
    let pairs = (key(), value);
    proptest::collection::vec(pairs, 0..20).prop_map(object)
}

fn key() -> impl Strategy<Value = String> {
    proptest::prop_oneof!["[a-c~/0-2-]{0,3}", "[a-z_]{1,8}", "[\"\\\\\n\u{1}а-яあ-お漢]{1,4}"]
        .prop_filter("no field that the reading interprets", |key| {
            !["model", "name", "stream", "options", "max_tokens"].contains(&key.as_str())
        })
}

fn object(pairs: Vec<(String, Value)>) -> Value {
    Value::Object(Map::from_iter(pairs))
}
