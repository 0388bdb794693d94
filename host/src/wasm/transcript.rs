//! What the host told a guest during one call, so that the same call can be made a second time and be told the same.
//!
//! Only answers that may be others the next time are kept: those of `state`, `catalogue` and `edits`, and the time. The rest
//! comes from the call's own exchange. What an import does besides, it does the first time alone. In memory alone, and dropped
//! with the second call.

use std::{collections::VecDeque, mem};

use wasmtime::{Error, Result};

use super::host_state::{HostState, RuleBroken};

/// Answers of one call that are kept; one that asks more is not made again.
const MOST_ANSWERS: usize = 256;
/// Bytes of keys and values in them.
const MOST_BYTES: usize = 64 << 10;

/// One answer of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Number(i64),
    Count(u32),
    Size(Option<u64>),
    Bytes(Option<Vec<u8>>),
    Text(Option<String>),
    Nothing,
}

#[derive(Clone, Debug)]
struct Entry {
    import: &'static str,
    argument: Box<[u8]>,
    told: Told,
}

/// The answers of one call, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Transcript {
    pub(super) unix_ms: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What becomes of the host's answers.
#[derive(Debug, Default)]
pub(super) enum Telling {
    /// They are given and forgotten.
    #[default]
    Live,
    /// They are kept as well.
    Kept(Transcript),
    /// There were more than are kept.
    TooMuch,
    /// They are those of an earlier call.
    Again(Transcript),
}

impl Telling {
    /// The transcript, if the call was kept whole.
    pub(super) fn take(&mut self) -> Option<Transcript> {
        match mem::take(self) {
            Self::Kept(transcript) => Some(transcript),
            Self::Live | Self::TooMuch | Self::Again(_) => None,
        }
    }
}

impl HostState {
    /// These parts of what was asked, as a second call must ask it again; nothing while nobody compares.
    pub(super) fn compared(&self, parts: &[&[u8]]) -> Vec<u8> {
        match &self.telling {
            Telling::Live | Telling::TooMuch => Vec::new(),
            // With their lengths, so that no other parts make the same.
            Telling::Kept(_) | Telling::Again(_) => {
                parts.iter().flat_map(|part| part.len().to_be_bytes().into_iter().chain(part.iter().copied())).collect()
            }
        }
    }

    /// The answer of this import: what `ask` says, or in a second call what the first was told.
    pub(super) fn told(
        &mut self,
        import: &'static str,
        argument: &[u8],
        ask: impl FnOnce(&mut Self) -> Told,
    ) -> Result<Told> {
        if let Telling::Again(transcript) = &mut self.telling {
            let next = transcript.entries.pop_front();
            let same = next.filter(|entry| entry.import == import && *entry.argument == *argument);
            return same.map(|entry| entry.told).ok_or_else(|| Error::new(RuleBroken::OtherPath));
        }
        let told = ask(self);
        if let Telling::Kept(transcript) = &mut self.telling {
            let more = match &told {
                Told::Bytes(Some(bytes)) => bytes.len(),
                Told::Text(Some(text)) => text.len(),
                _ => 0,
            };
            transcript.bytes += more + argument.len();
            if transcript.entries.len() >= MOST_ANSWERS || transcript.bytes > MOST_BYTES {
                self.telling = Telling::TooMuch;
            } else {
                let told = told.clone();
                transcript.entries.push_back(Entry { import, argument: argument.into(), told });
            }
        }
        Ok(told)
    }
}
