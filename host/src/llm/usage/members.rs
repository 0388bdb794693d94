//! The members of a JSON object, read from its end: of a long answer only what stands last is looked at.
//!
//! Servers write what they counted behind what they counted: a few hundred bytes tell as much as ten megabytes. The text
//! may have lost its beginning. It is taken to be JSON, as the server meant it; what isn't gives members that mean
//! nothing, or none, but never a panic. A quote within a string always has a backslash before it, so text that a model
//! wrote can't be taken for a member.

use memchr::memrchr;

/// The members of an object, the last one first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Members<'a> {
    /// What stands before the members that were told.
    rest: &'a [u8],
}

/// One member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    /// The text between its quotes, escapes and all; none when the beginning was lost within this member.
    pub(super) key: Option<&'a [u8]>,
    /// The JSON of its value, as far as it is there.
    pub(super) value: &'a [u8],
}

impl<'a> Members<'a> {
    /// The members of the object with which the text ends; none when it ends with something else.
    pub(super) fn of(text: &'a [u8]) -> Option<Self> {
        Some(Self { rest: text.trim_ascii_end().strip_suffix(b"}")? })
    }

    /// The member before those that were told, and what stands before it.
    fn read_last(&self) -> Option<(Member<'a>, &'a [u8])> {
        let rest = self.rest.trim_ascii_end();
        if rest.is_empty() || rest.ends_with(b"{") {
            return None;
        }
        let Some((before, value)) = value_start(rest).and_then(|start| rest.split_at_checked(start)) else {
            return Some((Member { key: None, value: rest }, &[]));
        };
        let named = before.trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end);
        let key = named.and_then(|named| named.strip_suffix(b"\"")).and_then(|text| {
            let (before, quoted) = text.split_at_checked(opening_quote(text)?)?;
            Some((before, quoted.get(1..)?))
        });
        match key {
            Some((before, key)) => {
                let before = before.trim_ascii_end();
                Some((Member { key: Some(key), value }, before.strip_suffix(b",").unwrap_or(before)))
            }
            None => Some((Member { key: None, value }, &[])),
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let (member, before) = self.read_last()?;
        self.rest = before;
        Some(member)
    }
}

/// Where the value with which a text ends begins; none when that was lost.
fn value_start(text: &[u8]) -> Option<usize> {
    let (last, before) = text.split_last()?;
    match last {
        b'"' => opening_quote(before),
        b'}' | b']' => opening_bracket(before),
        _ => {
            let is_outside = |byte: &u8| matches!(byte, b':' | b',' | b'{' | b'[') || byte.is_ascii_whitespace();
            text.iter().rposition(is_outside).map(|before| before + 1)
        }
    }
}

/// Where the string that goes on to the end of this text was opened: at the last quote that nothing escapes. None when that
/// was lost, or might have been: a backslash before the beginning would make it another.
fn opening_quote(mut text: &[u8]) -> Option<usize> {
    loop {
        let at = memrchr(b'"', text)?;
        text = text.get(..at)?;
        let escapes = text.iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes == at {
            return None;
        }
        if escapes % 2 == 0 {
            return Some(at);
        }
        // An escaped quote, and all its backslashes, belong to the string.
        text = text.get(..at - escapes)?;
    }
}

/// Where the object or array that goes on to the end of this text was opened.
fn opening_bracket(text: &[u8]) -> Option<usize> {
    let mut open = 1_usize;
    let mut end = text.len();
    loop {
        let before = text.get(..end)?;
        let at = before.iter().rposition(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'))?;
        end = match before.get(at)? {
            b'"' => opening_quote(before.get(..at)?)?,
            b'}' | b']' => {
                open += 1;
                at
            }
            _ => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
                at
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use serde_json::{Map, Value};

    use super::Members;

    fn members(text: &str) -> Vec<(Option<&str>, &str)> {
        let text_of = |bytes| std::str::from_utf8(bytes).unwrap();
        let members = Members::of(text.as_bytes()).into_iter().flatten();
        members.map(|member| (member.key.map(text_of), text_of(member.value))).collect()
    }

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(key, value)| (Some(*key), *value)).collect();
        assert_eq!(members(text), expected, "{text}");
    }

    #[test]
    fn members_come_from_the_last_to_the_first() {
        check(
            r#"{"a":1,"b":"x","c":[1,{"d":"]}"}],"e":{"f":{}},"g":null}"#,
            &[("g", "null"), ("e", r#"{"f":{}}"#), ("c", r#"[1,{"d":"]}"}]"#), ("b", r#""x""#), ("a", "1")],
        );
        check(" { \"a\" : -1.5e3 ,\r\n \"b\" : [ ] } \n", &[("b", "[ ]"), ("a", "-1.5e3")]);
        check("{}", &[]);
        check(" { } ", &[]);
    }

    #[test]
    fn quotes_within_strings_are_not_the_ends_of_strings() {
        check(
            r#"{"a":"\"","b":"\\","c":"\\\"","d":"\\\\"}"#,
            &[("d", r#""\\\\""#), ("c", r#""\\\"""#), ("b", r#""\\""#), ("a", r#""\"""#)],
        );
        check(r#"{"text":"},\"usage\":{\"output_tokens\":0}"}"#, &[("text", r#""},\"usage\":{\"output_tokens\":0}""#)]);
        check(r#"{"a\"b":1}"#, &[(r#"a\"b"#, "1")]);
    }

    #[test]
    fn what_lost_its_beginning_is_told_as_far_as_it_is_there() {
        assert_eq!(members(r#"1,2],"a":1}"#), [(Some("a"), "1"), (None, "1,2]")]);
        assert_eq!(members(r#"xt","a":1}"#), [(Some("a"), "1"), (None, r#"xt""#)]);
        assert_eq!(members(r#"ey":2,"a":1}"#), [(Some("a"), "1"), (None, "2")]);
        assert_eq!(members(r#"":2,"a":1}"#), [(Some("a"), "1"), (None, "2")]);
        assert_eq!(members(r#":2,"a":1}"#), [(Some("a"), "1"), (None, "2")]);
        assert_eq!(members(r#"2,"a":1}"#), [(Some("a"), "1"), (None, "2")]);
        assert_eq!(members(r#"3,"b":4}}"#), [(None, r#"3,"b":4}"#)]);
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for text in ["", "1", "[1]", "\"}\"", "null", "data: [DONE]", "}"] {
            check(text, &[]);
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["[a-c\"\\\\{}\\[\\],: \n]{0,8}", any::<String>()];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
            text.clone().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_members_of_any_object_are_found(
            object in prop::collection::vec(("[a-c\"\\\\]{0,4}", json()), 0..6),
            is_pretty in any::<bool>(),
        ) {
            let object: Map<String, Value> = object.into_iter().collect();
            let text = if is_pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            let text = text.unwrap();
            let found: Map<String, Value> = Members::of(text.as_bytes()).unwrap().map(|member| {
                let key = [b"\"", member.key.unwrap(), b"\""].concat();
                (serde_json::from_slice(&key).unwrap(), serde_json::from_slice(member.value).unwrap())
            }).collect();
            prop_assert_eq!(found, object);
        }

        #[test]
        fn a_lost_beginning_changes_no_member_behind_it(object in json(), cut in any::<prop::sample::Index>()) {
            let text = object.to_string();
            let all: Vec<_> = Members::of(text.as_bytes()).into_iter().flatten().collect();
            let tail = text.as_bytes().get(cut.index(text.len())..).unwrap();
            let left: Vec<_> = Members::of(tail).into_iter().flatten().take_while(|member| member.key.is_some()).collect();
            prop_assert!(left.len() <= all.len());
            for (left, all) in left.iter().zip(&all) {
                prop_assert_eq!((left.key, left.value), (all.key, all.value));
            }
        }

        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(prop::sample::select(br#"{}[]":,\ 1a"#.to_vec()), 0..40)) {
            let told: usize = Members::of(&bytes).into_iter().flatten().map(|member| member.value.len()).sum();
            prop_assert!(told <= bytes.len());
        }
    }
}
