//! Takes the chunk that tells the usage out of a stream whose caller did not ask for it.
//!
//! An event has to be whole before it can be told apart, so the one that is open at the end of a piece is held back: never
//! more than that one, and not if it is longer than such a chunk can be. What passes is a slice of the piece it came in,
//! save where an event was torn or taken out.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    mem,
};

use bytes::Bytes;

/// Longest beginning of an event that is held back, in bytes: such a chunk has some 500.
const MOST_HELD: usize = 8 << 10;

/// The open event of one stream.
#[derive(Default)]
pub(super) struct Sieve {
    held: Bytes,
    /// The open event is too long to be the one, or none at all; what came of it has passed, and the rest will.
    is_passing: bool,
}

/// What becomes of one piece: told block by block, in order.
#[derive(Debug, Default)]
pub(super) struct Sifting {
    /// Where the last block that is over ends in the piece.
    over: usize,
    /// What is to pass so far: this range, if nothing was taken out, and these bytes else.
    passed: Option<Vec<u8>>,
}

impl Sieve {
    /// Whether the block that ends next may be taken out.
    pub(super) fn may_take(&self, sifting: &Sifting) -> bool {
        !(self.is_passing && sifting.over == 0)
    }

    /// The next block of the piece ends here; `is_taken` says whether it is taken out.
    pub(super) fn block(&self, piece: &[u8], sifting: &mut Sifting, end: usize, is_taken: bool) {
        let (start, is_first) = (sifting.over, sifting.over == 0);
        sifting.over = end;
        if is_taken {
            // All before it stays: what was held belongs to the first block, and goes with it.
            sifting.passed.get_or_insert_with(|| self.joined(piece, if is_first { None } else { Some(start) }));
        } else if let Some(passed) = &mut sifting.passed {
            passed.extend_from_slice(piece.get(start..end).unwrap_or_default());
        }
    }

    /// What was held, and the piece up to here; nothing when the first block is taken out.
    fn joined(&self, piece: &[u8], until: Option<usize>) -> Vec<u8> {
        until.map_or_else(Vec::new, |until| [&*self.held, piece.get(..until).unwrap_or_default()].concat())
    }

    /// What of the piece, and of what was held before it, passes now.
    pub(super) fn pass(&mut self, piece: &Bytes, sifting: Sifting) -> Bytes {
        let Sifting { over, passed } = sifting;
        let open = piece.slice(over..);
        if over == 0 {
            return self.hold_more(open);
        }
        let held = mem::take(&mut self.held);
        self.is_passing = false;
        let passed = match passed {
            Some(passed) => passed.into(),
            None if held.is_empty() => piece.slice(..over),
            None => [&*held, piece.get(..over).unwrap_or_default()].concat().into(),
        };
        if open.len() <= MOST_HELD && may_be_an_event(&open) {
            self.held = open;
            return passed;
        }
        self.is_passing = true;
        if passed.is_empty() { open } else { [passed, open].concat().into() }
    }

    /// No event has ended: more of the open one has come.
    fn hold_more(&mut self, more: Bytes) -> Bytes {
        if self.is_passing {
            return more;
        }
        let length = self.held.len() + more.len();
        let held = mem::take(&mut self.held);
        let all = if held.is_empty() { more } else { [held, more].concat().into() };
        if length <= MOST_HELD && may_be_an_event(&all) {
            self.held = all;
            return Bytes::new();
        }
        self.is_passing = true;
        all
    }

    /// Whether something is held.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is held: the stream has ended, and an event that nobody ended is the caller's to judge.
    pub(super) fn rest(&mut self) -> Bytes {
        mem::take(&mut self.held)
    }
}

/// Whether this may be the beginning of an event: of the line end before it, of a comment or of one of the four fields.
fn may_be_an_event(open: &[u8]) -> bool {
    let first = open.iter().find(|byte| !matches!(byte, b'\r' | b'\n'));
    first.is_none_or(|byte| matches!(byte, b':' | b'd' | b'e' | b'i' | b'r'))
}

impl Debug for Sieve {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("Sieve").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
