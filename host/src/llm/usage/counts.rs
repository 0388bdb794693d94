//! Where the APIs say how many tokens a call took: Ollama in the object that ends an answer, the others in `usage`.
//!
//! A server's numbers are taken as they are or not at all: what is negative, broken, written as text or larger than any
//! model's is no count.

use super::{
    Usage,
    members::{Member, Members},
};

/// Larger counts are nonsense: no model reads or writes so much in one call.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// What one line of Ollama's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A piece of the answer.
    Piece,
    /// The object that ends an answer.
    Last(Usage),
    /// Something else: an error, a report of progress.
    Other,
}

/// What a whole answer says; `text` may have lost its beginning.
///
/// Each member is looked at once, and none before those that say all: of a long answer most is one text.
pub(super) fn of_answer(text: &[u8]) -> Usage {
    let (mut ending, mut is_said) = (Ending::default(), false);
    for member in Members::of(text).into_iter().flatten() {
        if !is_said && let Some(usage) = said_by(&member) {
            if usage != Usage::default() {
                return usage;
            }
            is_said = member.key == Some(b"usage");
        }
        if let Some(Line::Last(usage)) = ending.takes(&member) {
            return usage;
        }
    }
    match ending.line() {
        Line::Last(usage) => usage,
        Line::Piece | Line::Other => Usage::default(),
    }
}

/// What one line of Ollama's says; `text` may have lost its beginning.
pub(super) fn of_line(text: &[u8]) -> Line {
    let mut ending = Ending::default();
    for member in Members::of(text).into_iter().flatten() {
        if let Some(line) = ending.takes(&member) {
            return line;
        }
    }
    ending.line()
}

/// What the members of an Ollama object, told from the last to the first, say of it.
///
/// Ollama leaves out counts that are 0, as that of a prompt that it still had in memory: what the last object doesn't say
/// is 0. It is told by `done`, or where that was lost, or is never written, by any number that only the last one has.
#[derive(Debug, Default)]
struct Ending {
    input: Option<Option<u64>>,
    output: Option<Option<u64>>,
    is_last: bool,
    is_piece: bool,
}

impl Ending {
    /// Looks at one member more; tells what the object is once no other can change it.
    fn takes(&mut self, member: &Member<'_>) -> Option<Line> {
        match member.key {
            Some(b"done") if member.value == b"false" => self.is_piece = true,
            Some(b"done") => self.is_last |= member.value == b"true",
            Some(b"total_duration") => self.is_last = true,
            Some(b"prompt_eval_count") if self.input.is_none() => self.input = Some(count(member.value)),
            Some(b"eval_count") if self.output.is_none() => self.output = Some(count(member.value)),
            _ => return None,
        }
        let is_known = self.is_piece || (self.is_last && self.input.is_some() && self.output.is_some());
        is_known.then(|| self.line())
    }

    fn line(&self) -> Line {
        if self.is_piece {
            return Line::Piece;
        }
        if !self.is_last && self.input.is_none() && self.output.is_none() {
            return Line::Other;
        }
        Line::Last(Usage { input: self.input.unwrap_or(Some(0)), output: self.output.unwrap_or(Some(0)) })
    }
}

/// What an event's data says, or a whole answer in one of the dialects that write `usage`; `text` may have lost its
/// beginning.
///
/// It stands in the object itself (OpenAI's chunks, Anthropic's `message_delta`), in its `response` (OpenAI's
/// `response.completed`) or in its `message` (Anthropic's `message_start`, which can't know the output yet).
pub(super) fn of_event(text: &[u8]) -> Usage {
    for member in Members::of(text).into_iter().flatten() {
        match said_by(&member) {
            Some(usage) if usage != Usage::default() || member.key == Some(b"usage") => return usage,
            Some(_) | None => {}
        }
    }
    Usage::default()
}

/// What a member says of the usage; none where it is no place for it.
fn said_by(member: &Member<'_>) -> Option<Usage> {
    match member.key {
        Some(b"usage") => Some(of_usage(member.value)),
        // A member without a key reaches beyond what was kept: in a long event that is the response.
        Some(b"response") | None => Some(within(member.value)),
        Some(b"message") => Some(Usage { output: None, ..within(member.value) }),
        Some(_) => None,
    }
}

fn within(object: &[u8]) -> Usage {
    let mut members = Members::of(object).into_iter().flatten();
    members.find(|member| member.key == Some(b"usage")).map_or_else(Usage::default, |member| of_usage(member.value))
}

fn of_usage(object: &[u8]) -> Usage {
    let (mut input, mut output) = (None, None);
    for member in Members::of(object).into_iter().flatten() {
        match member.key {
            Some(b"prompt_tokens" | b"input_tokens") if input.is_none() => input = Some(count(member.value)),
            Some(b"completion_tokens" | b"output_tokens") if output.is_none() => output = Some(count(member.value)),
            _ => {}
        }
    }
    Usage { input: input.flatten(), output: output.flatten() }
}

fn count(number: &[u8]) -> Option<u64> {
    if !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok().filter(|count| *count <= MOST_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::{Line, Usage, of_answer, of_event, of_line};

    fn usage(input: impl Into<Option<u64>>, output: impl Into<Option<u64>>) -> Usage {
        Usage { input: input.into(), output: output.into() }
    }

    #[test]
    fn ollama_counts_in_the_object_that_ends_an_answer() {
        #[track_caller]
        fn check(text: &str, expected: Line) {
            assert_eq!(of_line(text.as_bytes()), expected, "{text}");
        }
        let last = |input, output| Line::Last(usage(input, output));
        check(r#"{"model":"m","message":{"role":"assistant","content":"a"},"done":false}"#, Line::Piece);
        check(
            r#"{"model":"m","message":{"content":""},"done":true,"done_reason":"stop","total_duration":9,"prompt_eval_count":26,"eval_count":298,"eval_duration":4}"#,
            last(26, 298),
        );
        check(r#"{"done":true,"eval_count":2}"#, last(0, 2));
        check(r#"{"done":true,"done_reason":"load"}"#, last(0, 0));
        check(r#"{ "eval_count" : 2 , "done" : true }"#, last(0, 2));
        check(r#"{"eval_count":2,"prompt_eval_count":1,"done":false}"#, Line::Piece);
        check(r#"{"embeddings":[[0.1,2]],"total_duration":5,"load_duration":1,"prompt_eval_count":8}"#, last(8, 0));
        check(r#"{"embeddings":[[0.1,2]],"total_duration":5}"#, last(0, 0));
        check(r#"{"embedding":[0.1]}"#, Line::Other);
        check(r#"{"error":"out of memory"}"#, Line::Other);
        check(r#"{"status":"pulling","total":9}"#, Line::Other);
        check("[1]", Line::Other);
        check("", Line::Other);
        // The end of a line whose context was too long to keep.
        check(r#",4,5],"total_duration":9,"prompt_eval_count":3,"eval_count":4}"#, last(3, 4));
    }

    #[test]
    fn usage_is_found_wherever_a_dialect_has_it() {
        #[track_caller]
        fn check(text: &str, expected: Usage) {
            assert_eq!(of_event(text.as_bytes()), expected, "{text}");
            assert_eq!(of_answer(text.as_bytes()), expected, "{text}");
        }
        check(
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16,"completion_tokens_details":{"reasoning_tokens":3}}}"#,
            usage(7, 9),
        );
        check(r#"{"object":"list","data":[],"usage":{"prompt_tokens":7,"total_tokens":7}}"#, usage(7, None));
        check(
            r#"{"type":"response.completed","response":{"id":"r","usage":{"input_tokens":5,"output_tokens":6},"user":null,"metadata":{"usage":"x"}}}"#,
            usage(5, 6),
        );
        check(r#"xt"}],"usage":{"input_tokens":5,"output_tokens":6},"user":null,"metadata":{}}}"#, usage(5, 6));
        check(
            r#"{"type":"message_start","message":{"content":[],"usage":{"input_tokens":25,"output_tokens":1}}}"#,
            usage(25, None),
        );
        check(
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#,
            usage(None, 15),
        );
        check(
            r#"{"id":"msg","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":2,"output_tokens":3}}"#,
            usage(2, 3),
        );
        check(r#"{"usage":{"prompt_tokens":1,"completion_tokens":2},"choices":[]}"#, usage(1, 2));
        check(r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#, usage(None, None));
        check("[DONE]", usage(None, None));
    }

    #[test]
    fn what_a_model_wrote_is_never_a_count() {
        for text in [
            r#"{"choices":[{"message":{"content":"\",\"usage\":{\"prompt_tokens\":0}"}}]}"#,
            r#"{"choices":[{"message":{"tool_calls":[{"usage":{"prompt_tokens":0,"completion_tokens":0}}]}}]}"#,
            r#"{"message":{"content":"{\"done\":true,\"eval_count\":1}","tool_calls":[{"eval_count":1}]}}"#,
        ] {
            assert_eq!(of_answer(text.as_bytes()), Usage::default(), "{text}");
        }
        let text = r#"{"message":{"tool_calls":[{"function":{"arguments":{"eval_count":1,"done":false}}}]},"done":true,"eval_count":7}"#;
        assert_eq!(of_answer(text.as_bytes()), usage(0, 7));
    }

    #[test]
    fn hostile_numbers_are_no_counts() {
        for number in [
            "-1",
            "1.0",
            "1e3",
            "\"7\"",
            "null",
            "[7]",
            "{}",
            "4294967296",
            "18446744073709551616",
            "+1",
            "0x1",
            "",
            "NaN",
            "99999999999999999999999999999999999999999999",
        ] {
            let text = format!(r#"{{"usage":{{"prompt_tokens":{number},"completion_tokens":3}}}}"#);
            assert_eq!(of_event(text.as_bytes()).input, None, "{text}");
            let text = format!(r#"{{"done":true,"eval_count":{number}}}"#);
            assert_eq!(of_answer(text.as_bytes()).output, None, "{text}");
        }
        assert_eq!(of_event(br#"{"usage":{"prompt_tokens":4294967295}}"#), usage(4_294_967_295, None));
    }
}
