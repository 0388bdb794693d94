//! The load of one row: calls at a fixed rate, in turn over the gates, whatever becomes of them; and who looks at the gates
//! meanwhile.
//!
//! At each beat two keys call: one with a limit that the load passes, for what is admitted, and one that is never refused,
//! for what calls take.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::super::{
    caller::{Call, Caller},
    gates::Gates,
};
use crate::{clock::now, failure::Failure};

/// One call that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) began: Instant,
    pub(super) took: Duration,
    /// 0: there was no answer.
    pub(super) status: u16,
    /// Whether its key has a limit that the load passes.
    pub(super) is_counted: bool,
}

/// The two keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) counted: String,
    pub(super) free: String,
}

/// A load that runs.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    running: JoinSet<Vec<Seen>>,
    first_error: Arc<Mutex<Option<String>>>,
}

impl Load {
    pub(super) fn start(caller: &Caller, gates: Vec<SocketAddr>, keys: Keys, every: Duration) -> Self {
        let (stop, first_error) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Option<String>>>::default());
        let beating = Beating { caller: caller.clone(), keys, first_error: Arc::clone(&first_error) };
        let mut running = JoinSet::new();
        running.spawn(beating.run(gates, every, Arc::clone(&stop)));
        Self { stop, running, first_error }
    }

    /// Begins no more, and waits for what was begun. The second: the first error, in words.
    pub(super) async fn ends(mut self) -> Result<(Vec<Seen>, Option<String>), Failure> {
        self.stop.store(true, Relaxed);
        let ended = self.running.join_next().await.and_then(Result::ok);
        let seen = ended.ok_or_else(|| Failure::new("the load broke off"))?;
        let first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok((seen, first))
    }
}

#[derive(Clone, Debug)]
struct Beating {
    caller: Caller,
    keys: Keys,
    first_error: Arc<Mutex<Option<String>>>,
}

impl Beating {
    async fn run(self, gates: Vec<SocketAddr>, every: Duration, stop: Arc<AtomicBool>) -> Vec<Seen> {
        let mut beats = interval(every);
        beats.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut calls, mut seen) = (JoinSet::new(), Vec::new());
        for gate in gates.iter().cycle() {
            beats.tick().await;
            if stop.load(Relaxed) {
                break;
            }
            for is_counted in [true, false] {
                calls.spawn(self.clone().one(*gate, is_counted));
            }
            while let Some(ended) = calls.try_join_next() {
                seen.extend(ended);
            }
        }
        while let Some(ended) = calls.join_next().await {
            seen.extend(ended);
        }
        seen
    }

    async fn one(self, gate: SocketAddr, is_counted: bool) -> Seen {
        let began = now();
        let key = if is_counted { &self.keys.counted } else { &self.keys.free };
        let answer = self.caller.call(Call { model: "now-8", key, cap: Some(8), streams: false }, gate).await;
        let took = now().duration_since(began);
        let wrong = match &answer {
            Ok(200 | 429) => None,
            Ok(status) => Some(format!("a call was answered {status}")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(wrong) = wrong {
            self.first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(wrong);
        }
        Seen { began, took, status: answer.unwrap_or(0), is_counted }
    }
}

/// What gates said of their limits while they were looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    /// When each first said that they are not shared.
    degraded: Vec<Option<Instant>>,
    /// Since when all say that they are.
    pub(super) shared_since: Option<Instant>,
}

impl Looks {
    /// Asks all gates once.
    pub(super) async fn look(&mut self, gates: &Gates) -> Result<(), Failure> {
        let states = gates.limits().await?;
        self.degraded.resize(states.len(), None);
        for (first, state) in self.degraded.iter_mut().zip(&states) {
            if state == "degraded" {
                first.get_or_insert_with(now);
            }
        }
        if states.iter().all(|state| state == "shared") {
            self.shared_since.get_or_insert_with(now);
        } else {
            self.shared_since = None;
        }
        Ok(())
    }

    /// When the last of them said that they are not shared; none when one of them never has.
    pub(super) fn all_degraded(&self) -> Option<Instant> {
        self.degraded.iter().copied().collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}
