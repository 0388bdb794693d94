//! Policies that want to know what calls came to are told on a thread of their own, off every stream's path.
//!
//! Between a call and that thread stands a queue with a bound: when it is full a call is not told of, and counted. The thread
//! starts with the first call that has something to tell, and ends when the data plane is gone and all that waited is told;
//! the gate's stopping waits for that. Without such a policy there is no queue, no thread and nothing kept of a call.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::policy::{Call, Chains, Exchange, Outcome};

/// An admitted call whose outcome policies want to know: the set of policies that it began with, and what is left of it.
#[derive(Debug)]
pub(super) struct Watched {
    chains: Arc<Chains>,
    exchange: Arc<Exchange>,
    call: Call,
    /// From the request to the first piece of a stream.
    pub(super) first_token_us: Option<u32>,
}

/// A call that is over.
#[derive(Debug)]
struct Over {
    watched: Box<Watched>,
    outcome: Outcome,
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Observers {
    most_waiting: NonZeroUsize,
    tasks: TaskTracker,
    /// None when the thread could not be started.
    queue: OnceLock<Option<SyncSender<Over>>>,
}

/// A call is not told of: too many wait.
#[derive(Debug)]
pub(super) struct NoPlace;

impl Watched {
    /// None where no policy of this set wants to know.
    pub(super) fn by(chains: &Arc<Chains>, exchange: &Exchange, call: &Call) -> Option<Box<Self>> {
        chains.settles().then(|| {
            let (chains, exchange) = (Arc::clone(chains), Arc::new(exchange.after()));
            Box::new(Self { chains, exchange, call: call.clone(), first_token_us: None })
        })
    }
}

impl Observers {
    /// With a queue of this length; the thread counts as one of these tasks.
    pub(super) fn new(most_waiting: NonZeroUsize, tasks: TaskTracker) -> Self {
        Self { most_waiting, tasks, queue: OnceLock::new() }
    }

    /// Has the policies told what the call came to.
    pub(super) fn tell(&self, watched: Box<Watched>, outcome: Outcome) -> Result<(), NoPlace> {
        let queue = self.queue.get_or_init(|| start(self.most_waiting, self.tasks.token()));
        let sent = queue.as_ref().ok_or(NoPlace)?.try_send(Over { watched, outcome });
        sent.map_err(|_| NoPlace)
    }
}

fn start(most_waiting: NonZeroUsize, token: TaskTrackerToken) -> Option<SyncSender<Over>> {
    let (sender, receiver) = sync_channel(most_waiting.get());
    let thread = thread::Builder::new().name("policy-settle".to_owned());
    match thread.spawn(move || run(&receiver, token)) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::error!(%error, "no thread for the policies that settle: they are told of no call");
            None
        }
    }
}

fn run(over: &Receiver<Over>, token: TaskTrackerToken) {
    for Over { watched, outcome } in over {
        for fault in watched.chains.settle(&watched.exchange, &watched.call, &outcome) {
            let request_id = watched.exchange.request_id();
            tracing::warn!(request_id, %fault, "a policy failed to take what a call came to");
        }
    }
    drop(token);
}
