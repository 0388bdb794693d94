//! How far the end of the gate has come, as connections see it: looked at on every wake, so looking must cost nothing.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{Notify, futures::Notified};

/// What connections do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// They serve.
    Serving,
    /// Their running calls are the last ones.
    Stopping,
    /// They end.
    Cut,
}

/// The stage, and the news of it.
#[derive(Debug, Default)]
pub(super) struct Ending {
    stage: AtomicU8,
    news: Notify,
}

impl Ending {
    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Stopping,
            _ => Stage::Cut,
        }
    }

    pub(super) fn stop(&self) {
        self.reach(1);
    }

    pub(super) fn cut(&self) {
        self.reach(2);
    }

    fn reach(&self, stage: u8) {
        self.stage.fetch_max(stage, Ordering::AcqRel);
        self.news.notify_waiters();
    }

    /// Comes with the next stage. It is told of what happens from when it is made, so look at the stage after that.
    pub(super) fn next(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// Comes once connections no longer serve.
    pub(super) async fn stopping(&self) {
        loop {
            let next = self.next();
            if self.stage() > Stage::Serving {
                return;
            }
            next.await;
        }
    }
}
