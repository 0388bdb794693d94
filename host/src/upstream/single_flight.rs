//! Something that is done once for all who want it at the same time, and not again too soon.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

/// One thing to do, on demand, with at least `apart` between two starts.
#[derive(Debug)]
pub struct SingleFlight {
    clock: Clock,
    apart: Duration,
    tasks: TaskTracker,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    started: Option<Duration>,
    done: Option<watch::Receiver<bool>>,
}

impl SingleFlight {
    /// Runs in `tasks`: a caller who leaves doesn't stop what others wait for.
    pub fn new(clock: Clock, apart: Duration, tasks: TaskTracker) -> Self {
        Self { clock, apart, tasks, last: Mutex::default() }
    }

    /// Starts `work` unless it was started too recently, and waits for the run in progress, at most `patience`.
    pub async fn run<F>(&self, patience: Duration, work: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(mut done) = self.join(work) else { return };
        // An error means that the run has ended without a word: there is nothing more to wait for, as after the time.
        drop(timeout(patience, done.wait_for(|done| *done)).await);
    }

    fn join<F>(&self, work: impl FnOnce() -> F) -> Option<watch::Receiver<bool>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let now = self.clock.monotonic();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.started.is_none_or(|started| now.saturating_sub(started) >= self.apart);
        let is_running = last.done.as_ref().is_some_and(|done| !*done.borrow() && done.has_changed().is_ok());
        if is_due && !is_running {
            let (sender, receiver) = watch::channel(false);
            let work = work();
            self.tasks.spawn(async move {
                work.await;
                sender.send_replace(true);
            });
            *last = Last { started: Some(now), done: Some(receiver) };
        }
        last.done.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_at_once_wait_for_one_run_and_the_next_comes_only_after_a_while() {
        let (clock, hand) = Clock::manual(0);
        let flight = Arc::new(SingleFlight::new(clock, Duration::from_secs(5), TaskTracker::new()));
        let (runs, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let patience = Duration::from_secs(60);
        let work = || {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            move || async move {
                runs.fetch_add(1, Ordering::Relaxed);
                gate.notified().await;
            }
        };
        let waiting = TaskTracker::new();
        for _ in 0..20 {
            let (flight, work) = (Arc::clone(&flight), work());
            waiting.spawn(async move { flight.run(patience, work).await });
        }
        tokio::task::yield_now().await;
        gate.notify_one();
        waiting.close();
        waiting.wait().await;
        assert_eq!(runs.load(Ordering::Relaxed), 1);

        flight.run(patience, work()).await;
        assert_eq!(runs.load(Ordering::Relaxed), 1, "too soon");
        hand.advance(Duration::from_secs(5));
        gate.notify_one();
        flight.run(patience, work()).await;
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_caller_waits_no_longer_than_its_patience() {
        let flight = SingleFlight::new(Clock::system(), Duration::ZERO, TaskTracker::new());
        flight.run(Duration::from_millis(20), std::future::pending).await;
    }
}
