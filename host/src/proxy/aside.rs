//! Work on large bodies: where it may take long, it holds up no other call.
//!
//! What can be handed over goes to the threads for such work (`read`). Policies can't: they are asked in the middle of a stage,
//! with all that it borrows. There the worker hands its other calls over instead, and goes on.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Largest body that is read on the worker, in bytes: half a millisecond of work.
const ON_WORKER: usize = 256 << 10;

/// Whether work on a body of so many bytes may hold up other calls.
pub(super) fn is_short(bytes: usize) -> bool {
    bytes <= ON_WORKER
}

/// Does what looks at a body of so many bytes, or changes it: for a short one as if it stood here alone.
pub(super) fn with_body_of<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if is_short(bytes) || !has_other_workers() { work() } else { block_in_place(work) }
}

/// A runtime on one thread has nobody to hand over to.
fn has_other_workers() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{self, RecvTimeoutError},
        time::Duration,
    };

    use tokio_util::task::TaskTracker;

    use super::*;

    /// Whether another task runs while this one is at work on a body of so many bytes, for as long as `patience` says.
    async fn others_run(bytes: usize, patience: Duration) -> Result<(), RecvTimeoutError> {
        let tasks = TaskTracker::new();
        let at_work = tasks.clone().spawn(async move {
            let (done, heard) = mpsc::channel();
            tasks.spawn(async move { done.send(()) });
            with_body_of(bytes, || heard.recv_timeout(patience))
        });
        at_work.await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_are_served_while_a_policy_works_on_a_large_body() {
        let long = Duration::from_secs(60);
        assert_eq!(others_run(ON_WORKER + 1, long).await, Ok(()), "the only worker is busy with it");
        let short = Duration::from_millis(20);
        assert!(others_run(ON_WORKER, short).await.is_err(), "nothing is handed over for a short one");
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_it_itself() {
        assert_eq!(with_body_of(usize::MAX, || 7), 7);
    }
}
