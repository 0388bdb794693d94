//! The end of something that comes in pieces: its last bytes, so many and no more.
//!
//! What is kept is a copy, made only of what has to wait for its rest. It never prints what it holds: that is an answer.

use std::{
    collections::VecDeque,
    fmt::{Debug, Formatter, Result as FmtResult},
};

/// Room that stays for the next one; more is given back, because many streams stand open at once.
const ROOM_KEPT: usize = 2048;

/// The last bytes of what was pushed.
pub struct Tail {
    kept: VecDeque<u8>,
    most: usize,
    length: u64,
}

/// The last bytes of something whole; all of it when it was short enough.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct End<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Whether there were more before them.
    pub is_cut: bool,
}

impl Tail {
    /// Keeps at most so many bytes.
    pub fn new(most: usize) -> Self {
        Self { kept: VecDeque::new(), most, length: 0 }
    }

    /// Takes more; of all that came, the last bytes stay.
    pub fn push(&mut self, bytes: &[u8]) {
        self.length = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let new = last(bytes, self.most);
        let surplus = (self.kept.len() + new.len()).saturating_sub(self.most);
        drop(self.kept.drain(..surplus.min(self.kept.len())));
        self.kept.extend(new);
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The end of all that was pushed with `rest` behind it. Where nothing was pushed, that is borrowed from `rest`.
    pub fn join<'a>(&'a mut self, rest: &'a [u8]) -> End<'a> {
        if self.is_empty() {
            let bytes = last(rest, self.most);
            return End { bytes, is_cut: bytes.len() < rest.len() };
        }
        self.push(rest);
        let is_cut = usize::try_from(self.length).map_or(true, |length| length > self.most);
        End { bytes: self.kept.make_contiguous(), is_cut }
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.length = 0;
        self.kept.clear();
        if self.kept.capacity() > ROOM_KEPT {
            self.kept = VecDeque::new();
        }
    }
}

fn last(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(most)..).unwrap_or(bytes)
}

impl Debug for Tail {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("Tail").field("most", &self.most).field("length", &self.length).finish_non_exhaustive()
    }
}

impl Debug for End<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        let length = self.bytes.len();
        formatter.debug_struct("End").field("length", &length).field("is_cut", &self.is_cut).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], rest: &str, expected: &str, is_cut: bool) {
        let mut tail = Tail::new(4);
        pieces.iter().for_each(|piece| tail.push(piece.as_bytes()));
        let end = tail.join(rest.as_bytes());
        assert_eq!((end.bytes, end.is_cut), (expected.as_bytes(), is_cut), "{pieces:?} and {rest:?}");
    }

    #[test]
    fn the_last_bytes_stay_however_they_came() {
        check(&[], "abcd", "abcd", false);
        check(&[], "abcde", "bcde", true);
        check(&["ab"], "cd", "abcd", false);
        check(&["ab", "c"], "de", "bcde", true);
        check(&["abcdefgh"], "", "efgh", true);
        check(&["abcdefgh", "i"], "j", "ghij", true);
        check(&["a"], "bcdefgh", "efgh", true);
        check(&["", ""], "", "", false);
    }

    #[test]
    fn what_lies_in_one_piece_is_not_copied() {
        let piece = b"abcdef";
        assert_eq!(Tail::new(4).join(piece).bytes.as_ptr(), piece[2..].as_ptr());
    }

    #[test]
    fn what_was_forgotten_is_gone_and_so_is_its_room() {
        let mut tail = Tail::new(1 << 20);
        tail.push(&[b'x'; 1 << 20]);
        tail.clear();
        assert!(tail.is_empty() && tail.kept.capacity() <= ROOM_KEPT);
        assert_eq!(tail.join(b"y").bytes, b"y");
    }

    #[test]
    fn it_prints_no_content() {
        let mut tail = Tail::new(64);
        tail.push(b"the caller's words");
        assert!(!format!("{tail:?}").contains("words"));
        assert!(!format!("{:?}", tail.join(b"!")).contains("words"));
    }
}
