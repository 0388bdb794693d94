//! What can be wrong with a body, in words that a caller can act on.
//!
//! Keys are shown, cut short and escaped; values never are, because prompts are private.

use std::fmt;

use serde_json::error::Category;
use thiserror::Error;

use super::walk::{Flaw, MAX_DEPTH, MAX_OPEN_KEYS, Stop};

/// The most characters of one key that a message shows.
const SHOWN_KEY_CHARS: usize = 64;
/// The most steps of a path that a message shows.
const SHOWN_STEPS: usize = 8;

/// Why a body was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// No bytes, or nothing but white space.
    #[error("the body is empty; send one JSON object")]
    Empty,
    /// A JSON value that is not an object.
    #[error("the body is not a JSON object; send one object in braces")]
    NotObject,
    /// No JSON, or not in UTF-8.
    #[error("the body is not valid JSON near {at}: {reason}; send one JSON object in UTF-8")]
    Syntax {
        /// What the parser says.
        reason: String,
        /// Where it says so.
        at: Spot,
    },
    /// More after the object than white space.
    #[error("the body goes on after its JSON object near byte {offset}; send one object and nothing else")]
    TrailingData {
        /// Bytes from the start of the body.
        offset: usize,
    },
    /// Objects and arrays more than 64 deep.
    #[error("the body is nested more than {MAX_DEPTH} levels deep near {at}; send a flatter one")]
    TooDeep {
        /// What stands too deep.
        at: Spot,
    },
    /// More keys than the check for duplicates will remember.
    #[error("the objects around {at} have more than {MAX_OPEN_KEYS} keys; send fewer")]
    TooManyKeys {
        /// The innermost of these objects.
        at: Spot,
    },
    /// A key that stands twice in one object.
    #[error("the key \"{key}\" stands twice in one object near {at}; write it once")]
    DuplicateKey {
        /// The key, cut and escaped.
        key: String,
        /// The object.
        at: Spot,
    },
    /// A field name that a reader without regard to case would take for another.
    #[error("the field name \"{key}\" near {at} is not in plain lower case; write it in lower case")]
    NotLowerCase {
        /// The field name, cut and escaped.
        key: String,
        /// The object.
        at: Spot,
    },
    /// A field that Tollgate reads holds a value of another kind.
    #[error("the value near {at} is not {expected}; write {expected} or leave the field out")]
    WrongType {
        /// The kind that belongs there.
        expected: &'static str,
        /// The field.
        at: Spot,
    },
}

/// A place in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Bytes from the start of the body; the fault stands there or a few bytes before.
    pub offset: usize,
    /// Keys and indices from the outside in, each after a `/`; empty for the body itself. Cut for display.
    pub path: String,
}

impl fmt::Display for Spot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "byte {}", self.offset)?;
        if self.path.is_empty() { Ok(()) } else { write!(formatter, ", in {}", self.path) }
    }
}

/// Puts a stopped walk into words: its own refusal where it has one, else what the parser says.
pub(super) fn explain(refusal: Stop<'_>, error: &serde_json::Error, bytes: &[u8]) -> BodyError {
    let at = Spot { offset: offset_of(error, bytes), path: path_text(&refusal) };
    match refusal.fault {
        Some(Flaw::NotObject) => BodyError::NotObject,
        Some(Flaw::TooDeep) => BodyError::TooDeep { at },
        Some(Flaw::TooManyKeys) => BodyError::TooManyKeys { at },
        Some(Flaw::DuplicateKey(key)) => BodyError::DuplicateKey { key: shown(&key), at },
        Some(Flaw::NotLowerCase(key)) => BodyError::NotLowerCase { key: shown(&key), at },
        Some(Flaw::WrongType(expected)) => BodyError::WrongType { expected, at },
        None => BodyError::Syntax { reason: reason_of(error), at },
    }
}

/// Where the parser stopped, in bytes from the start.
pub(super) fn offset_of(error: &serde_json::Error, bytes: &[u8]) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let line_start: usize = bytes.split_inclusive(|byte| *byte == b'\n').take(lines_before).map(<[u8]>::len).sum();
    line_start.saturating_add(error.column()).min(bytes.len())
}

/// The parser's own words without its line and column. Only syntax errors are passed on: they name no values.
fn reason_of(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Syntax | Category::Eof => {
            let text = error.to_string();
            text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason).to_owned()
        }
        Category::Data | Category::Io => "unexpected value".to_owned(),
    }
}

fn path_text(refusal: &Stop<'_>) -> String {
    let mut text = String::new();
    for step in refusal.path.iter().rev().take(SHOWN_STEPS) {
        text.push('/');
        text.push_str(&shown(step));
    }
    if refusal.path.len() > SHOWN_STEPS {
        text.push_str("/…");
    }
    text
}

/// A key as messages show it.
fn shown(key: &str) -> String {
    let mut chars = key.chars();
    let mut text: String = chars.by_ref().take(SHOWN_KEY_CHARS).flat_map(char::escape_debug).collect();
    if chars.next().is_some() {
        text.push('…');
    }
    text
}
