//! Server-sent events (`text/event-stream`, WHATWG HTML §9.2) out of a stream that comes in pieces of any cut.
//!
//! It looks at the pieces and tells events; it neither changes a byte nor holds one back. An event within one piece is
//! borrowed from there; of one that crosses pieces a bounded end is copied. An event over the bound is told by its end.
//! Nothing is checked to be UTF-8, and `id` and `retry` are for clients: they are passed over.

use std::{
    borrow::Cow,
    fmt::{Debug, Formatter, Result as FmtResult},
};

use memchr::memchr2;

use super::tail::{End, Tail};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Cuts a stream into events.
#[derive(Debug)]
pub struct Splitter {
    begun: Tail,
    is_first: bool,
    is_line_empty: bool,
    is_after_cr: bool,
}

/// All up to a blank line, that one included, as the cutting of a stream needs it.
#[derive(Debug)]
pub struct Block<'a> {
    /// What it tells; none when it has no data, like a comment that keeps a connection open.
    pub event: Option<Event<'a>>,
    /// Where it ends in the piece that was fed. It begins where the one before it ended, maybe in an earlier piece.
    pub end: usize,
}

/// One event. Printed, it shows its name only: its data is an answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// What `event` says; empty where it says nothing. Unknown, and empty, in an event that was cut before it.
    pub name: &'a [u8],
    /// The lines of `data`, with a line feed between them.
    pub data: Cow<'a, [u8]>,
    /// Whether the event was over the bound: then the data is what stood at its end.
    pub is_cut: bool,
}

impl Splitter {
    /// A splitter that tells at most the last `most_bytes` of an event, field names and line ends included.
    pub fn new(most_bytes: usize) -> Self {
        Self { begun: Tail::new(most_bytes), is_first: true, is_line_empty: true, is_after_cr: false }
    }

    /// Takes the next piece and tells each event whose blank line stands in it. As in browsers, an event without `data` is
    /// none, and neither is one that the stream's end cuts off.
    pub fn feed(&mut self, piece: &[u8], mut tell: impl FnMut(Event<'_>)) {
        self.feed_blocks(piece, |block| block.event.into_iter().for_each(&mut tell));
    }

    /// The same, telling of every blank line: all of a stream lies in one block or another, save what is open at its end.
    pub fn feed_blocks(&mut self, piece: &[u8], mut tell: impl FnMut(Block<'_>)) {
        // All before this is told; the event that is open begins here, or in `begun`.
        let mut open = piece;
        let mut at = 0;
        while let Some(rest) = open.get(at..).filter(|rest| !rest.is_empty()) {
            if std::mem::take(&mut self.is_after_cr) && rest.starts_with(b"\n") {
                // The second half of a line end. Behind a blank line it belongs to no event.
                if at == 0 && self.begun.is_empty() {
                    open = rest.get(1..).unwrap_or_default();
                } else {
                    at += 1;
                }
                continue;
            }
            let Some(length) = memchr2(b'\n', b'\r', rest) else {
                self.is_line_empty = false;
                break;
            };
            self.is_after_cr = rest.get(length) == Some(&b'\r');
            let is_blank = length == 0 && self.is_line_empty;
            self.is_line_empty = true;
            at += length;
            if is_blank {
                let (event, after) = open.split_at_checked(at).unwrap_or((open, &[]));
                let line_end = if after.starts_with(b"\r\n") { 2 } else { 1 };
                self.tell(event, |event| tell(Block { event, end: piece.len() - after.len() + line_end }));
                open = after.get(1..).unwrap_or_default();
                at = 0;
            } else {
                at += 1;
            }
        }
        self.begun.push(open);
    }

    fn tell(&mut self, rest: &[u8], tell: impl FnOnce(Option<Event<'_>>)) {
        let End { mut bytes, is_cut } = self.begun.join(rest);
        if std::mem::take(&mut self.is_first) && !is_cut {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        tell(read(bytes, is_cut));
        self.begun.clear();
    }
}

/// The fields of an event; none when it has no data.
fn read(mut bytes: &[u8], is_cut: bool) -> Option<Event<'_>> {
    let mut name: &[u8] = &[];
    let mut data: Option<Cow<'_, [u8]>> = None;
    // The field of a line that lost its beginning is unknown; of what is long, it is the data.
    let mut is_torn = is_cut;
    while !bytes.is_empty() {
        let end = memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
        let (line, after) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
        bytes = after.strip_prefix(b"\r\n").or_else(|| after.get(1..)).unwrap_or_default();
        let (field, value) = if std::mem::take(&mut is_torn) { (b"data".as_slice(), line) } else { field_of(line) };
        match field {
            b"event" => name = value,
            b"data" => match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(lines) => {
                    let lines = lines.to_mut();
                    lines.push(b'\n');
                    lines.extend_from_slice(value);
                }
            },
            _ => {}
        }
    }
    data.map(|data| Event { name, data, is_cut })
}

/// Name and value of a line's field. A comment has the empty name; a line without a colon is a name without a value.
fn field_of(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let (field, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
    let value = value.get(1..).unwrap_or_default();
    (field, value.strip_prefix(b" ").unwrap_or(value))
}

impl Debug for Event<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        let name = String::from_utf8_lossy(self.name);
        formatter.debug_struct("Event").field("name", &name).field("is_cut", &self.is_cut).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
