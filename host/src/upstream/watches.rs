//! Timers for the first byte of an answer, used again and again.
//!
//! Each call needs one, and hardly any fires. A timer that is set anew takes two turns in the runtime's wheel, under its lock; one
//! that is there already takes neither, unless it has fired or is put forward.
//!
//! A timer belongs to the runtime in which it was made: all calls of one client run in one.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Most timers that wait for a call.
const KEPT: usize = 512;

/// The timers that wait, the one used last on top.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<Vec<Pin<Box<Sleep>>>>);

impl Watches {
    /// A timer that fires so long from now.
    #[expect(
        clippy::disallowed_methods,
        reason = "a timer of the runtime can be put off by the runtime's own clock alone"
    )]
    pub(super) fn set(&self, after: Duration) -> Pin<Box<Sleep>> {
        let at = Instant::now() + after;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match known {
            Some(mut timer) => {
                timer.as_mut().reset(at);
                timer
            }
            None => Box::pin(sleep_until(at)),
        }
    }

    /// Nobody waits for it any more: it may serve another call. Until the next call first polls it, it may still
    /// wake whoever waited last, once.
    pub(super) fn rest(&self, timer: Pin<Box<Sleep>>) {
        let mut timers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if timers.len() < KEPT {
            timers.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::time::timeout;

    use super::*;

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(3600);
    /// In which what is to fire soon has fired on any machine.
    const GUARD: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    /// Whether it has fired; if not, it is in the wheel afterwards.
    fn has_fired(timer: &mut Pin<Box<Sleep>>) -> bool {
        timer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn a_timer_that_is_used_again_fires_when_it_was_set_to_and_not_before() {
        let watches = Watches::default();
        let mut first = watches.set(SHORT);
        assert!(!has_fired(&mut first), "it is in the wheel, for soon");
        watches.rest(first);
        let mut again = watches.set(LONG);
        assert!(watches.0.lock().unwrap().is_empty(), "it is the same");
        assert!(timeout(2 * SHORT, &mut again).await.is_err(), "it fired when it was set to before");
        watches.rest(again);
        let mut sooner = watches.set(SHORT);
        timeout(GUARD, &mut sooner).await.expect("it fires when it was put forward");
        watches.rest(sooner);
        let mut after = watches.set(LONG);
        assert!(!has_fired(&mut after), "that it has fired once is forgotten");
        watches.rest(after);
        timeout(GUARD, watches.set(SHORT)).await.expect("one that has fired serves on");
    }

    #[tokio::test]
    async fn as_many_wait_as_are_kept() {
        let watches = Watches::default();
        let timers: Vec<_> = (0..=KEPT).map(|_| watches.set(Duration::from_secs(1))).collect();
        timers.into_iter().for_each(|timer| watches.rest(timer));
        assert_eq!(watches.0.lock().unwrap().len(), KEPT);
    }
}
