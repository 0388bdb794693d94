//! Lines of JSON (`application/x-ndjson`) out of a stream that comes in pieces of any cut.
//!
//! It looks at the pieces and tells lines; it neither changes a byte nor holds one back. A line within one piece is
//! borrowed from there; of one that crosses pieces a bounded end is copied. A line over the bound is told by its end.

use memchr::memchr;

use super::tail::{End, Tail};

/// Cuts a stream into lines.
#[derive(Debug)]
pub struct Splitter {
    begun: Tail,
}

impl Splitter {
    /// A splitter that tells at most the last `most_bytes` of a line.
    pub fn new(most_bytes: usize) -> Self {
        Self { begun: Tail::new(most_bytes) }
    }

    /// Takes the next piece and tells each line that ends in it, without its line end. Empty lines are not told.
    pub fn feed(&mut self, piece: &[u8], mut tell: impl FnMut(End<'_>)) {
        let mut rest = piece;
        while let Some((line, after)) = memchr(b'\n', rest).and_then(|end| rest.split_at_checked(end)) {
            self.tell(line, &mut tell);
            rest = after.get(1..).unwrap_or_default();
        }
        self.begun.push(rest);
    }

    /// The stream has ended: tells a last line that had no line end.
    pub fn finish(&mut self, mut tell: impl FnMut(End<'_>)) {
        self.tell(&[], &mut tell);
    }

    fn tell(&mut self, rest: &[u8], tell: &mut impl FnMut(End<'_>)) {
        let End { bytes, is_cut } = self.begun.join(rest);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if !bytes.is_empty() {
            tell(End { bytes, is_cut });
        }
        self.begun.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::Splitter;

    fn lines(pieces: &[&[u8]], most: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut splitter, mut told) = (Splitter::new(most), Vec::new());
        for piece in pieces {
            splitter.feed(piece, |line| told.push((line.bytes.to_vec(), line.is_cut)));
        }
        splitter.finish(|line| told.push((line.bytes.to_vec(), line.is_cut)));
        told
    }

    #[track_caller]
    fn check(pieces: &[&str], expected: &[&str]) {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let told: Vec<String> =
            lines(&pieces, 100).into_iter().map(|(line, _)| String::from_utf8(line).unwrap()).collect();
        assert_eq!(told, expected, "{pieces:?}");
    }

    #[test]
    fn lines_are_told_without_their_ends() {
        check(&["{\"a\":1}\n{\"b\":2}\r\n"], &["{\"a\":1}", "{\"b\":2}"]);
        check(&["{\"a\"", ":1}", "\n"], &["{\"a\":1}"]);
        check(&["{}\r", "\n{}"], &["{}", "{}"]);
        check(&["\n\n\r\n", "\r", "\n"], &[]);
        check(&[], &[]);
    }

    #[test]
    fn a_line_is_told_as_soon_as_it_ends_and_from_where_it_lies() {
        let piece = b"one\ntwo\nthr";
        let (mut splitter, mut told) = (Splitter::new(100), Vec::new());
        splitter.feed(piece, |line| told.push(line.bytes.as_ptr()));
        assert_eq!(told, [piece.as_ptr(), piece[4..].as_ptr()]);
    }

    #[test]
    fn a_long_line_is_told_by_its_end_and_marked() {
        for pieces in [&[b"abcdef\ngh".as_slice()][..], &[b"abc", b"def\ng", b"h"]] {
            assert_eq!(lines(pieces, 4), [(b"cdef".to_vec(), true), (b"gh".to_vec(), false)]);
        }
    }

    proptest! {
        #[test]
        fn the_cut_of_the_pieces_never_matters(
            bytes in prop::collection::vec(prop::sample::select(b"ab{}\r\n".to_vec()), 0..60),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            most in 1_usize..20,
        ) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(&pieces, most), lines(&[&bytes], most));
            let expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| !line.is_empty()).collect();
            let told: Vec<Vec<u8>> = lines(&pieces, 100).into_iter().map(|(line, _)| line).collect();
            prop_assert_eq!(told, expected);
        }
    }
}
