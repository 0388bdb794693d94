//! Counts failures, and says when they are too many in a short time.
//!
//! Pure: time comes in. It knows nothing of what fails.

/// Opens at so many failures within so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// This many open it.
    pub failures: u32,
    /// Within this time.
    pub within_ms: u64,
    /// Failures closer together than this are one: calls that wait at the same time fail by the same stall.
    pub apart_ms: u64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { failures: 5, within_ms: 1_000, apart_ms: 25 }
    }
}

/// Counts failures from the first of a stretch on.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    since_ms: u64,
    last_ms: u64,
    failures: u32,
}

impl Breaker {
    /// Counts a failure; tells whether it was one too many.
    pub(super) fn failed(&mut self, now_ms: u64, tolerance: Tolerance) -> bool {
        if self.failures == 0 || now_ms.saturating_sub(self.since_ms) > tolerance.within_ms {
            *self = Self { since_ms: now_ms, last_ms: now_ms, failures: 1 };
        } else if now_ms.saturating_sub(self.last_ms) >= tolerance.apart_ms {
            self.last_ms = now_ms;
            self.failures = self.failures.saturating_add(1);
        }
        self.failures >= tolerance.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(times: &[u64]) -> Vec<bool> {
        let tolerance = Tolerance { failures: 3, within_ms: 100, apart_ms: 10 };
        let mut breaker = Breaker::default();
        times.iter().map(|now_ms| breaker.failed(*now_ms, tolerance)).collect()
    }

    #[test]
    fn it_opens_at_its_number_within_its_time_and_not_by_failures_far_apart() {
        assert_eq!(opened(&[0, 50, 100]), [false, false, true]);
        assert_eq!(opened(&[0, 90, 180, 270]), [false; 4]);
        assert_eq!(opened(&[0, 101, 111, 121]), [false, false, false, true]);
    }

    #[test]
    fn one_stall_that_many_calls_wait_for_is_one_failure() {
        assert_eq!(opened(&[0, 0, 1, 9, 9]), [false; 5]);
        assert_eq!(opened(&[0, 9, 10, 19, 20]), [false, false, false, false, true]);
    }
}
