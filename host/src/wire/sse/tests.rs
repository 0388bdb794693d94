//! Events of streams as the standard has them, and of any cut of them.

use std::borrow::Cow;

use proptest::prelude::{Strategy, any, prop, prop_assert_eq, proptest};

use super::Splitter;

type Told = (String, String, bool);

fn events(pieces: &[&[u8]], most: usize) -> Vec<Told> {
    let (mut splitter, mut told) = (Splitter::new(most), Vec::new());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for piece in pieces {
        splitter.feed(piece, |event| told.push((text(event.name), text(&event.data), event.is_cut)));
    }
    told
}

/// The stream, whole and in pieces of one byte, has these events.
#[track_caller]
fn check(stream: &str, expected: &[(&str, &str)]) {
    let expected: Vec<Told> = expected.iter().map(|(name, data)| (name.to_string(), data.to_string(), false)).collect();
    assert_eq!(events(&[stream.as_bytes()], 1000), expected, "{stream:?}");
    let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
    assert_eq!(events(&bytes, 1000), expected, "{stream:?} byte by byte");
}

#[test]
fn an_event_ends_with_a_blank_line_of_any_kind() {
    for end in ["\n\n", "\r\r", "\r\n\r\n", "\n\r", "\n\r\n", "\r\n\n", "\r\r\n"] {
        check(&format!("data: 1{end}data: 2{end}"), &[("", "1"), ("", "2")]);
    }
    check("data: 1\r\n\r\n\r\n\n\rdata: 2\r\n\r\n", &[("", "1"), ("", "2")]);
}

#[test]
fn fields_are_read_as_browsers_read_them() {
    check("event: a\ndata: 1\n\n", &[("a", "1")]);
    check("data:1\ndata: 2\ndata:  3\n\n", &[("", "1\n2\n 3")]);
    check("data\ndata\n\n", &[("", "\n")]);
    check("data:\n\n", &[("", "")]);
    check("event: a\nevent: b\ndata: 1\n\n", &[("b", "1")]);
    check("event: a\n\ndata: 1\n\n", &[("", "1")]);
    check(": comment\nid: 7\nretry: 5\ndatum: 1\n data: 2\n\n", &[]);
    check(": comment\r\n: another\r\n\r\ndata: 1\r\n\r\n", &[("", "1")]);
    check("data: {\"a\": \"b: c\"}\n\n", &[("", "{\"a\": \"b: c\"}")]);
}

#[test]
fn a_byte_order_mark_counts_at_the_very_beginning_only() {
    check("\u{feff}data: 1\n\n\u{feff}data: 2\n\n", &[("", "1")]);
    check("\u{feff}\ndata: 1\n\n", &[("", "1")]);
    check("\n\u{feff}data: 1\n\ndata: 2\n\n", &[("", "2")]);
}

#[test]
fn an_event_without_its_blank_line_is_none() {
    check("data: 1\n\ndata: 2\n", &[("", "1")]);
    check("data: 1", &[]);
}

#[test]
fn an_event_within_one_piece_is_borrowed_from_it() {
    let piece = b"data: 1\n\nevent: x\ndata: 2\n\nda";
    let (mut splitter, mut told) = (Splitter::new(100), Vec::new());
    splitter.feed(piece, |event| match event.data {
        Cow::Borrowed(data) => told.push(data.as_ptr()),
        Cow::Owned(_) => panic!("it was copied"),
    });
    assert_eq!(told, [piece[6..].as_ptr(), piece[24..].as_ptr()]);
}

#[test]
fn a_long_event_is_told_by_its_end_and_the_next_one_whole() {
    for size in [1, 2, 7, 100] {
        let stream = b"event: a\ndata: 0123456789\n\ndata: 1\n\n";
        let pieces: Vec<&[u8]> = stream.chunks(size).collect();
        let expected = [(String::new(), "56789".to_owned(), true), (String::new(), "data: 1".to_owned(), true)];
        assert_eq!(events(&pieces, 6)[..1], expected[..1], "{size}");
        let expected = [(String::new(), "a: 0123456789".to_owned(), true), (String::new(), "1".to_owned(), false)];
        assert_eq!(events(&pieces, 14), expected, "{size}");
    }
}

/// What stands in §9.2, on the whole stream at once.
fn by_the_book(stream: &[u8]) -> Vec<Told> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut told = Vec::new();
    let (mut name, mut data) = (String::new(), String::new());
    // What stands behind the last line end is no line.
    let Some((lines, _)) = text.rsplit_once('\n') else { return told };
    for line in lines.split('\n') {
        if line.is_empty() {
            if let Some(data) = data.strip_suffix('\n') {
                told.push((name.clone(), data.to_owned(), false));
            }
            name.clear();
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => data = data + value + "\n",
            _ => {}
        }
    }
    told
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let parts = ["data", "event", ":", ": ", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "x", "\u{feff}", "id", "é"];
    prop::collection::vec(prop::sample::select(parts.to_vec()), 0..40).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn the_cut_of_the_pieces_never_matters(
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        most in 1_usize..24,
    ) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(events(&pieces, most), events(&[&stream], most));
        prop_assert_eq!(events(&pieces, 1000), by_the_book(&stream));
    }
}
