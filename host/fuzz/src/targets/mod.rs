//! The targets, by name. Each asserts what must hold for any input.

pub mod body;
pub mod model_name;
pub mod ndjson;
pub mod operation_match;
pub mod sse;
pub mod usage;

/// A target: it is given any bytes, and panics when something that must hold doesn't.
pub type Target = fn(&[u8]);

/// All targets with their names, which are those of the folders with their seeds.
pub const TARGETS: [(&str, Target); 6] = [
    ("model_name", model_name::check),
    ("operation_match", operation_match::check),
    ("body", body::check),
    ("ndjson", ndjson::check),
    ("sse", sse::check),
    ("usage", usage::check),
];

/// A stream as the targets of streams take it from their input: its bytes, and two ways to cut them.
pub(crate) struct Stream<'a> {
    pub(crate) bytes: &'a [u8],
    /// Between 1 and 32: how much of something long is kept.
    pub(crate) most: usize,
    seed: u8,
}

impl<'a> Stream<'a> {
    /// The first byte chooses the cuts, the others are the stream.
    pub(crate) fn of(input: &'a [u8]) -> Option<Self> {
        let (seed, bytes) = input.split_first()?;
        Some(Self { bytes, most: usize::from(seed % 32) + 1, seed: *seed })
    }

    /// The bytes in pieces: all as long, or each as long as chance has it, empty ones among them.
    pub(crate) fn pieces(&self) -> Vec<&'a [u8]> {
        let mut state = u32::from(self.seed);
        let mut pieces = Vec::new();
        let mut rest = self.bytes;
        while !rest.is_empty() {
            let length = if self.seed < 64 {
                usize::from(self.seed) + 1
            } else {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                usize::try_from(state >> 24).unwrap_or_default() % 17
            };
            let (piece, after) = rest.split_at(length.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}
