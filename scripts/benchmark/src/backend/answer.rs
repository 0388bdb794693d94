//! What the backend answers: the name of the asked model says it, so that one server plays every part.
//!
//! `bytes-N` answers N bytes of JSON at once, `stream-N-US` N lines with so many microseconds between them, and `hold` one
//! line, and then nothing until the caller leaves.

use std::time::Duration;

use bytes::Bytes;

/// The answer to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A JSON body of so many bytes.
    Whole { bytes: usize },
    /// So many lines, one after the other.
    Stream { lines: u32, every: Duration },
    /// One line; the stream stays open.
    Hold,
}

/// Most bytes of an answer: what a mistyped name may cost.
const MOST_BYTES: usize = 64 << 20;

impl Answer {
    /// What a model of this name answers, with or without `:latest`.
    pub(crate) fn of(model: &str) -> Option<Self> {
        let name = model.strip_suffix(":latest").unwrap_or(model);
        if name == "hold" {
            return Some(Self::Hold);
        }
        if let Some(bytes) = name.strip_prefix("bytes-") {
            let bytes = bytes.parse().ok().filter(|bytes| *bytes <= MOST_BYTES)?;
            return Some(Self::Whole { bytes });
        }
        let (lines, us) = name.strip_prefix("stream-")?.split_once('-')?;
        Some(Self::Stream { lines: lines.parse().ok()?, every: Duration::from_micros(us.parse().ok()?) })
    }
}

/// The model that a call asks for: the first one that the text names. A real parser would cost more than the answer.
pub(crate) fn asked_model(body: &[u8]) -> Option<&str> {
    const FIELD: &[u8] = br#""model":""#;
    let at = body.windows(FIELD.len()).position(|window| window == FIELD)?;
    let rest = body.get(at + FIELD.len()..)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

/// A chat answer of exactly so many bytes; fewer than the frame takes are rounded up to it.
pub(crate) fn whole(bytes: usize) -> Bytes {
    const HEAD: &str =
        r#"{"model":"bench","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""#;
    const TAIL: &str = r#""},"done":true,"done_reason":"stop","prompt_eval_count":256,"eval_count":256}"#;
    let filling = "word ".chars().cycle().take(bytes.saturating_sub(HEAD.len() + TAIL.len()));
    let mut text = String::with_capacity(bytes.max(HEAD.len() + TAIL.len()));
    text.push_str(HEAD);
    text.extend(filling);
    text.push_str(TAIL);
    Bytes::from(text)
}

/// One line of a stream; the last one says how it ended.
pub(crate) fn line(is_last: bool) -> Bytes {
    const LINE: &[u8] = br#"{"model":"bench","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":" word"},"done":false}
"#;
    const LAST: &[u8] = br#"{"model":"bench","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":256,"eval_count":200}
"#;
    Bytes::from_static(if is_last { LAST } else { LINE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_answered() {
        assert_eq!(Answer::of("bytes-16384:latest"), Some(Answer::Whole { bytes: 16_384 }));
        assert_eq!(
            Answer::of("stream-200-5000"),
            Some(Answer::Stream { lines: 200, every: Duration::from_micros(5000) })
        );
        assert_eq!(Answer::of("hold:latest"), Some(Answer::Hold));
        for name in ["", "llama3", "bytes-", "bytes-99999999999", "stream-200", "stream-x-1"] {
            assert_eq!(Answer::of(name), None, "{name}");
        }
    }

    #[test]
    fn the_model_is_found_wherever_it_stands() {
        assert_eq!(asked_model(br#"{"stream":true,"model":"hold"}"#), Some("hold"));
        assert_eq!(asked_model(br#"{"stream":true}"#), None);
        assert_eq!(asked_model(br#"{"model":"hold"#), None);
    }

    #[test]
    fn an_answer_has_the_asked_size_and_is_json() {
        for bytes in [256, 1024, 262_144] {
            let body = whole(bytes);
            assert_eq!(body.len(), bytes);
            assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
        }
        for line in [line(false), line(true)] {
            assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok() && line.ends_with(b"\n"));
        }
    }
}
