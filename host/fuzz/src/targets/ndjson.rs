//! Lines: any cutting of the same bytes gives the same lines, and they are those of the whole.

use super::Stream;
use crate::wire::ndjson::Splitter;

/// Tries any stream; the first byte chooses its cuts.
pub fn check(input: &[u8]) {
    let Some(stream) = Stream::of(input) else { return };
    let pieces = stream.pieces();
    let expected: Vec<(Vec<u8>, bool)> = stream
        .bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| (line.to_vec(), false))
        .collect();
    assert_eq!(lines(&pieces, usize::MAX), expected);
    assert_eq!(lines(&[stream.bytes], usize::MAX), expected);
    let short = lines(&pieces, stream.most);
    assert_eq!(short, lines(&[stream.bytes], stream.most));
    assert!(short.iter().all(|(line, _)| line.len() <= stream.most));
    // A line of which only the line end was kept is empty, and not told: hence the search.
    let mut whole = expected.iter();
    for (line, is_cut) in &short {
        let of_it = whole.find(|(whole, _)| whole.ends_with(line) && *is_cut == (whole.len() > line.len()));
        assert!(of_it.is_some(), "the end of a line is its end");
    }
}

fn lines(pieces: &[&[u8]], most: usize) -> Vec<(Vec<u8>, bool)> {
    let (mut splitter, mut told) = (Splitter::new(most), Vec::new());
    for piece in pieces {
        splitter.feed(piece, |line| told.push((line.bytes.to_vec(), line.is_cut)));
    }
    splitter.finish(|line| told.push((line.bytes.to_vec(), line.is_cut)));
    told
}
