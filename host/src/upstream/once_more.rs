//! Work that runs once at a time: whoever asks while it runs gets one more run after it, however many they are.
//!
//! For reading again what may have changed: a run that began before the change must not be taken for one after it.

use std::sync::atomic::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const WANTED_AGAIN: u8 = 2;

/// Whether the work runs, and whether somebody has asked since its run began.
#[derive(Debug, Default)]
pub struct OnceMore(AtomicU8);

impl OnceMore {
    /// Asks for a run. True when nobody runs it: the caller must, until [`Self::is_done`].
    #[must_use]
    pub fn begin(&self) -> bool {
        let wanted = |state| Some(if state == IDLE { RUNNING } else { WANTED_AGAIN });
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, wanted) == Ok(IDLE)
    }

    /// To be asked after each run. False when somebody asked meanwhile: it has to run again.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let next = |state| Some(if state == WANTED_AGAIN { RUNNING } else { IDLE });
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) != Ok(WANTED_AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_during_a_run_gets_one_more_and_no_second() {
        let work = OnceMore::default();
        assert!(work.begin());
        assert!(!work.begin() && !work.begin(), "it runs");
        assert!(!work.is_done(), "they want it again");
        assert!(work.is_done(), "once for both");
        assert!(work.begin(), "nobody runs it any more");
        assert!(work.is_done());
    }
}
