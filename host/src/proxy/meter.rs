//! The meter of one call: what a backend's answer took, in tokens.
//!
//! It looks at each piece of the answer on its way to the caller, by reference, and neither holds one back nor changes one,
//! save where the gate itself made a stream tell its usage: that event is taken out again, see [`Reading::sift`].
//! What a backend doesn't say is estimated, and marked so: the input from the request's size, the output from the pieces, or
//! the bytes, that came.

use bytes::Bytes;
use http::{HeaderMap, header};

use crate::{
    llm::{
        Operation,
        body::text_tokens,
        usage::{Counted, Framing, Reading},
    },
    usage::estimate::Expected,
};

/// What one call took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) input: Amount,
    pub(super) output: Amount,
}

/// A number of tokens, and whether it was counted by the backend or estimated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) tokens: u64,
    pub(super) is_estimated: bool,
}

impl Tokens {
    /// From what was read of the answer, and what was expected.
    pub(super) fn of(counted: Counted, operation: Operation, expected: Expected) -> Self {
        let Counted { usage, pieces, bytes, is_unread } = counted;
        let output = match usage.output {
            Some(tokens) => Amount::counted(tokens),
            // Vectors are no output tokens, on any surface.
            None if operation == Operation::Embed => Amount::counted(0),
            // What can't be read must not be free.
            None if is_unread => Amount::estimated(expected.output.into()),
            None => {
                let from_bytes = text_tokens(usize::try_from(bytes).unwrap_or(usize::MAX));
                Amount::estimated(pieces.max(u64::from(from_bytes)))
            }
        };
        let input = usage.input.map_or_else(|| Amount::estimated(expected.input.into()), Amount::counted);
        Self { input, output }
    }

    /// Whether one of them is the gate's count.
    pub(super) fn is_estimated(self) -> bool {
        self.input.is_estimated || self.output.is_estimated
    }
}

impl Amount {
    fn counted(tokens: u64) -> Self {
        Self { tokens, is_estimated: false }
    }

    fn estimated(tokens: u64) -> Self {
        Self { tokens, is_estimated: true }
    }
}

/// Reads one answer as it passes.
#[derive(Debug)]
pub(super) struct Meter(Option<Reading>);

impl Meter {
    /// A meter that reads nothing: for answers that are no model's.
    pub(super) fn off() -> Self {
        Self(None)
    }

    /// A meter for an answer with this head, and so many bytes if that is known. `hides_usage` takes out of a stream what
    /// its caller did not ask for.
    pub(super) fn of(headers: &HeaderMap, length: Option<u64>, hides_usage: bool) -> Self {
        // What is encoded can't be read; the gate asks for no encoding, but a backend may know better.
        if headers.contains_key(header::CONTENT_ENCODING) {
            return Self::off();
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let reading = Framing::of(kind, length).map(Reading::new);
        Self(if hides_usage { reading.map(Reading::hiding_usage) } else { reading })
    }

    /// Whether the answer comes as it is written, and not when it is done.
    pub(super) fn reads_a_stream(&self) -> bool {
        self.0.as_ref().is_some_and(Reading::is_of_a_stream)
    }

    /// Looks at the next piece.
    pub(super) fn see(&mut self, piece: &[u8]) {
        if let Some(reading) = &mut self.0 {
            reading.see(piece);
        }
    }

    /// Whether pieces go through [`sift`](Self::sift).
    pub(super) fn is_sifting(&self) -> bool {
        self.0.as_ref().is_some_and(Reading::is_sifting)
    }

    /// Looks at the next piece; what passes now, maybe nothing.
    pub(super) fn sift(&mut self, piece: Bytes) -> Bytes {
        match &mut self.0 {
            Some(reading) => reading.sift(&piece),
            None => piece,
        }
    }

    /// Whether something is held back.
    pub(super) fn holds_back(&self) -> bool {
        self.0.as_ref().is_some_and(Reading::holds_back)
    }

    /// What is held back, when nothing more comes.
    pub(super) fn rest(&mut self) -> Bytes {
        self.0.as_mut().map_or_else(Bytes::new, Reading::rest)
    }

    /// What is held back of an answer that broke off.
    pub(super) fn held(&mut self) -> Bytes {
        self.0.as_mut().map_or_else(Bytes::new, Reading::held)
    }

    /// What was read; `is_whole` when the answer has come to its end.
    pub(super) fn finish(&mut self, is_whole: bool) -> Counted {
        let unread = Counted { is_unread: true, ..Counted::default() };
        self.0.take().map_or(unread, |reading| reading.finish(is_whole))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::llm::usage::Usage;

    const EXPECTED: Expected = Expected { input: 11, output: 70 };

    #[track_caller]
    fn check(counted: Counted, operation: Operation, input: (u64, bool), output: (u64, bool)) {
        let amount = |(tokens, is_estimated)| Amount { tokens, is_estimated };
        let expected = Tokens { input: amount(input), output: amount(output) };
        assert_eq!(Tokens::of(counted, operation, EXPECTED), expected, "{counted:?}");
    }

    #[test]
    fn what_the_backend_counted_goes_before_any_estimate() {
        let usage = Usage { input: Some(3), output: Some(4) };
        check(Counted { usage, pieces: 9, bytes: 900, is_unread: false }, Operation::Chat, (3, false), (4, false));
        let usage = Usage { input: Some(3), output: None };
        check(Counted { usage, pieces: 9, bytes: 0, is_unread: false }, Operation::Chat, (3, false), (9, true));
        check(Counted { usage, pieces: 0, bytes: 900, is_unread: false }, Operation::Embed, (3, false), (0, false));
    }

    #[test]
    fn what_it_did_not_count_is_estimated_from_what_came() {
        check(Counted { pieces: 9, ..Counted::default() }, Operation::Chat, (11, true), (9, true));
        check(Counted { bytes: 37, ..Counted::default() }, Operation::Chat, (11, true), (10, true));
        check(Counted::default(), Operation::Embed, (11, true), (0, false));
        // What can't be read at all is what was expected.
        check(Counted { is_unread: true, ..Counted::default() }, Operation::Chat, (11, true), (70, true));
        check(Counted { bytes: u64::MAX, ..Counted::default() }, Operation::Chat, (11, true), (u32::MAX.into(), true));
    }

    #[test]
    fn an_encoded_answer_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let text = br#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        let read = |headers: &HeaderMap| {
            let mut meter = Meter::of(headers, None, false);
            meter.see(text);
            let counted = meter.finish(true);
            (counted.usage.output, counted.is_unread)
        };
        assert_eq!(read(&headers), (Some(4), false));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(read(&headers), (None, true));
    }

    #[test]
    fn a_meter_tells_once() {
        let mut meter = Meter(Some(Reading::new(Framing::Lines)));
        meter.see(b"{\"done\":false}\n");
        assert_eq!(meter.finish(false).pieces, 1);
        assert_eq!(meter.finish(false).pieces, 0);
    }
}
