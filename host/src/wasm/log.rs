//! What policies write: bounded lines at a bounded rate, to the gate's log.

use std::sync::{Arc, Mutex, PoisonError};

use super::tally::Tally;
use crate::clock::Clock;

/// Longest line, in bytes; what is over is cut.
const LINE_BYTES: usize = 1024;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// One policy's way into the log.
#[derive(Debug)]
pub(super) struct GuestLog {
    clock: Clock,
    lines_a_second: u32,
    tally: Arc<Tally>,
    this_second: Mutex<Second>,
    /// In place of the gate's log: for who tries a policy out.
    kept: Option<Mutex<Vec<String>>>,
}

#[derive(Debug, Default)]
struct Second {
    at: u64,
    lines: u32,
    dropped: u64,
}

impl GuestLog {
    /// A log that takes so many lines in a second; the rest is counted, and said once.
    pub(super) fn new(clock: Clock, lines_a_second: u32, tally: Arc<Tally>) -> Self {
        Self { clock, lines_a_second, tally, this_second: Mutex::default(), kept: None }
    }

    /// Keeps the lines instead of writing them; as many as one second takes, if its clock stands still.
    pub(super) fn keeping(clock: Clock, lines_a_second: u32) -> Self {
        Self { kept: Some(Mutex::default()), ..Self::new(clock, lines_a_second, Arc::default()) }
    }

    /// The lines that were kept.
    pub(super) fn kept(&self) -> Vec<String> {
        let kept = |lines: &Mutex<Vec<String>>| lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.kept.as_ref().map_or_else(Vec::new, kept)
    }

    /// Writes one line, whose credential was blanked by the caller.
    pub(super) fn write(&self, policy: &str, level: Level, text: &str) {
        let Some(dropped) = self.admit() else { return };
        if dropped > 0 {
            tracing::warn!(policy, dropped, "the policy wrote more lines than the log takes");
        }
        let text = one_line(text);
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            return;
        }
        match level {
            Level::Debug => tracing::debug!(policy, text, "policy says"),
            Level::Info => tracing::info!(policy, text, "policy says"),
            Level::Warn => tracing::warn!(policy, text, "policy says"),
            Level::Error => tracing::error!(policy, text, "policy says"),
        }
    }

    /// Whether a line may be written now, and if so how many were dropped since the last.
    fn admit(&self) -> Option<u64> {
        let at = self.clock.monotonic().as_secs();
        let mut second = self.this_second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.at != at {
            second.at = at;
            second.lines = 0;
        }
        if second.lines >= self.lines_a_second {
            second.dropped += 1;
            self.tally.log_line_dropped();
            return None;
        }
        second.lines += 1;
        Some(std::mem::take(&mut second.dropped))
    }
}

/// The text on one line, cut to size: a policy must not be able to forge a second log line.
pub(super) fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(LINE_BYTES);
    text.get(..end).unwrap_or(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_policy_writes_a_hundred_lines_a_second_and_learns_what_was_dropped() {
        let (clock, hand) = Clock::manual(0);
        let log = GuestLog::new(clock, 100, Arc::default());
        assert_eq!((0..150).filter(|_| log.admit().is_some()).count(), 100);
        hand.advance(Duration::from_secs(1));
        assert_eq!(log.admit(), Some(50));
        assert_eq!(log.admit(), Some(0));
        assert_eq!(log.tally.log_lines_dropped(), 50);
    }

    #[test]
    fn a_line_is_cut_and_cannot_forge_another() {
        assert_eq!(one_line("a\nb\r\u{1b}c"), "a b  c");
        assert_eq!(one_line(&"é".repeat(1000)).len(), LINE_BYTES);
    }
}
