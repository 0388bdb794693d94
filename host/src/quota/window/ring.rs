//! The counts of a window's slices.
//!
//! Narrow as long as each slice holds less than four billion units, which is always in practice: half the memory. A window
//! that is asked for more becomes wide, and stays so until it is dropped.

/// How many slices can count at one moment.
const SLOTS: usize = 61;
/// The same number, in the type of a slice's index.
const SLOTS_IN_RING: u64 = 61;

/// Units by slice, at the slice's index modulo 61; zero where no slice stands.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and lies within its window")]
pub(super) enum Ring {
    Narrow([u32; SLOTS]),
    Wide(Box<[u64; SLOTS]>),
}

impl Ring {
    pub(super) fn new() -> Self {
        Self::Narrow([0; SLOTS])
    }

    pub(super) fn units(&self, slice: u64) -> u64 {
        let slot = slot(slice);
        let units = match self {
            Self::Narrow(counts) => counts.get(slot).copied().map(u64::from),
            Self::Wide(counts) => counts.get(slot).copied(),
        };
        units.expect("a slot is below the ring's size")
    }

    pub(super) fn set(&mut self, slice: u64, units: u64) {
        let slot = slot(slice);
        match self {
            Self::Narrow(counts) => match u32::try_from(units) {
                Ok(units) => *counts.get_mut(slot).expect("a slot is below the ring's size") = units,
                Err(_) => {
                    *self = Self::Wide(Box::new(counts.map(u64::from)));
                    self.set(slice, units);
                }
            },
            Self::Wide(counts) => *counts.get_mut(slot).expect("a slot is below the ring's size") = units,
        }
    }
}

/// Where in the ring a slice is counted. No two slices that count at one moment share a slot.
fn slot(slice: u64) -> usize {
    usize::try_from(slice % SLOTS_IN_RING).expect("a remainder of 61 fits in a usize")
}
