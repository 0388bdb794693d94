//! What is read of whole streams, of broken ones, and of any cut of them.

use bytes::Bytes;
use proptest::prelude::{any, prop, prop_assert_eq, proptest};

use super::{Counted, Framing, KEPT_BYTES, Reading, Usage};

fn read(framing: Framing, pieces: &[&[u8]], is_whole: bool) -> Counted {
    let mut reading = Reading::new(framing);
    pieces.iter().for_each(|piece| reading.see(piece));
    reading.finish(is_whole)
}

fn usage(input: impl Into<Option<u64>>, output: impl Into<Option<u64>>) -> Usage {
    Usage { input: input.into(), output: output.into() }
}

const CHAT_LINES: &str = concat!(
    "{\"message\":{\"content\":\"a\"},\"done\":false}\n",
    "{\"message\":{\"content\":\"\\\"done\\\":true\"},\"done\":false}\n",
    "{\"message\":{\"content\":\"\"},\"done\":true,\"prompt_eval_count\":5,\"eval_count\":2}\n",
);

const CHAT_EVENTS: &str = concat!(
    ": loading\n\n",
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
);

const MESSAGE_EVENTS: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"b\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":8,\"output_tokens\":3}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

const RESPONSE_EVENTS: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n",
    "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"a\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":4,\"output_tokens\":6}}}\n\n",
);

#[test]
fn a_whole_stream_tells_what_the_backend_counted() {
    #[track_caller]
    fn check(framing: Framing, stream: &str, expected: Usage, pieces: u64) {
        let expected = Counted { usage: expected, pieces, bytes: 0, is_unread: false };
        assert_eq!(read(framing, &[stream.as_bytes()], true), expected);
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(read(framing, &bytes, true), expected, "byte by byte");
    }
    check(Framing::Lines, CHAT_LINES, usage(5, 2), 2);
    check(Framing::Lines, CHAT_LINES.trim_end(), usage(5, 2), 2);
    check(Framing::Events, CHAT_EVENTS, usage(7, 2), 2);
    check(Framing::Events, MESSAGE_EVENTS, usage(8, 3), 2);
    check(Framing::Events, RESPONSE_EVENTS, usage(4, 6), 1);
}

#[test]
fn the_last_usage_counts() {
    let stream = "data: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1}}\n\n\
                  data: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
    assert_eq!(read(Framing::Events, &[stream.as_bytes()], true).usage, usage(7, 2));
}

#[test]
fn a_stream_that_breaks_off_tells_how_many_pieces_came() {
    #[track_caller]
    fn check(framing: Framing, stream: &str, until: &str, expected: Usage, pieces: u64) {
        let (seen, _) = stream.split_once(until).unwrap();
        assert_eq!(
            read(framing, &[seen.as_bytes()], false),
            Counted { usage: expected, pieces, bytes: 0, is_unread: false },
            "{until}"
        );
    }
    check(Framing::Lines, CHAT_LINES, "\"prompt_eval_count", usage(None, None), 2);
    check(Framing::Events, CHAT_EVENTS, "data: {\"choices\":[],", usage(None, None), 2);
    check(Framing::Events, MESSAGE_EVENTS, "event: message_delta", usage(9, None), 2);
    check(Framing::Events, RESPONSE_EVENTS, "event: response.completed", usage(None, None), 1);
}

#[test]
fn a_broken_last_line_is_not_read() {
    let line = b"{\"done\":true,\"eval_count\":2}";
    assert_eq!(read(Framing::Lines, &[line], false).usage, usage(None, None));
    assert_eq!(read(Framing::Lines, &[line], true).usage, usage(0, 2));
}

#[test]
fn a_long_answer_is_read_from_its_end() {
    let text = "x".repeat(100_000);
    let answer = format!("{{\"choices\":[\"{text}\"],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":4}}}}");
    for length in [None, Some(u64::try_from(answer.len()).unwrap())] {
        for size in [1, 1000, KEPT_BYTES, 200_000] {
            let pieces: Vec<&[u8]> = answer.as_bytes().chunks(size).collect();
            let counted = read(Framing::Whole(length), &pieces, true);
            assert_eq!(counted.usage, usage(3, 4), "in pieces of {size}");
            assert_eq!(counted.bytes, u64::try_from(answer.len()).unwrap());
            assert_eq!(read(Framing::Whole(length), &pieces[..pieces.len() - 1], false).usage, usage(None, None));
        }
    }
}

#[test]
fn an_answer_is_read_until_its_counts_are_known() {
    for (answer, expected) in [
        (r#"{"usage":{"prompt_tokens":1},"done":true,"prompt_eval_count":5,"eval_count":2}"#, usage(5, 2)),
        (r#"{"usage":{"prompt_tokens":1},"done":true,"eval_count":2}"#, usage(1, None)),
        (r#"{"usage":{"prompt_tokens":1},"done":false}"#, usage(1, None)),
        (r#"{"prompt_eval_count":5,"done":true,"usage":{}}"#, usage(5, 0)),
        (r#"{"prompt_eval_count":5,"eval_count":2,"done":false}"#, usage(None, None)),
    ] {
        assert_eq!(read(Framing::Whole(None), &[answer.as_bytes()], true).usage, expected, "{answer}");
    }
}

#[test]
fn the_last_line_and_the_last_event_may_be_long() {
    let numbers = "123456,".repeat(20_000);
    let line = format!(
        "{{\"done\":true,\"context\":[{numbers}1],\"total_duration\":9,\"prompt_eval_count\":3,\"eval_count\":4}}\n"
    );
    let event = format!(
        "event: response.completed\ndata: {{\"response\":{{\"output\":[{numbers}1],\"usage\":{{\"input_tokens\":3,\"output_tokens\":4}},\"user\":null}}}}\n\n"
    );
    for size in [1, 1000, 1 << 20] {
        let pieces: Vec<&[u8]> = line.as_bytes().chunks(size).collect();
        assert_eq!(read(Framing::Lines, &pieces, true).usage, usage(3, 4), "{size}");
        let pieces: Vec<&[u8]> = event.as_bytes().chunks(size).collect();
        assert_eq!(read(Framing::Events, &pieces, true).usage, usage(3, 4), "{size}");
    }
}

#[test]
fn the_content_type_says_how_an_answer_is_framed() {
    assert_eq!(Framing::of("application/x-ndjson", None), Some(Framing::Lines));
    assert_eq!(Framing::of("Text/Event-Stream; charset=utf-8", None), Some(Framing::Events));
    assert_eq!(Framing::of("application/json; charset=utf-8", Some(3)), Some(Framing::Whole(Some(3))));
    assert_eq!(Framing::of("text/html", None), None);
    assert_eq!(Framing::of("", None), None);
}

#[test]
fn a_reading_prints_nothing_of_the_answer() {
    for framing in [Framing::Whole(None), Framing::Lines, Framing::Events] {
        let mut reading = Reading::new(framing);
        reading.see(b"the caller's words");
        assert!(!format!("{reading:?}").contains("words"));
    }
}

/// What passes of a stream in these pieces, and what was counted.
fn sifted(pieces: &[&[u8]]) -> (Vec<u8>, Counted) {
    let mut reading = Reading::new(Framing::Events).hiding_usage();
    let mut passed: Vec<u8> = pieces.iter().flat_map(|piece| reading.sift(&Bytes::copy_from_slice(piece))).collect();
    passed.extend(reading.rest());
    assert!(!reading.holds_back());
    (passed, reading.finish(true))
}

#[test]
fn the_usage_that_nobody_asked_for_is_taken_out_and_nothing_else() {
    let (before, after) = CHAT_EVENTS.split_once("data: {\"choices\":[],").unwrap();
    let (_, after) = after.split_once("\n\n").unwrap();
    let expected = format!("{before}{after}");
    for ends in ["\n", "\r\n", "\r"] {
        let stream = CHAT_EVENTS.replace('\n', ends).into_bytes();
        for size in [1, 7, 100, 10_000] {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            let (passed, counted) = sifted(&pieces);
            let mut passed = String::from_utf8(passed).unwrap().replace(ends, "\n");
            // Torn between its two bytes, half of a line end may be left: a blank line more, which tells nothing.
            if ends == "\r\n" && size < 100 {
                passed = passed.replace("\n\n\n", "\n\n");
            }
            assert_eq!(passed, expected, "{ends:?} in pieces of {size}");
            assert_eq!(counted, Counted { usage: usage(7, 2), pieces: 2, bytes: 0, is_unread: false });
        }
    }
}

#[test]
fn no_more_than_the_open_event_is_held_back_and_whole_pieces_pass_uncopied() {
    let mut reading = Reading::new(Framing::Events).hiding_usage();
    let piece = Bytes::from_static(b": hi\n\ndata: {\"a\":1}\n\n");
    assert_eq!(reading.sift(&piece).as_ptr(), piece.as_ptr());
    assert!(!reading.holds_back());
    let torn = Bytes::from_static(b"data: {\"b\":1}\n\ndata: {\"c\"");
    assert_eq!(reading.sift(&torn), "data: {\"b\":1}\n\n");
    assert!(reading.holds_back());
    assert_eq!(reading.sift(&Bytes::from_static(b":1}\n")), "");
    assert_eq!(reading.sift(&Bytes::from_static(b"\nda")), "data: {\"c\":1}\n\n");
    assert_eq!(reading.rest(), "da", "what the stream's end leaves open passes as well");
}

#[test]
fn an_event_that_is_too_long_to_be_the_one_passes_as_it_comes() {
    let long =
        format!("data: {{\"choices\":[],\"x\":\"{}\",\"usage\":{{\"prompt_tokens\":7}}}}\n\n", "y".repeat(20_000));
    for size in [1000, 9000, 15_000] {
        let mut reading = Reading::new(Framing::Events).hiding_usage();
        let (mut passed, mut came) = (Vec::new(), 0);
        for piece in long.as_bytes().chunks(size) {
            came += piece.len();
            passed.extend(reading.sift(&Bytes::copy_from_slice(piece)));
            assert!(came - passed.len() <= 8 << 10, "more is held than may be");
        }
        assert_eq!(passed, long.as_bytes(), "{size}");
        assert_eq!(
            reading.sift(&Bytes::from_static(b"data: {\"choices\":[],\"usage\":{}}\n\ndata: 1\n\n")),
            "data: 1\n\n"
        );
    }
}

#[test]
fn what_is_no_event_passes_as_it_comes() {
    let mut reading = Reading::new(Framing::Events).hiding_usage();
    for piece in ["{\"mess", "age\":1}", "\n\n\n", "\n{\"a", "\":1}\n\n"] {
        assert_eq!(reading.sift(&Bytes::from_static(piece.as_bytes())), piece);
    }
}

#[test]
fn other_framings_are_not_sifted() {
    for framing in [Framing::Lines, Framing::Whole(None)] {
        let mut reading = Reading::new(framing).hiding_usage();
        assert!(!reading.is_sifting());
        let piece = Bytes::from_static(b"data: {\"choices\":[],\"usage\":{}}\n\n");
        assert_eq!(reading.sift(&piece).as_ptr(), piece.as_ptr());
    }
}

proptest! {
    #[test]
    fn any_cut_of_a_sifted_stream_passes_the_same(
        parts in prop::collection::vec(0_usize..9, 0..30),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let blocks: Vec<&str> = CHAT_EVENTS.split_inclusive("\n\n").chain([": c\n\n", "\n"]).collect();
        let stream: Vec<u8> = parts.iter().filter_map(|at| blocks.get(*at)).flat_map(|block| block.bytes()).collect();
        let kept = parts.iter().filter_map(|at| blocks.get(*at)).filter(|block| !block.contains("\"usage\":{"));
        let expected: Vec<u8> = kept.flat_map(|block| block.bytes()).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        let (passed, counted) = sifted(&pieces);
        prop_assert_eq!(passed, expected);
        prop_assert_eq!(counted, read(Framing::Events, &[&stream], true));
    }

    #[test]
    fn any_cut_of_any_stream_counts_the_same(
        parts in prop::collection::vec((0_usize..4, any::<prop::sample::Index>(), 0_usize..80), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        // Slices of real streams one after the other: mostly whole lines and events, now and then torn ones.
        let sources = [CHAT_LINES, CHAT_EVENTS, MESSAGE_EVENTS, RESPONSE_EVENTS];
        let stream: Vec<u8> = parts.iter().flat_map(|(source, from, length)| {
            let lines: Vec<&str> = sources[*source].split_inclusive('\n').collect();
            let line = lines[from.index(lines.len())].as_bytes();
            line[line.len().saturating_sub(*length)..].iter().copied()
        }).collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        let length = Some(u64::try_from(stream.len()).unwrap());
        for framing in [Framing::Whole(None), Framing::Whole(length), Framing::Lines, Framing::Events] {
            prop_assert_eq!(read(framing, &pieces, true), read(framing, &[&stream], true));
        }
    }
}
