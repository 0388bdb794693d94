//! Usage: any cutting of an answer tells the same counts, and those of a whole answer are what a JSON parser finds there; a
//! stream that is sifted loses nothing else.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Stream;
use crate::llm::usage::{Counted, Framing, Reading, Usage};

/// Tries any answer; the first byte chooses its cuts.
pub fn check(input: &[u8]) {
    let Some(stream) = Stream::of(input) else { return };
    let (pieces, bytes) = (stream.pieces(), stream.bytes);
    let length = u64::try_from(bytes.len()).expect("an input is short");
    for framing in [Framing::Whole(None), Framing::Whole(Some(length)), Framing::Lines, Framing::Events] {
        for is_whole in [true, false] {
            let counted = read(framing, &pieces, is_whole);
            assert_eq!(counted, read(framing, &[bytes], is_whole), "{framing:?}");
            let told = [counted.usage.input, counted.usage.output].into_iter().flatten();
            assert!(told.max().unwrap_or_default() <= u64::from(u32::MAX), "{counted:?}");
            assert!(counted.pieces <= length + 1 && counted.bytes <= length, "{counted:?}");
        }
    }
    check_sifted(&pieces, bytes);
    // Keys with escapes are read by no one here; no server writes them.
    let has_escapes = bytes.windows(2).any(|pair| pair == b"\\u");
    if !has_escapes && let Ok(Object(members)) = serde_json::from_slice(bytes) {
        let counted = read(Framing::Whole(None), &pieces, true);
        assert_eq!(counted.usage, by_the_parser(&members), "{}", String::from_utf8_lossy(bytes));
    }
}

/// A sifted stream counts the same, and loses nothing but what tells usage.
fn check_sifted(pieces: &[&[u8]], bytes: &[u8]) {
    let mut reading = Reading::new(Framing::Events).hiding_usage();
    let mut passed: Vec<u8> = pieces.iter().flat_map(|piece| reading.sift(&Bytes::copy_from_slice(piece))).collect();
    passed.extend(reading.rest());
    assert_eq!(reading.finish(true), read(Framing::Events, &[bytes], true));
    assert!(passed.len() <= bytes.len());
    if !bytes.windows(7).any(|window| window == b"\"usage\"") {
        assert_eq!(passed, bytes);
    }
}

fn read(framing: Framing, pieces: &[&[u8]], is_whole: bool) -> Counted {
    let mut reading = Reading::new(framing);
    pieces.iter().for_each(|piece| reading.see(piece));
    reading.finish(is_whole)
}

/// A JSON object with its members in their order, those with equal keys too.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Object(members))
    }
}

type Members<'a> = [(String, &'a RawValue)];

fn by_the_parser(members: &Members<'_>) -> Usage {
    let usage = of_usage_members(members);
    if usage != Usage::default() {
        return usage;
    }
    let says = |name: &str, text: &str| members.iter().any(|(key, value)| key == name && value.get() == text);
    let has = |name: &str| members.iter().any(|(key, _)| key == name);
    // From the end on, so that the last of two with one name counts; what isn't there is 0 in Ollama's last object.
    let count = |name: &str| last(members, name).map_or(Some(0), number);
    let is_last = says("done", "true") || ["total_duration", "prompt_eval_count", "eval_count"].into_iter().any(has);
    if says("done", "false") || !is_last {
        return Usage::default();
    }
    Usage { input: count("prompt_eval_count"), output: count("eval_count") }
}

/// Of `usage`, `response` and `message` the last one that tells something; an unreadable `usage` ends the search.
fn of_usage_members(members: &Members<'_>) -> Usage {
    for (key, value) in members.iter().rev() {
        let within = || object(value).and_then(|inner| last(&inner, "usage").map(of_usage)).unwrap_or_default();
        let usage = match key.as_str() {
            "usage" => return of_usage(value),
            "response" => within(),
            "message" => Usage { output: None, ..within() },
            _ => continue,
        };
        if usage != Usage::default() {
            return usage;
        }
    }
    Usage::default()
}

fn of_usage(value: &RawValue) -> Usage {
    let members = object(value).unwrap_or_default();
    let either = |one: &str, other: &str| {
        let last = members.iter().rev().find(|(key, _)| key == one || key == other);
        last.and_then(|(_, value)| number(value))
    };
    Usage { input: either("prompt_tokens", "input_tokens"), output: either("completion_tokens", "output_tokens") }
}

fn object(value: &RawValue) -> Option<Vec<(String, &RawValue)>> {
    serde_json::from_str(value.get()).ok().map(|Object(members)| members)
}

fn last<'a>(members: &[(String, &'a RawValue)], name: &str) -> Option<&'a RawValue> {
    members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
}

fn number(value: &RawValue) -> Option<u64> {
    value.get().parse().ok().filter(|count| *count <= u64::from(u32::MAX))
}
