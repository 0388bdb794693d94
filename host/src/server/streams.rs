//! Where the calls of HTTP/2 connections run: in the server's own task set, so that stopping waits for them.
//!
//! A caller on HTTP/2 may take nothing of one answer while its connection is alive: no deadline of the socket sees that. So
//! each call here has its own: it is reset when a piece that was handed over is not taken for too long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::sleep;

use super::Shared;
use crate::{clock::Clock, usage::bound::Bound};

tokio::task_local! {
    /// What the call that runs in this task has handed over.
    static HANDED: Arc<Handed>;
}

/// Since when a piece of an answer waits to be taken.
#[derive(Debug)]
pub(super) struct Handed {
    clock: Clock,
    /// In milliseconds of the clock, plus one; 0 while nothing waits.
    since: AtomicU64,
}

impl Handed {
    /// That of the call that runs in this task; none outside of HTTP/2.
    pub(super) fn of_this_call() -> Option<Arc<Self>> {
        HANDED.try_with(Arc::clone).ok()
    }

    /// A piece was handed over.
    pub(super) fn given(&self) {
        self.since.store(self.clock.ticked_ms() + 1, Ordering::Relaxed);
    }

    /// It was taken, for another one is asked for.
    pub(super) fn taken(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn waits_for(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.clock.ticked_ms().saturating_sub(since - 1)),
        }
    }

    /// Comes when a piece was not taken for so long, a quarter later at most.
    async fn stuck_for(&self, limit: Duration) {
        while self.waits_for() < limit {
            sleep(limit / 4).await;
        }
    }
}

/// Spawns what an HTTP/2 connection runs beside itself.
#[derive(Clone)]
pub(super) struct Streams(Arc<Shared>);

impl Streams {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let shared = Arc::clone(&self.0);
        let handed = Arc::new(Handed { clock: shared.clock.clone(), since: AtomicU64::new(0) });
        let watched = Arc::clone(&handed);
        drop(self.0.streams.spawn(HANDED.scope(handed, async move {
            tokio::select! {
                biased;
                _ = work => {}
                // Dropping the call resets its stream.
                () = watched.stuck_for(shared.bounds.stall) => shared.edges().reached(Bound::Stall),
            }
        })));
    }
}
