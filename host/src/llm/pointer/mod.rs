//! Looking up single values in a body by JSON pointer (RFC 6901), without decoding the rest.
//!
//! The body has passed [`JsonBody::read`](super::body::JsonBody::read), so it is one object, no key stands twice and
//! reading may stop at the first match. A body that did not pass gives wrong answers, never a panic. The pointer is a
//! policy's and may be anything.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error as ErrorMessage;

/// The most steps that a pointer may take.
const MAX_SEGMENTS: usize = 32;

/// Why a text is no pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ErrorMessage)]
pub enum PointerError {
    /// A pointer is empty or starts with `/`.
    #[error("the JSON pointer does not start with `/`; write it as `/options/num_ctx`, or empty for the whole body")]
    NoSlash,
    /// `~` that neither `0` nor `1` follows.
    #[error("the JSON pointer holds a `~` that is neither `~0` nor `~1`; write `~0` for `~` and `~1` for `/`")]
    BadEscape,
    /// More than 32 steps.
    #[error("the JSON pointer has more than {MAX_SEGMENTS} segments; write a shorter one")]
    TooLong,
}

/// The raw JSON text of the value that `pointer` names; `null` where the value is null, none where there is no value.
///
/// # Errors
/// A pointer that RFC 6901 does not allow, or one of more than 32 segments.
pub fn at<'a>(body: &'a [u8], pointer: &str) -> Result<Option<&'a str>, PointerError> {
    let segments = segments(pointer)?;
    let mut found = None;
    let step = Step { segments: &segments, found: &mut found };
    // The outcome says only whether reading stopped early; what was found stands in `found`.
    drop(step.deserialize(&mut serde_json::Deserializer::from_slice(body)));
    Ok(found)
}

/// The first step of a pointer, unescaped; none where it names the whole body.
///
/// # Errors
/// As for [`at`].
pub fn first(pointer: &str) -> Result<Option<Cow<'_, str>>, PointerError> {
    Ok(segments(pointer)?.into_iter().next())
}

/// What the model is asked: the raw JSON text of `/messages`, else `/prompt`, else `/input`. None when none of the three is
/// there; null counts as absent.
pub fn asked(body: &[u8]) -> Option<&[u8]> {
    let field = |pointer| at(body, pointer).ok().flatten().filter(|text| *text != "null");
    ["/messages", "/prompt", "/input"].into_iter().find_map(field).map(str::as_bytes)
}

/// The pointer's segments, unescaped.
pub(super) fn segments(pointer: &str) -> Result<Vec<Cow<'_, str>>, PointerError> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let steps = pointer.strip_prefix('/').ok_or(PointerError::NoSlash)?;
    if steps.split('/').nth(MAX_SEGMENTS).is_some() {
        return Err(PointerError::TooLong);
    }
    steps.split('/').map(unescape).collect()
}

fn unescape(segment: &str) -> Result<Cow<'_, str>, PointerError> {
    if !segment.contains('~') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut text = String::with_capacity(segment.len());
    let mut chars = segment.chars();
    while let Some(character) = chars.next() {
        text.push(match character {
            '~' => match chars.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(PointerError::BadEscape),
            },
            _ => character,
        });
    }
    Ok(Cow::Owned(text))
}

/// The index that a segment names; none for `-`, leading zeros and what is no number.
pub(super) fn index_of(segment: &str) -> Option<usize> {
    let is_canonical = segment == "0" || !segment.starts_with(['0', '+']);
    if is_canonical { segment.parse().ok() } else { None }
}

/// The way from one value down to the value looked for.
///
/// Only objects and arrays lead on. For any other value the visitor's defaults end the reading with an error, save for
/// strings: the default would copy the string into that error.
#[derive(Debug)]
struct Step<'s, 'de> {
    segments: &'s [Cow<'s, str>],
    found: &'s mut Option<&'de str>,
}

impl<'de> DeserializeSeed<'de> for Step<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.segments.is_empty() {
            *self.found = Some(<&RawValue>::deserialize(deserializer)?.get());
            return Ok(());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some((wanted, segments)) = self.segments.split_first() else { return Ok(()) };
        while let Some(is_wanted) = access.next_key_seed(KeyIs(wanted))? {
            if is_wanted {
                access.next_value_seed(Step { segments, found: self.found })?;
                return Err(stop());
            }
            access.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some((wanted, segments)) = self.segments.split_first() else { return Ok(()) };
        let Some(index) = index_of(wanted) else { return Err(stop()) };
        for _ in 0..index {
            if access.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        access.next_element_seed(Step { segments, found: self.found })?;
        Err(stop())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(stop())
    }
}

/// Ends the reading; an error is the one way by which serde lets go of a value half-way.
fn stop<E: Error>() -> E {
    E::custom("nothing more to read")
}

/// Compares a key, after unescaping, without keeping it.
#[derive(Debug)]
struct KeyIs<'s>(&'s str);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests;
