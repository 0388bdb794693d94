//! The share of a backend's calls that failed in the last minute.

use std::sync::{Mutex, PoisonError};

const SLICES: u64 = 12;
const SLICE_MS: u64 = 5_000;

/// Ends of calls within the last minute, in slices of five seconds.
#[derive(Debug, Default)]
pub struct Recent(Mutex<[Slice; 12]>);

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    number: u64,
    ended: u32,
    failed: u32,
}

impl Recent {
    /// A call has ended.
    pub fn note(&self, failed: bool, now_ms: u64) {
        let number = now_ms / SLICE_MS;
        let mut slices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slice) = usize::try_from(number % SLICES).ok().and_then(|at| slices.get_mut(at)) else { return };
        if slice.number != number {
            *slice = Slice { number, ended: 0, failed: 0 };
        }
        slice.ended = slice.ended.saturating_add(1);
        slice.failed = slice.failed.saturating_add(u32::from(failed));
    }

    /// The failed ones, in thousandths of all; 0 when none has ended.
    pub fn errors_permille(&self, now_ms: u64) -> u16 {
        let number = now_ms / SLICE_MS;
        let slices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = slices.iter().filter(|slice| slice.number + SLICES > number);
        let (ended, failed) = standing.fold((0_u64, 0_u64), |(ended, failed), slice| {
            (ended + u64::from(slice.ended), failed + u64::from(slice.failed))
        });
        let permille = (failed * 1000).checked_div(ended).unwrap_or(0);
        u16::try_from(permille).unwrap_or(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_for_a_minute() {
        let recent = Recent::default();
        assert_eq!(recent.errors_permille(0), 0);
        for failed in [true, false, false, false] {
            recent.note(failed, 1_000);
        }
        assert_eq!(recent.errors_permille(59_999), 250);
        assert_eq!(recent.errors_permille(60_000), 0);
        recent.note(true, 120_000);
        assert_eq!(recent.errors_permille(120_000), 1000);
    }
}
