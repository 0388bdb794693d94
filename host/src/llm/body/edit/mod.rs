//! Changing one value of a body by JSON pointer: where it stands is found, and its bytes are replaced. All else stays as it
//! is, to the last space.
//!
//! The body has passed [`JsonBody::read`], and what is put in is held to the same rules at its place. In a body that did not
//! pass a wrong place may be found, or none; never a panic. Which fields may be changed is the caller's to know.

use std::{borrow::Cow, ops::Range};

use bytes::{Bytes, BytesMut};
use memchr::memchr2;
use serde_json::value::RawValue;
use thiserror::Error;

use super::{BodyError, JsonBody, wish::skip_space};
use crate::llm::pointer::{self, PointerError};

/// Why a body was not changed.
#[derive(Debug, Error)]
pub enum EditError {
    /// The pointer is none.
    #[error(transparent)]
    Pointer(#[from] PointerError),
    /// The pointer names the whole body.
    #[error("the whole body can't be replaced; name a field, like `/options/num_ctx`")]
    WholeBody,
    /// The text is no JSON, or more than one value.
    #[error("the new value is not one JSON value; write one, with texts in quotes")]
    NotJson,
    /// The way leads into a value that has no members.
    #[error("the value at `{at}` is neither an object nor an array, so nothing can stand in it")]
    NoContainer {
        /// The pointer to it.
        at: String,
    },
    /// An array doesn't have the item.
    #[error("the array at `{at}` has no such item, and none is made")]
    NoItem {
        /// The pointer to the array.
        at: String,
    },
    /// A caller could not have sent this there.
    #[error("the new value may not stand there: {0}")]
    Unfit(#[source] BodyError),
}

/// A change that was found possible.
#[derive(Debug)]
pub struct Change {
    range: Range<usize>,
    text: String,
}

impl Change {
    /// How long this body is once it is changed, in bytes.
    pub fn length(&self, body: &[u8]) -> usize {
        body.len().saturating_sub(self.range.len()).saturating_add(self.text.len())
    }

    /// The body with the change, as a copy. `body` must be the one for which the change was found.
    pub fn apply(&self, body: &[u8]) -> Bytes {
        let mut changed = BytesMut::with_capacity(self.length(body));
        changed.extend_from_slice(body.get(..self.range.start).unwrap_or_default());
        changed.extend_from_slice(self.text.as_bytes());
        changed.extend_from_slice(body.get(self.range.end..).unwrap_or_default());
        changed.freeze()
    }
}

/// Puts `value`, which is JSON text, where the pointer leads. Missing objects on the way are made, also in place of null;
/// items of arrays are not.
///
/// # Errors
/// The pointer leads nowhere, or the value is nothing that may stand there.
pub fn set(body: &[u8], to: &str, value: &str) -> Result<Change, EditError> {
    let segments = pointer::segments(to)?;
    if segments.is_empty() {
        return Err(EditError::WholeBody);
    }
    // By itself first: in its place a text like `1,"b":2` would be more than a value.
    let value = serde_json::from_str::<&RawValue>(value).map_err(|_| EditError::NotJson)?.get();
    let way = walk(body, &segments);
    let (range, missing) = match way.end {
        WayEnd::Value { value, .. } => (value, &[][..]),
        WayEnd::Missing { inside, segments } => (inside..inside, segments),
        WayEnd::Null { value, segments } => (value, segments),
        WayEnd::NoContainer => return Err(EditError::NoContainer { at: pointer_to(&segments, way.containers.len()) }),
        WayEnd::NoItem => {
            return Err(EditError::NoItem { at: pointer_to(&segments, way.containers.len().saturating_sub(1)) });
        }
    };
    check(&segments, &way.containers, value)?;
    let text = match (missing.split_first(), range.is_empty()) {
        (None, _) => value.to_owned(),
        // Right behind the brace that opens the object.
        (Some((first, rest)), true) => {
            let is_alone = body.get(skip_space(body, range.start)) == Some(&b'}');
            let comma = if is_alone { "" } else { "," };
            format!("{}:{}{comma}", literal(first), nested(rest, value))
        }
        (Some(_), false) => nested(missing, value),
    };
    Ok(Change { range, text })
}

/// Takes out what the pointer leads to; none where nothing is there.
///
/// # Errors
/// The pointer is none, or names the whole body.
pub fn remove(body: &[u8], at: &str) -> Result<Option<Change>, EditError> {
    let segments = pointer::segments(at)?;
    if segments.is_empty() {
        return Err(EditError::WholeBody);
    }
    let WayEnd::Value { part, .. } = walk(body, &segments).end else { return Ok(None) };
    let behind = skip_space(body, part.end);
    let before = body.get(..part.start).unwrap_or_default().trim_ascii_end();
    let range = if body.get(behind) == Some(&b',') {
        part.start..skip_space(body, behind + 1)
    } else if before.ends_with(b",") {
        before.len() - 1..part.end
    } else {
        part
    };
    Ok(Some(Change { range, text: String::new() }))
}

/// Whether the value may stand there: read with nothing around it but the way, it must pass as a body of a caller's does.
fn check(segments: &[Cow<'_, str>], containers: &[Container], value: &str) -> Result<(), EditError> {
    let mut outline = value.to_owned();
    for (at, segment) in segments.iter().enumerate().rev() {
        outline = match containers.get(at) {
            Some(Container::Array) => format!("[{outline}]"),
            Some(Container::Object) | None => format!("{{{}:{outline}}}", literal(segment)),
        };
    }
    JsonBody::read(&Bytes::from(outline), &[]).map_err(EditError::Unfit)?;
    Ok(())
}

/// The value in the objects that are missing around it.
fn nested(segments: &[Cow<'_, str>], value: &str) -> String {
    segments.iter().rev().fold(value.to_owned(), |value, segment| format!("{{{}:{value}}}", literal(segment)))
}

fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first of the segments as a pointer again, for a message.
fn pointer_to(segments: &[Cow<'_, str>], count: usize) -> String {
    segments.iter().take(count).map(|segment| format!("/{}", segment.replace('~', "~0").replace('/', "~1"))).collect()
}

/// What a step of the way leads into.
#[derive(Clone, Copy, Debug)]
enum Container {
    Object,
    Array,
}

/// The way that a pointer takes through a body.
#[derive(Debug)]
struct Way<'s> {
    /// What each step led into, as far as it is there.
    containers: Vec<Container>,
    end: WayEnd<'s>,
}

/// Where a way ends.
#[derive(Debug)]
enum WayEnd<'s> {
    /// At a value. `part` begins with its key, where it has one.
    Value { part: Range<usize>, value: Range<usize> },
    /// In an object, whose members begin at `inside`, without the first of these keys.
    Missing { inside: usize, segments: &'s [Cow<'s, str>] },
    /// At a null before its end.
    Null { value: Range<usize>, segments: &'s [Cow<'s, str>] },
    /// At another value that has no members.
    NoContainer,
    /// In an array that is too short, or with a key for an index.
    NoItem,
}

fn walk<'s>(json: &[u8], segments: &'s [Cow<'s, str>]) -> Way<'s> {
    let mut containers = Vec::with_capacity(segments.len());
    let mut at = skip_space(json, 0);
    let mut part = at;
    let mut rest = segments;
    while let Some((segment, behind)) = rest.split_first() {
        let (container, found) = match json.get(at) {
            Some(b'{') => (Container::Object, member(json, at, segment)),
            Some(b'[') => {
                let item = pointer::index_of(segment).and_then(|index| item(json, at, index));
                (Container::Array, item.map(|item| (item, item)))
            }
            Some(b'n') => {
                return Way { containers, end: WayEnd::Null { value: at..value_end(json, at), segments: rest } };
            }
            _ => return Way { containers, end: WayEnd::NoContainer },
        };
        containers.push(container);
        (part, at) = match (found, container) {
            (Some(found), _) => found,
            (None, Container::Object) => {
                return Way { containers, end: WayEnd::Missing { inside: at + 1, segments: rest } };
            }
            (None, Container::Array) => return Way { containers, end: WayEnd::NoItem },
        };
        rest = behind;
    }
    let end = value_end(json, at);
    Way { containers, end: WayEnd::Value { part: part..end, value: at..end } }
}

/// The member with this key of the object at `at`: where it begins, and where its value does.
fn member(json: &[u8], at: usize, key: &str) -> Option<(usize, usize)> {
    let mut at = skip_space(json, at + 1);
    while json.get(at) == Some(&b'"') {
        let key_end = string_end(json, at);
        // One colon stands between them.
        let value = skip_space(json, skip_space(json, key_end) + 1);
        if is_key(json.get(at..key_end)?, key) {
            return Some((at, value));
        }
        at = behind_comma(json, value)?;
    }
    None
}

/// Where the item with this index of the array at `at` begins.
fn item(json: &[u8], at: usize, index: usize) -> Option<usize> {
    let mut at = skip_space(json, at + 1);
    if json.get(at) == Some(&b']') {
        return None;
    }
    for _ in 0..index {
        at = behind_comma(json, at)?;
    }
    Some(at)
}

/// What follows the value at `at` behind a comma; none where it is the last.
fn behind_comma(json: &[u8], at: usize) -> Option<usize> {
    let comma = skip_space(json, value_end(json, at));
    (json.get(comma) == Some(&b',')).then(|| skip_space(json, comma + 1))
}

/// Whether a literal, quotes included, is this key.
fn is_key(literal: &[u8], key: &str) -> bool {
    if memchr::memchr(b'\\', literal).is_some() {
        return serde_json::from_slice::<String>(literal).is_ok_and(|decoded| decoded == key);
    }
    literal.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) == Some(key.as_bytes())
}

/// Where the value at `at` ends.
fn value_end(json: &[u8], at: usize) -> usize {
    match json.get(at) {
        Some(b'"') => string_end(json, at),
        Some(b'{' | b'[') => container_end(json, at),
        _ => {
            let rest = json.get(at..).unwrap_or_default();
            let is_of_it = |byte: &&u8| !matches!(byte, b',' | b']' | b'}') && !byte.is_ascii_whitespace();
            at + rest.iter().take_while(is_of_it).count()
        }
    }
}

fn container_end(json: &[u8], at: usize) -> usize {
    let (mut at, mut depth) = (at, 0_usize);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                at = string_end(json, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    json.len()
}

/// Where the string whose first quote is at `at` ends.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if json.get(at) == Some(&b'"') {
            return at + 1;
        }
        // The escaped character may be a quote.
        at += 2;
    }
    json.len()
}

#[cfg(test)]
mod tests;
