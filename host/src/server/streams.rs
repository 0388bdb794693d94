//! Where the calls of HTTP/2 connections run: in the server's own task set, so that stopping waits for them.

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

/// Spawns what an HTTP/2 connection runs beside itself.
#[derive(Clone, Debug)]
pub(super) struct Streams(TaskTracker);

impl Streams {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self(tasks)
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        drop(self.0.spawn(work));
    }
}
