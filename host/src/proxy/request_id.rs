//! The id of a call: the caller's own if it is well-formed, else a new one. And the seed of the call's random numbers.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    identity::looks_like_key,
    llm::Surface,
    wire::headers::{ANTHROPIC_REQUEST_ID, REQUEST_ID},
};

/// Longest id that is taken from a caller.
const MAX_BYTES: usize = 64;

/// Where a caller's credential may stand.
const CREDENTIALS: [HeaderName; 2] = [header::AUTHORIZATION, HeaderName::from_static("x-api-key")];

/// Shortest credential that an id must not repeat, in bytes.
const SHORTEST_SECRET: usize = 8;

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
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        let given = given.filter(|text| is_well_formed(text) && !repeats_credential(headers, text));
        let text = match given {
            Some(text) => text.into(),
            None => {
                let halves = [self.secret.hash_one((number, 1_u8)), number].map(hex);
                std::str::from_utf8(halves.as_flattened()).expect("digits are text").into()
            }
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

/// Sixteen digits; by hand, because formatting costs more than all else here.
fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(
            &[byte >> 4, byte & 15].map(|digit| if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }),
        );
    }
    digits
}

/// A key is not taken even when it is written like an id: ids stand in logs and go to backends.
fn is_well_formed(text: &str) -> bool {
    looks_like_key(text).is_none()
        && matches!(text.len(), 1..=MAX_BYTES)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether the id holds what the caller presents as its credential.
fn repeats_credential(headers: &HeaderMap, text: &str) -> bool {
    let lines = CREDENTIALS.into_iter().flat_map(|name| headers.get_all(name));
    let mut words = lines.filter_map(|line| line.to_str().ok()?.split_ascii_whitespace().next_back());
    words.any(|word| word.len() >= SHORTEST_SECRET && text.contains(word))
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
    fn an_id_that_repeats_the_credential_is_replaced() {
        let made = |name: &'static str, line: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, "-a-long-token-".parse().unwrap());
            headers.insert(name, line.parse().unwrap());
            RequestIds::new().accept_or_make(&headers).text.len() == 32
        };
        assert!(made("authorization", "Bearer a-long-token"));
        assert!(made("x-api-key", "a-long-token"));
        assert!(!made("authorization", "Bearer another-long-token"));
        assert!(!made("authorization", "Bearer token"), "what is that short is no secret");
    }

    #[test]
    fn ids_and_seeds_differ_from_call_to_call() {
        let (ids, none) = (RequestIds::new(), HeaderMap::new());
        let (one, two) = (ids.accept_or_make(&none), ids.accept_or_make(&none));
        assert_ne!(one.as_str(), two.as_str());
        assert_ne!(one.seed(), two.seed());
    }
}
