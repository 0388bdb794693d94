//! Server-sent events: any cutting of the same bytes gives the same events, and they are those of the standard's own steps,
//! done on the whole.

use super::Stream;
use crate::wire::sse::Splitter;

type Told = (Vec<u8>, Vec<u8>, bool);

/// Tries any stream; the first byte chooses its cuts.
pub fn check(input: &[u8]) {
    let Some(stream) = Stream::of(input) else { return };
    let pieces = stream.pieces();
    let expected = by_the_book(stream.bytes);
    assert_eq!(events(&pieces, usize::MAX), expected);
    assert_eq!(events(&[stream.bytes], usize::MAX), expected);
    let short = events(&pieces, stream.most);
    assert_eq!(short, events(&[stream.bytes], stream.most));
    assert!(short.iter().all(|(name, data, _)| name.len() + data.len() <= stream.most));
}

fn events(pieces: &[&[u8]], most: usize) -> Vec<Told> {
    let (mut splitter, mut told) = (Splitter::new(most), Vec::new());
    for piece in pieces {
        splitter.feed(piece, |event| told.push((event.name.to_vec(), event.data.to_vec(), event.is_cut)));
    }
    told
}

fn by_the_book(stream: &[u8]) -> Vec<Told> {
    let mut told = Vec::new();
    let (mut name, mut data) = (Vec::new(), Vec::new());
    for line in lines(stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(stream)) {
        if line.is_empty() {
            // The line feed behind the last line of data is none of it; without any there is no event.
            if data.pop().is_some() {
                told.push((name.clone(), data.clone(), false));
            }
            name.clear();
            data.clear();
            continue;
        }
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (field, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value.to_vec(),
            b"data" => {
                data.extend_from_slice(value);
                data.push(b'\n');
            }
            _ => {}
        }
    }
    told
}

/// The lines that have an end.
fn lines(stream: &[u8]) -> Vec<Vec<u8>> {
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    let mut is_after_cr = false;
    for byte in stream {
        let is_second_half = *byte == b'\n' && std::mem::take(&mut is_after_cr);
        is_after_cr = *byte == b'\r';
        match byte {
            b'\n' if is_second_half => {}
            b'\n' | b'\r' => lines.push(std::mem::take(&mut line)),
            _ => line.push(*byte),
        }
    }
    lines
}
