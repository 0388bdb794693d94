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
    }
}
