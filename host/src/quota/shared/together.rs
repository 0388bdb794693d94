//! Calls of the script that are made at the same moment go out in one message: a write to the socket costs more than all
//! else that a reservation does.
//!
//! Nobody waits for others: a message leaves as soon as the thread has nothing else to do that is ready. Who no longer
//! waits for an answer when it leaves is left out.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisResult};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::script::Call;

/// What the script answers to one call.
type Answer = RedisResult<Vec<i64>>;

/// Asks over one connection.
#[derive(Clone, Debug)]
pub(super) struct Together {
    connection: MultiplexedConnection,
    waiting: Arc<Mutex<Vec<Waiting>>>,
    /// Messages that are under way.
    messages: TaskTracker,
    /// How long a message is waited for: so long that whoever asked has given up before.
    patience: Duration,
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    answer: oneshot::Sender<Answer>,
}

impl Together {
    /// Messages are tasks of this set; callers wait for an answer until `deadline`.
    pub(super) fn new(connection: MultiplexedConnection, messages: TaskTracker, deadline: Duration) -> Self {
        Self { connection, waiting: Arc::default(), messages, patience: deadline.saturating_mul(2) }
    }

    /// Runs the script by its hash, in a message with what else is asked now.
    ///
    /// # Errors
    /// What the server answers, or that the connection failed.
    pub(super) async fn ask(&self, call: Call) -> Answer {
        self.add(call).await.unwrap_or_else(|_| Err((ErrorKind::Io, "Redis didn't answer in time").into()))
    }

    fn add(&self, call: Call) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.push(Waiting { call, answer });
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            self.messages.spawn(self.clone().send());
        }
        answered
    }

    async fn send(self) {
        // All that is ready on this thread is done first, and may ask as well.
        yield_now().await;
        let mut asking = mem::take(&mut *self.waiting());
        asking.retain(|waiting| !waiting.answer.is_closed());
        if asking.is_empty() {
            return;
        }
        let (calls, answers): (Vec<_>, Vec<_>) =
            asking.into_iter().map(|Waiting { call, answer }| (call, answer)).unzip();
        match timeout(self.patience, ask_all(self.connection, calls)).await {
            Ok(Ok(answered)) => {
                for (answer, answered) in answers.into_iter().zip(answered) {
                    // An error: nobody waits for it any more.
                    drop(answer.send(answered));
                }
            }
            Ok(Err(error)) => answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
            Err(_) => {}
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the script for all of these, in one message.
///
/// # Errors
/// When the connection fails; what the server answers to each stands in the answers.
pub(super) async fn ask_all(mut connection: MultiplexedConnection, calls: Vec<Call>) -> RedisResult<Vec<Answer>> {
    let mut pipeline = redis::Pipeline::with_capacity(calls.len());
    for call in calls {
        pipeline.add_command(call.into_command());
    }
    pipeline.ignore_errors();
    pipeline.query_async(&mut connection).await
}
