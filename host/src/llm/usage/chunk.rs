//! OpenAI's chunks: whether one carries a part of the answer, and whether it is there for its usage alone.
//!
//! A stream begins with a chunk that only names the role and ends with one that only says why; neither is a token. What a
//! model wrote is text within strings, where a quote has a backslash before it, and is never taken for a member.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::members::{Member, Members};

/// In most chunks the text stands right behind this: they need not be read as JSON.
static CONTENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"content\":\""));

/// Whether a chunk carries a part of an answer: text, thoughts, a call of a tool or the like.
pub(super) fn carries_a_part(chunk: &[u8]) -> bool {
    if let Some(at) = CONTENT.find(chunk)
        && chunk.get(at + CONTENT.needle().len()).is_some_and(|byte| *byte != b'"')
    {
        return true;
    }
    choices(chunk).and_then(Members::of).is_some_and(|mut choice| choice.any(|member| says_something(&member)))
}

/// Whether a chunk is the one that tells the usage of a whole stream, and nothing else.
pub(super) fn is_for_usage_alone(chunk: &[u8]) -> bool {
    let mut members = Members::of(chunk).into_iter().flatten();
    let has_usage = members.any(|member| member.key == Some(b"usage") && member.value.starts_with(b"{"));
    has_usage && choices(chunk).is_some_and(<[u8]>::is_empty)
}

/// What stands in the list of choices; of several the last is looked at, which is the only one in what servers send.
fn choices(chunk: &[u8]) -> Option<&[u8]> {
    let mut members = Members::of(chunk).into_iter().flatten();
    let list = members.find(|member| member.key == Some(b"choices"))?.value;
    Some(list.strip_prefix(b"[")?.strip_suffix(b"]")?.trim_ascii())
}

fn says_something(member: &Member<'_>) -> bool {
    match member.key {
        Some(b"text") => !is_nothing(member.value),
        Some(b"delta") => {
            let mut said = Members::of(member.value).into_iter().flatten();
            said.any(|part| part.key != Some(b"role") && !is_nothing(part.value))
        }
        _ => false,
    }
}

fn is_nothing(value: &[u8]) -> bool {
    matches!(value, b"" | b"null" | b"\"\"" | b"[]" | b"{}")
}

#[cfg(test)]
mod tests {
    use super::{carries_a_part, is_for_usage_alone};

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        Part,
        Usage,
        Frame,
    }

    #[track_caller]
    fn check(chunk: &str, expected: Kind) {
        let told = match (carries_a_part(chunk.as_bytes()), is_for_usage_alone(chunk.as_bytes())) {
            (true, false) => Kind::Part,
            (false, true) => Kind::Usage,
            (false, false) => Kind::Frame,
            (true, true) => panic!("{chunk} is both"),
        };
        assert_eq!(told, expected, "{chunk}");
    }

    #[test]
    fn what_a_model_writes_is_a_part_and_what_frames_it_is_none() {
        for delta in [
            r#"{"role":"assistant","content":"a"}"#,
            r#"{ "content" : "a" }"#,
            r#"{"content":"\""}"#,
            r#"{"role":"assistant","content":"","reasoning":"hm"}"#,
            r#"{"content":null,"reasoning_content":"hm"}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a"}}]}"#,
            r#"{"refusal":"no"}"#,
        ] {
            check(
                &format!(r#"{{"id":"c","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#),
                Kind::Part,
            );
        }
        for delta in [
            "{}",
            r#"{"role":"assistant"}"#,
            r#"{"role":"assistant","content":""}"#,
            r#"{"role":"assistant","content": "","refusal":null}"#,
            r#"{"content":null,"tool_calls":[]}"#,
        ] {
            let chunk = format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":"stop"}}],"usage":null}}"#);
            check(&chunk, Kind::Frame);
        }
        check(r#"{"choices":[{"index":0,"text":"a","finish_reason":null}]}"#, Kind::Part);
        check(r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#, Kind::Frame);
    }

    #[test]
    fn a_chunk_for_usage_alone_has_usage_and_no_choice() {
        check(r#"{"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#, Kind::Usage);
        check(r#"{"usage": {"prompt_tokens":7}, "choices": [ ]}"#, Kind::Usage);
        // Azure's first chunk, and the end of those who tell the usage with it.
        check(r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#, Kind::Frame);
        check(r#"{"choices":[],"usage":null}"#, Kind::Frame);
        check(r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":7}}"#, Kind::Frame);
        for other in ["[DONE]", "", "1", r#"{"error":{"message":"no"}}"#, r#"{"usage":{"prompt_tokens":7}}"#] {
            check(other, Kind::Frame);
        }
    }

    #[test]
    fn what_a_model_wrote_is_taken_for_nothing_else() {
        let text = r#"\"},\"finish_reason\":null}],\"choices\":[],\"usage\":{\"prompt_tokens\":1}}"#;
        check(&format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#), Kind::Part);
        let forged = r#"{"choices":[{"delta":{"role":"\"content\":\"x"}}]}"#;
        check(forged, Kind::Frame);
    }
}
