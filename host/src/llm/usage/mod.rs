//! How many tokens a call took, read from a backend's answer while it passes.
//!
//! The answer's pieces are looked at and never kept, save a bounded end of what crosses pieces. Nothing is parsed as a
//! whole: what was counted stands at the end of a line, of an event or of an answer, and is read from there, so a piece of
//! a stream costs a fraction of a microsecond and an answer of ten megabytes no more than its end. Where a backend says
//! nothing, or the stream breaks off, the pieces that came stand for the tokens.
//!
//! A stream that was made to tell its usage, which its caller did not ask for, is sifted: what tells it is taken out, and no
//! more than one event is held back for that. Other chunks keep a `usage` that is null: all clients of OpenAI know it.

mod chunk;
mod counts;
mod members;
mod sieve;

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::{memchr, memmem::Finder};

use self::{
    counts::Line,
    sieve::{Sieve, Sifting},
};
use crate::wire::{
    ndjson,
    sse::{self, Event},
    tail::Tail,
};

/// The most bytes that are kept of a line, an event or a whole answer: the counts, and what servers write behind them
/// (OpenAI's metadata may have 9 KB).
const KEPT_BYTES: usize = 16 << 10;

/// Most events have no such key, and need not be read.
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// What a backend counted for one call, in tokens; none where it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub input: Option<u64>,
    /// Of the answer.
    pub output: Option<u64>,
}

/// What was read of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// What the backend said, as far as it did.
    pub usage: Usage,
    /// About how many tokens the pieces of a stream carry: one each, and more if they are long.
    pub pieces: u64,
    /// Bytes of an answer in one piece; 0 for a stream.
    pub bytes: u64,
    /// Whether nothing could be read: the answer is encoded, or of a type that tells no counts.
    pub is_unread: bool,
}

/// How an answer is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One JSON value, of so many bytes if that is known.
    Whole(Option<u64>),
    /// One JSON value a line: Ollama's streams.
    Lines,
    /// Server-sent events: the streams of OpenAI and Anthropic.
    Events,
}

impl Framing {
    /// The framing that a content type means; none when an answer of that type tells no counts.
    pub fn of(content_type: &str, length: Option<u64>) -> Option<Self> {
        let end = memchr(b';', content_type.as_bytes()).unwrap_or(content_type.len());
        let kind = content_type.get(..end).unwrap_or_default().trim();
        let is = |other: &str| kind.eq_ignore_ascii_case(other);
        if is("application/x-ndjson") {
            Some(Self::Lines)
        } else if is("text/event-stream") {
            Some(Self::Events)
        } else {
            is("application/json").then_some(Self::Whole(length))
        }
    }
}

/// Reads an answer as it passes.
#[derive(Debug)]
pub struct Reading {
    form: Form,
    counted: Counted,
    /// Boxed: few streams have one.
    sieve: Option<Box<Sieve>>,
}

#[derive(Debug)]
enum Form {
    Whole { tail: Tail, length: Option<u64> },
    Lines(ndjson::Splitter),
    Events(sse::Splitter),
}

impl Reading {
    /// An answer framed so, of which nothing has come.
    pub fn new(framing: Framing) -> Self {
        let form = match framing {
            Framing::Whole(length) => Form::Whole { tail: Tail::new(KEPT_BYTES), length },
            Framing::Lines => Form::Lines(ndjson::Splitter::new(KEPT_BYTES)),
            Framing::Events => Form::Events(sse::Splitter::new(KEPT_BYTES)),
        };
        Self { form, counted: Counted::default(), sieve: None }
    }

    /// The same, without the event that tells the usage and nothing else, which the caller did not ask for.
    #[must_use]
    pub fn hiding_usage(mut self) -> Self {
        self.sieve = matches!(self.form, Form::Events(_)).then(Box::default);
        self
    }

    /// Whether pieces may come out otherwise than they went in: then they go through [`sift`](Self::sift).
    pub fn is_sifting(&self) -> bool {
        self.sieve.is_some()
    }

    /// Looks at the next piece, and gives back what of it, and of what was held back before, passes now; maybe nothing.
    pub fn sift(&mut self, piece: &Bytes) -> Bytes {
        let (Some(sieve), Form::Events(events)) = (&mut self.sieve, &mut self.form) else {
            self.see(piece);
            return piece.clone();
        };
        let mut sifting = Sifting::default();
        events.feed_blocks(piece, |block| {
            let mut is_taken = false;
            if let Some(event) = &block.event {
                let has_usage = self.counted.add_event(event);
                is_taken = has_usage && sieve.may_take(&sifting) && chunk::is_for_usage_alone(&event.data);
            }
            sieve.block(piece, &mut sifting, block.end, is_taken);
        });
        sieve.pass(piece, sifting)
    }

    /// Whether something is held back.
    pub fn holds_back(&self) -> bool {
        self.sieve.as_ref().is_some_and(|sieve| sieve.holds())
    }

    /// What is held back of an answer that broke off.
    pub fn held(&mut self) -> Bytes {
        self.sieve.as_mut().map_or_else(Bytes::new, |sieve| sieve.rest())
    }

    /// What is held back of an answer that has come to its end: an event that nobody ended, unless that tells the usage alone.
    pub fn rest(&mut self) -> Bytes {
        let held = self.held();
        let Form::Events(events) = &mut self.form else { return held };
        let mut is_taken = false;
        if !held.is_empty() {
            events.feed(b"\n\n", |event| {
                is_taken = self.counted.add_event(&event) && chunk::is_for_usage_alone(&event.data);
            });
        }
        if is_taken { Bytes::new() } else { held }
    }

    /// Whether the answer comes in pieces, as it is written.
    pub fn is_of_a_stream(&self) -> bool {
        matches!(self.form, Form::Lines(_) | Form::Events(_))
    }

    /// Looks at the next piece.
    pub fn see(&mut self, piece: &[u8]) {
        let counted = &mut self.counted;
        match &mut self.form {
            Form::Whole { tail, length } => {
                counted.bytes = counted.bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                // What stands far from a known end need not be copied.
                let left = length.map_or(0, |length| length.saturating_sub(counted.bytes));
                if usize::try_from(left).is_ok_and(|left| left < KEPT_BYTES) {
                    tail.push(piece);
                }
            }
            Form::Lines(lines) => lines.feed(piece, |line| counted.add_line(line.bytes)),
            Form::Events(events) => events.feed(piece, |event| {
                counted.add_event(&event);
            }),
        }
    }

    /// All that was read. `is_whole` says that nothing is missing: half a line or half a JSON value says nothing.
    pub fn finish(mut self, is_whole: bool) -> Counted {
        let counted = &mut self.counted;
        match &mut self.form {
            Form::Whole { tail, .. } if is_whole => counted.usage = counts::of_answer(tail.join(&[]).bytes),
            Form::Lines(lines) if is_whole => lines.finish(|line| counted.add_line(line.bytes)),
            // The last event counts also where nobody ended it.
            Form::Events(events) if is_whole => events.feed(b"\n\n", |event| {
                counted.add_event(&event);
            }),
            Form::Whole { .. } | Form::Lines(_) | Form::Events(_) => {}
        }
        self.counted
    }
}

impl Counted {
    fn add_line(&mut self, line: &[u8]) {
        match counts::of_line(line) {
            Line::Piece => self.pieces = self.pieces.saturating_add(tokens_in(line)),
            Line::Last(usage) => self.usage = usage,
            Line::Other => {}
        }
    }

    /// Whether the event speaks of usage.
    fn add_event(&mut self, event: &Event<'_>) -> bool {
        if carries_a_part(event) {
            self.pieces = self.pieces.saturating_add(tokens_in(&event.data));
        }
        let has_usage = USAGE.find(&event.data).is_some();
        if has_usage {
            let new = counts::of_event(&event.data);
            self.usage = Usage { input: new.input.or(self.usage.input), output: new.output.or(self.usage.output) };
        }
        has_usage
    }
}

/// About how many tokens one piece carries: most servers send one at a time, framed by some hundred bytes, but some wait
/// until there are many.
fn tokens_in(piece: &[u8]) -> u64 {
    const FRAME_BYTES: usize = 512;
    const BYTES_PER_TOKEN: usize = 4;
    let more = piece.len().saturating_sub(FRAME_BYTES) / BYTES_PER_TOKEN;
    u64::try_from(more).unwrap_or(u64::MAX).saturating_add(1)
}

/// Whether an event has a part of the answer. OpenAI's chunks have no names; elsewhere the name says `delta`, and
/// Anthropic's `message_delta` is its end.
fn carries_a_part(event: &Event<'_>) -> bool {
    if event.name.is_empty() {
        // What is too long to be kept is no frame.
        return event.is_cut || chunk::carries_a_part(&event.data);
    }
    event.name.ends_with(b"delta") && event.name != b"message_delta"
}

#[cfg(test)]
mod tests;
