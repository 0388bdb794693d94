//! Callers who go on calling while something happens: how many were served, and how long they waited.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    failure::Failure,
    load::{Percentiles, Times},
    site::caller::{Answer, Caller},
};

/// Callers that run until they are asked what they saw.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Counted>>,
    callers: JoinSet<()>,
}

#[derive(Debug)]
struct Counted {
    times: Times,
    failed: u64,
    first_failure: Option<String>,
}

/// What they saw.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Of calls that were answered with 200.
    pub(super) times: Percentiles,
    pub(super) failed: u64,
    /// The first that wasn't, in words.
    pub(super) first_failure: Option<String>,
}

impl Load {
    /// So many callers, each of whom rests this long after a call.
    pub(super) fn start(
        callers: usize,
        rest: Duration,
        caller: &Caller,
        request: &Request<Full<Bytes>>,
    ) -> Result<Self, Failure> {
        let stop = Arc::<AtomicBool>::default();
        let seen = Arc::new(Mutex::new(Counted { times: Times::new()?, failed: 0, first_failure: None }));
        let mut running = JoinSet::new();
        for _ in 0..callers {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            let (caller, request) = (caller.clone(), request.clone());
            running.spawn(async move {
                while !stop.load(Relaxed) {
                    let answer = caller.answer(request.clone()).await;
                    seen.lock().unwrap_or_else(PoisonError::into_inner).note(answer);
                    sleep(rest).await;
                }
            });
        }
        Ok(Self { stop, seen, callers: running })
    }

    /// Lets each end the call that it is in.
    pub(super) async fn end(mut self) -> Seen {
        self.stop.store(true, Relaxed);
        while self.callers.join_next().await.is_some() {}
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Seen { times: seen.times.percentiles(), failed: seen.failed, first_failure: seen.first_failure.clone() }
    }
}

impl Counted {
    fn note(&mut self, answer: Result<Answer, Failure>) {
        match answer {
            Ok(answer) if answer.status == 200 => self.times.note(answer.took),
            Ok(answer) => self.missed(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body))),
            Err(failure) => self.missed(failure.to_string()),
        }
    }

    fn missed(&mut self, why: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(why);
    }
}
