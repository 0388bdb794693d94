//! Whether a caller asks a stream to tell its usage (OpenAI's `stream_options.include_usage`), and where to ask in its place.
//!
//! The place is found while the body is walked, by the key before it; what is put in is one of a few fixed texts. A body
//! that says something else there than true, false or null, or hides it behind escapes, stays as it is.

use std::ops::Range;

use super::range_of;

/// What the walk has met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Wish<'de> {
    /// No `stream_options`.
    #[default]
    Unsaid,
    /// It is asked for, or said in a way that nobody should touch.
    Left,
    /// `stream_options`, this key, is null.
    Null(&'de str),
    /// `stream_options`, this key, is an object that doesn't say.
    Options(&'de str),
    /// `include_usage`, this key, is false or null.
    Off(&'de str),
}

/// A text to put in the place of a range, which may be empty.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) range: Range<usize>,
    pub(super) text: &'static str,
}

impl Wish<'_> {
    /// What makes the body ask; none where it asks already, or has to stay as it is.
    pub(super) fn asking(self, body: &[u8]) -> Option<Asking> {
        let (at, first, alone) = match self {
            Self::Left => return None,
            Self::Off(key) => return Some(Asking { range: word_of(key, body)?, text: "true" }),
            Self::Null(key) => return Some(Asking { range: word_of(key, body)?, text: r#"{"include_usage":true}"# }),
            Self::Unsaid => (
                skip_space(body, 0),
                r#""stream_options":{"include_usage":true},"#,
                r#""stream_options":{"include_usage":true}"#,
            ),
            Self::Options(key) => (value_of(key, body)?, r#""include_usage":true,"#, r#""include_usage":true"#),
        };
        // Right behind the brace that opens the object.
        let at = at + 1;
        let is_empty = body.get(skip_space(body, at)) == Some(&b'}');
        Some(Asking { range: at..at, text: if is_empty { alone } else { first } })
    }
}

/// Where the value of a key begins.
fn value_of(key: &str, body: &[u8]) -> Option<usize> {
    let colon = skip_space(body, range_of(key, body)?.end + 1);
    (body.get(colon) == Some(&b':')).then(|| skip_space(body, colon + 1))
}

/// Where a value of letters stands: false or null.
fn word_of(key: &str, body: &[u8]) -> Option<Range<usize>> {
    let start = value_of(key, body)?;
    let length = body.get(start..)?.iter().take_while(|byte| byte.is_ascii_lowercase()).count();
    Some(start..start + length)
}

pub(super) fn skip_space(body: &[u8], from: usize) -> usize {
    let rest = body.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use serde_json::{Value, json};

    use super::super::{Edits, JsonBody, samples::json_object};

    fn asking(model: Option<&str>) -> Edits<'_> {
        Edits { model, asks_for_usage: true }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let body = JsonBody::read(&bytes, &["model"]).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(String::from_utf8(body.edited(&bytes, asking(None)).concat()).unwrap(), expected);
        assert_eq!(body.may_ask_for_usage(), text != expected, "{text}");
        assert_eq!(body.edited(&bytes, Edits::default()).concat(), text.as_bytes(), "nothing changes unasked");
    }

    #[test]
    fn the_body_asks_and_all_else_stays_as_it_came() {
        check(r#"{"model":"m"}"#, r#"{"stream_options":{"include_usage":true},"model":"m"}"#);
        check(" {\n } ", " {\"stream_options\":{\"include_usage\":true}\n } ");
        check(r#"{"stream_options" : { } }"#, r#"{"stream_options" : {"include_usage":true } }"#);
        check(
            r#"{"a":[1.50],"stream_options":{"include_obfuscation":false},"b":"\u00e9"}"#,
            r#"{"a":[1.50],"stream_options":{"include_usage":true,"include_obfuscation":false},"b":"\u00e9"}"#,
        );
        check(
            r#"{"stream_options":{"include_usage": false ,"x":{}}}"#,
            r#"{"stream_options":{"include_usage": true ,"x":{}}}"#,
        );
        check(
            r#"{"stream_options":{"x":1,"include_usage":null}}"#,
            r#"{"stream_options":{"x":1,"include_usage":true}}"#,
        );
        check(r#"{"stream_options": null ,"x":1}"#, r#"{"stream_options": {"include_usage":true} ,"x":1}"#);
        // Elsewhere it is the caller's own text.
        check(
            r#"{"metadata":{"stream_options":{"include_usage":true}}}"#,
            r#"{"stream_options":{"include_usage":true},"metadata":{"stream_options":{"include_usage":true}}}"#,
        );
    }

    #[test]
    fn what_asks_already_or_says_something_odd_is_left_alone() {
        for text in [
            r#"{"stream_options":{"include_usage":true}}"#,
            r#"{"stream_options":{"include_usage":"yes"}}"#,
            r#"{"stream_options":{"include_usage":0}}"#,
            r#"{"stream_options":{"include_usage":[false]}}"#,
            r#"{"stream_options":{"include_usage":{"include_usage":false}}}"#,
            r#"{"stream_options":[]}"#,
            r#"{"stream_options":[{"include_usage":false}]}"#,
            r#"{"stream_options":false}"#,
            r#"{"stream_options":"x"}"#,
            r#"{"stream\u005foptions":{}}"#,
            r#"{"stream_options":{"include\u005fusage":false}}"#,
        ] {
            check(text, text);
        }
    }

    proptest! {
        #[test]
        fn a_body_with_another_model_that_asks_is_that_and_nothing_else(
            object in json_object(),
            options in proptest::option::of(json_object()),
            model_is_first in any::<bool>(),
            is_pretty in any::<bool>(),
        ) {
            let members = object.to_string();
            let members = members.get(1..members.len() - 1).unwrap();
            let options = options.map(|options| format!("\"stream_options\":{options}"));
            let mut parts = vec![r#""model":"before""#];
            parts.extend(options.as_deref());
            if !model_is_first {
                parts.reverse();
            }
            parts.extend(Some(members).filter(|members| !members.is_empty()));
            let text = format!("{{{}}}", parts.join(","));
            let mut expected: Value = serde_json::from_str(&text).unwrap();
            let text = if is_pretty { serde_json::to_string_pretty(&expected).unwrap() } else { text };
            let bytes = Bytes::from(text);
            let edited = JsonBody::read(&bytes, &["model"]).unwrap().edited(&bytes, asking(Some("after"))).concat();
            expected["model"] = json!("after");
            if expected.get("stream_options").is_none() {
                expected["stream_options"] = json!({});
            }
            expected["stream_options"]["include_usage"] = json!(true);
            prop_assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), expected);
        }
    }
}
