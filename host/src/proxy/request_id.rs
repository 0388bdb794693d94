//! The id of a call: the caller's own if it is well-formed, else a new one. And the seed of the call's random numbers.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderValue};

use crate::{
    identity::looks_like_key,
    llm::Surface,
    wire::headers::{ANTHROPIC_REQUEST_ID, REQUEST_ID},
};

/// Longest id that is taken from a caller.
const MAX_BYTES: usize = 64;

/// Makes ids: unique within a process by a counter, and between processes by what the counter is mixed with.
#[derive(Debug)]
pub(super) struct RequestIds {
    secret: RandomState,
    next: AtomicU64,
}

/// One call's id.
#[derive(Debug)]
pub(super) struct RequestId {
    text: Box<str>,
    seed: u64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        Self { secret: RandomState::new(), next: AtomicU64::new(0) }
    }

    pub(super) fn accept_or_make(&self, headers: &HeaderMap) -> RequestId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // A keyed hash: who has seen one number can't tell the next.
        let seed = self.secret.hash_one((number, 0_u8));
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|text| is_well_formed(text));
        let text = match given {
            Some(text) => text.into(),
            None => format!("{:016x}{:016x}", self.secret.hash_one((number, 1_u8)), number).into(),
        };
        RequestId { text, seed }
    }
}

impl RequestId {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Anthropic's clients look for it under a name of their own.
    pub(super) fn stamp(&self, headers: &mut HeaderMap, surface: Surface) {
        let Ok(value) = HeaderValue::from_str(&self.text) else { return };
        if surface == Surface::Anthropic {
            headers.insert(ANTHROPIC_REQUEST_ID, value.clone());
        }
        headers.insert(REQUEST_ID, value);
    }
}

/// A key is not taken even when it is written like an id: ids stand in logs and go to backends.
fn is_well_formed(text: &str) -> bool {
    looks_like_key(text).is_none()
        && matches!(text.len(), 1..=MAX_BYTES)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(given: Option<&str>) -> RequestId {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert(REQUEST_ID, given.parse().unwrap());
        }
        RequestIds::new().accept_or_make(&headers)
    }

    #[test]
    fn a_well_formed_id_is_kept_and_any_other_replaced() {
        assert_eq!(id(Some("a-b_c.9")).as_str(), "a-b_c.9");
        for given in
            [None, Some(""), Some("a b"), Some("a\"b"), Some("op_x/y"), Some("op_abc_def"), Some(&"x".repeat(65))]
        {
            assert_eq!(id(given).as_str().len(), 32, "{given:?}");
        }
    }

    #[test]
    fn ids_and_seeds_differ_from_call_to_call() {
        let (ids, none) = (RequestIds::new(), HeaderMap::new());
        let (one, two) = (ids.accept_or_make(&none), ids.accept_or_make(&none));
        assert_ne!(one.as_str(), two.as_str());
        assert_ne!(one.seed(), two.seed());
    }
}
