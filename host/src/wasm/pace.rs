//! How fast the ticks come: every millisecond while guests are asked, seldom while nobody asks any.
//!
//! Ticks never end, so a guest is cut even if it starts in the very moment in which the ticker slows down: late, once, by
//! at most one slow tick.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

/// How often running guests are looked at. A guest is cut at most one tick after its budget is spent.
const TICK: Duration = Duration::from_millis(1);
/// The same while nobody asks one: a thousand wakes a second cost two hundredths of a core.
const SLOW_TICK: Duration = Duration::from_millis(100);
/// So many ticks without a question, and they slow down.
const TICKS_TO_LINGER: u32 = 250;

/// Shared by the ticker and those who run guests.
#[derive(Debug, Default)]
pub(super) struct Pace {
    is_wanted: AtomicBool,
    is_slow: AtomicBool,
    ticker: OnceLock<Thread>,
}

impl Pace {
    /// A guest runs: ticks must come fast. Cheap when they do.
    pub(super) fn wanted(&self) {
        if self.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        self.is_wanted.store(true, Ordering::SeqCst);
        if self.is_slow.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Ends the wait for a slow tick.
    pub(super) fn wake(&self) {
        if let Some(ticker) = self.ticker.get() {
            ticker.unpark();
        }
    }

    /// The ticker's side: waits for the next tick. `idle` counts ticks without a question.
    pub(super) fn wait(&self, idle: &mut u32) {
        self.ticker.get_or_init(thread::current);
        if self.is_wanted.swap(false, Ordering::SeqCst) {
            *idle = 0;
        } else {
            *idle = idle.saturating_add(1);
        }
        if *idle < TICKS_TO_LINGER {
            thread::sleep(TICK);
            return;
        }
        self.is_slow.store(true, Ordering::SeqCst);
        if !self.is_wanted.load(Ordering::SeqCst) {
            thread::park_timeout(SLOW_TICK);
        }
        self.is_slow.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicU32};

    use super::*;

    #[test]
    fn ticks_are_seldom_while_nobody_asks_and_fast_as_soon_as_somebody_does() {
        let (pace, ticks, is_over) =
            (Arc::new(Pace::default()), Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let ticker = thread::spawn({
            let (pace, ticks, is_over) = (Arc::clone(&pace), Arc::clone(&ticks), Arc::clone(&is_over));
            move || {
                let mut idle = TICKS_TO_LINGER;
                while !is_over.load(Ordering::Relaxed) {
                    ticks.fetch_add(1, Ordering::Relaxed);
                    pace.wait(&mut idle);
                }
            }
        });
        while !pace.is_slow.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let slow = ticks.load(Ordering::Relaxed);
        assert!(slow <= 2, "{slow} ticks, and nobody has asked");
        pace.wanted();
        // A guest that goes on is looked at again and again.
        while ticks.load(Ordering::Relaxed) < slow + 50 {
            pace.wanted();
            thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
        pace.wake();
        ticker.join().unwrap();
    }
}
