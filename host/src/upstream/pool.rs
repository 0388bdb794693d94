//! Connections to one backend that wait for a call. They belong to the backend: when it goes, they close.
//!
//! A pool of our own, because it is on the path of every call: hyper-util's finds a connection by hashing the address, boxes
//! each exchange and takes as long for that as hyper takes to write the request (9,000 of 115,000 instructions).

use std::sync::{Arc, Mutex, PoisonError};

use hyper::client::conn::http1::SendRequest;

use super::backend::Backend;
use crate::wire::body::Outgoing;

/// Connections without a call are kept this long, in milliseconds.
const IDLE_MS: u64 = 60_000;

/// Most connections that wait; more are closed.
const KEPT: usize = 512;

/// The connections that wait, the one used last on top: it is the likeliest to be open still.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Waiting>>);

#[derive(Debug)]
struct Waiting {
    sender: SendRequest<Outgoing>,
    since_ms: u64,
}

impl Pool {
    /// A connection that can take a call now.
    pub(super) fn take(&self, now_ms: u64) -> Option<SendRequest<Outgoing>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = waiting.len();
        while at > 0 {
            at -= 1;
            let found = waiting.get(at)?;
            if found.sender.is_closed() || is_old(found, now_ms) {
                waiting.swap_remove(at);
            } else if found.sender.is_ready() {
                return Some(waiting.remove(at).sender);
            }
            // Otherwise its connection hasn't seen the end of the last answer yet: soon it will.
        }
        None
    }

    fn put(&self, sender: SendRequest<Outgoing>, now_ms: u64) {
        if sender.is_closed() {
            return;
        }
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < KEPT {
            waiting.push(Waiting { sender, since_ms: now_ms });
        }
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes connections that have waited too long.
    pub(super) fn sweep(&self, now_ms: u64) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|found| !found.sender.is_closed() && !is_old(found, now_ms));
    }
}

fn is_old(waiting: &Waiting, now_ms: u64) -> bool {
    now_ms.saturating_sub(waiting.since_ms) >= IDLE_MS
}

/// A connection in use. Given back when its answer has ended well; dropped, it closes.
#[derive(Debug)]
pub(super) struct Lease {
    backend: Arc<Backend>,
    sender: SendRequest<Outgoing>,
}

impl Lease {
    pub(super) fn new(backend: Arc<Backend>, sender: SendRequest<Outgoing>) -> Self {
        Self { backend, sender }
    }

    pub(super) fn give_back(self, now_ms: u64) {
        self.backend.pool().put(self.sender, now_ms);
        // Looked at afterwards: what is put in while the backend goes must not stay.
        if self.backend.retired().is_cancelled() {
            self.backend.pool().clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, DuplexStream, duplex},
        task::JoinSet,
    };

    use super::*;

    /// A connection that waits, and the backend's side of it.
    async fn waiting(tasks: &mut JoinSet<hyper::Result<()>>) -> (SendRequest<Outgoing>, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        tasks.spawn(connection);
        sender.ready().await.unwrap();
        (sender, theirs)
    }

    async fn is_closed(mut theirs: DuplexStream) -> bool {
        theirs.read(&mut [0]).await.unwrap() == 0
    }

    #[tokio::test]
    async fn as_many_wait_as_are_kept_and_one_more_is_closed() {
        let (pool, mut tasks) = (Pool::default(), JoinSet::new());
        let mut kept = Vec::new();
        for _ in 0..KEPT {
            let (sender, theirs) = waiting(&mut tasks).await;
            pool.put(sender, 0);
            kept.push(theirs);
        }
        let (sender, theirs) = waiting(&mut tasks).await;
        pool.put(sender, 0);
        assert!(is_closed(theirs).await);
        let taken = std::iter::from_fn(|| pool.take(0)).count();
        assert_eq!(taken, KEPT);
    }

    #[tokio::test]
    async fn the_one_that_came_last_is_taken_first_and_old_ones_are_swept() {
        let (pool, mut tasks) = (Pool::default(), JoinSet::new());
        let (old, old_end) = waiting(&mut tasks).await;
        let (young, mut young_end) = waiting(&mut tasks).await;
        pool.put(old, 0);
        pool.put(young, 1);
        pool.sweep(IDLE_MS - 1);
        assert_eq!(pool.0.lock().unwrap().len(), 2);
        pool.sweep(IDLE_MS);
        assert!(is_closed(old_end).await);
        let taken = pool.take(IDLE_MS).unwrap();
        assert!(pool.take(IDLE_MS).is_none());
        drop(taken);
        assert_eq!(young_end.read(&mut [0]).await.unwrap(), 0, "one that is taken and dropped closes");
    }

    #[tokio::test]
    async fn one_that_the_backend_closed_is_not_taken() {
        let (pool, mut tasks) = (Pool::default(), JoinSet::new());
        let (sender, theirs) = waiting(&mut tasks).await;
        pool.put(sender, 0);
        drop(theirs);
        drop(tasks.join_next().await);
        assert!(pool.take(0).is_none());
        let (sender, theirs) = waiting(&mut tasks).await;
        drop(theirs);
        drop(tasks.join_next().await);
        pool.put(sender, 0);
        assert!(pool.0.lock().unwrap().is_empty(), "nor kept");
    }
}
