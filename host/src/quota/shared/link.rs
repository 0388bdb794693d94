//! The one connection to Redis, kept by one task: made, looked after, given up and made again.
//!
//! Callers see it only while all is well. Whatever fails too often, too slowly or for good takes it from them at once,
//! so that nobody waits for a dead connection; the keeper's own call, which reads the time, runs the script and
//! writes, has to succeed before they get one again. `redis::aio::ConnectionManager` would let callers wait for its
//! reconnect, and knows no Sentinels.
//!
//! Nothing here knows of charges.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::address::Address;
use super::breaker::{Breaker, Tolerance};
use super::gates::Gates;
use super::recovery::Recovery;
use super::script::{Call, Limits, Terms};
use super::together::{self, Together};
use crate::clock::Clock;

/// How long finding the server, connecting and signing in may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Pauses between attempts: the first, doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that lasts less is followed by a pause too: a server that takes calls and fails them would else be
/// connected to, and logged about, without end.
const STEADY_MS: u64 = 1_000;
/// How soon the keeper looks again after its own call failed.
const SUSPECT_PAUSE: Duration = Duration::from_millis(50);
/// How long a gate counts as there after its last call, in µs.
const PRESENT_US: u64 = 10_000_000;
/// Commands that may wait for the socket at a time.
const PIPELINE: usize = 1024;

/// Whether limits are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There was no connection yet.
    Starting,
    /// They are.
    Sound,
    /// They are not: Redis can't be asked.
    Degraded {
        /// Since when, on the monotonic clock.
        since_ms: u64,
        /// Why it began.
        cause: Arc<str>,
    },
}

/// A connection that worked when last tried.
#[derive(Debug)]
pub(super) struct Ready {
    connection: MultiplexedConnection,
    together: Together,
    /// Of the counters that Redis holds.
    generation: u64,
}

impl Ready {
    fn new(connection: MultiplexedConnection, messages: TaskTracker, deadline: Duration) -> Self {
        let together = Together::new(connection.clone(), messages, deadline);
        Self { connection, together, generation: 0 }
    }

    /// A handle of its own on the connection.
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// Of the counters that calls are reserved against.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Runs the script, in full where the server has forgotten it.
    pub(super) async fn ask(&self, call: &Call) -> RedisResult<Vec<i64>> {
        let mut connection = self.connection();
        match call.by_hash().query_async(&mut connection).await {
            Err(error) if forgot_the_script(&error) => call.in_full().query_async(&mut connection).await,
            answer => answer,
        }
    }

    /// Runs the script in a message with what others ask at this moment; in full where the server has forgotten it.
    pub(super) async fn ask_together(&self, call: impl Fn() -> Call) -> RedisResult<Vec<i64>> {
        match self.together.ask(call()).await {
            Err(error) if forgot_the_script(&error) => call().in_full().query_async(&mut self.connection()).await,
            answer => answer,
        }
    }

    /// Runs the script for all of these, in one message.
    ///
    /// # Errors
    /// When the connection fails; what the server answers to each stands in the answers.
    pub(super) async fn ask_all(&self, calls: Vec<Call>) -> RedisResult<Vec<RedisResult<Vec<i64>>>> {
        together::ask_all(self.connection(), calls).await
    }
}

/// How the link is kept.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// How long a call may take before it counts as failed.
    pub(super) deadline: Duration,
    /// How often the keeper's own call goes out.
    pub(super) beat_every: Duration,
    /// How many failures are too many.
    pub(super) tolerance: Tolerance,
    /// Among how many gates limits are shared without Redis, as configured.
    pub(super) replicas: Option<NonZeroU32>,
}

/// The connection, and whether it can be used.
#[derive(Debug)]
pub(super) struct Link {
    address: Address,
    gate: String,
    pace: Pace,
    clock: Clock,
    limits: Arc<Limits>,
    recovery: Recovery,
    current: ArcSwapOption<Ready>,
    /// Messages that are under way.
    messages: TaskTracker,
    /// Also held while `current` and `condition` change, so that they change together.
    breaker: Mutex<Breaker>,
    left: Notify,
    condition: watch::Sender<Condition>,
    gates: Mutex<Gates>,
    /// Whether it was said that there are more gates than configured.
    told_of_more: AtomicBool,
    degraded_ms: AtomicU64,
}

impl Link {
    pub(super) fn new(
        address: Address,
        gate: String,
        pace: Pace,
        clock: Clock,
        (limits, recovery): (Arc<Limits>, Recovery),
    ) -> Self {
        Self {
            address,
            gate,
            pace,
            clock,
            limits,
            recovery,
            current: ArcSwapOption::empty(),
            messages: TaskTracker::new(),
            breaker: Mutex::default(),
            left: Notify::new(),
            condition: watch::Sender::new(Condition::Starting),
            gates: Mutex::default(),
            told_of_more: AtomicBool::new(false),
            degraded_ms: AtomicU64::new(0),
        }
    }

    /// The connection, if all is well. Never waits.
    pub(super) fn ready(&self) -> Option<Arc<Ready>> {
        self.current.load_full()
    }

    /// Waits until all is well.
    pub(super) async fn sound(&self) -> Arc<Ready> {
        let mut condition = self.condition.subscribe();
        loop {
            if let Some(ready) = self.ready() {
                return ready;
            }
            if condition.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Gates that are there, or were when last counted. None: never counted.
    pub(super) fn gates(&self) -> Option<u32> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).believed()
    }

    fn counted(&self, gates: u32) {
        let now_ms = self.clock.monotonic_ms();
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).counted(gates, now_ms);
        let is_more = self.pace.replicas.is_some_and(|replicas| gates > replicas.get());
        if is_more && !self.told_of_more.swap(true, Relaxed) {
            tracing::warn!(
                gates,
                "more gates share limits than redis.replicas says: raise it, for a gate that comes back later knows only that number"
            );
        }
    }

    /// Milliseconds without Redis so far.
    pub(super) fn degraded_ms(&self) -> u64 {
        let ended = self.degraded_ms.load(Relaxed);
        match &*self.condition.borrow() {
            Condition::Degraded { since_ms, .. } => {
                ended.saturating_add(self.clock.monotonic_ms().saturating_sub(*since_ms))
            }
            Condition::Starting | Condition::Sound => ended,
        }
    }

    pub(super) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// A call took too long.
    pub(super) fn was_slow(&self, ready: &Arc<Ready>) {
        self.count(ready, || format!("calls take longer than {} ms", self.pace.deadline.as_millis()));
    }

    /// A call failed. What the server answered counts; a broken connection and a read-only server are given up at once.
    pub(super) fn failed(&self, ready: &Arc<Ready>, error: &RedisError) {
        let answered = match error.kind() {
            ErrorKind::Server(kind) => kind != ServerErrorKind::ReadOnly,
            kind => kind == ErrorKind::Extension,
        };
        if answered {
            self.count(ready, || error.to_string());
        } else {
            self.give_up(ready, &error.to_string());
        }
    }

    fn count(&self, ready: &Arc<Ready>, cause: impl FnOnce() -> String) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let too_many = breaker.failed(self.clock.monotonic_ms(), self.pace.tolerance);
        drop(breaker);
        if too_many {
            self.give_up(ready, &cause());
        }
    }

    /// Takes this connection from the callers, unless another has taken its place.
    pub(super) fn give_up(&self, ready: &Arc<Ready>, cause: &str) {
        let breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        if self.holds(ready) {
            self.current.store(None);
            self.degrade(cause);
            self.left.notify_one();
        }
        drop(breaker);
    }

    fn holds(&self, ready: &Arc<Ready>) -> bool {
        self.current.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, ready))
    }

    /// Tells that Redis can't be asked, once until it can be.
    fn degrade(&self, cause: &str) {
        let since_ms = self.clock.monotonic_ms();
        self.condition.send_if_modified(|condition| {
            if matches!(condition, Condition::Degraded { .. }) {
                return false;
            }
            *condition = Condition::Degraded { since_ms, cause: cause.into() };
            tracing::warn!(cause, "limits are no longer shared: Redis can't be asked");
            true
        });
    }

    fn publish(&self, ready: &Arc<Ready>) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        *breaker = Breaker::default();
        self.current.store(Some(Arc::clone(ready)));
        let ended_ms = self.clock.monotonic_ms();
        let before = self.condition.send_replace(Condition::Sound);
        drop(breaker);
        if let Condition::Degraded { since_ms, .. } = before {
            self.degraded_ms.fetch_add(ended_ms.saturating_sub(since_ms), Relaxed);
        }
        tracing::info!(gates = self.gates().unwrap_or_default(), "limits are shared through Redis");
    }

    /// Keeps the connection; never ends.
    pub(super) async fn keep(&self) {
        let mut attempt = 0;
        let mut pause = FIRST_PAUSE;
        let mut warned = String::new();
        loop {
            match self.connect(attempt).await {
                Ok(ready) => {
                    let began_ms = self.clock.monotonic_ms();
                    self.publish(&ready);
                    // Beside: a server that is slow to tell of its memory keeps nobody from sharing limits.
                    tokio::join!(self.watch_over(&ready), self.warn_of_eviction(&ready, &mut warned));
                    if self.clock.monotonic_ms().saturating_sub(began_ms) >= STEADY_MS {
                        pause = Duration::ZERO;
                    }
                }
                Err(cause) => self.degrade(&cause),
            }
            sleep(pause).await;
            pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            attempt = attempt.wrapping_add(1);
        }
    }

    /// A new connection over which the keeper's own call worked.
    async fn connect(&self, attempt: usize) -> Result<Arc<Ready>, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE);
        let connecting = async {
            let server = self.address.server(attempt).await?;
            server.get_multiplexed_async_connection_with_config(&config).await
        };
        let connection = timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| format!("no connection within {} ms", CONNECT_WITHIN.as_millis()))?
            .map_err(|error| error.to_string())?;
        let mut ready = Ready::new(connection, self.messages.clone(), self.pace.deadline);
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).lost_sight();
        let found = match timeout(self.pace.deadline, self.beat(&ready)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("a first call takes longer than {} ms", self.pace.deadline.as_millis())),
        };
        ready.generation = self.recovery.generation(&ready, found).await?;
        self.recovery.renew_leases(&ready).await?;
        Ok(Arc::new(ready))
    }

    /// Redis has lost the counters that calls were reserved against over this connection.
    pub(super) fn lost(&self, ready: &Arc<Ready>) {
        self.give_up(ready, "it has lost its counters");
    }

    /// Beats until the connection is no longer the callers'.
    async fn watch_over(&self, ready: &Arc<Ready>) {
        let mut pause = self.pace.beat_every;
        while self.holds(ready) {
            tokio::select! {
                () = self.left.notified() => continue,
                () = sleep(pause) => {}
            }
            pause = SUSPECT_PAUSE;
            match timeout(self.pace.deadline, self.beat(ready)).await {
                Ok(Ok(found)) if found == ready.generation => pause = self.pace.beat_every,
                Ok(Ok(_)) => self.lost(ready),
                Ok(Err(error)) => self.failed(ready, &error),
                Err(_) => self.was_slow(ready),
            }
        }
    }

    /// Says that this gate is there, and hears how many are; answers the generation of the counters. Also brings a script
    /// back that the server forgot.
    pub(super) async fn beat(&self, ready: &Ready) -> RedisResult<u64> {
        let terms = Terms { lease_us: PRESENT_US, ..Terms::of(&self.gate) };
        let answer = ready.ask(&self.limits.beat(terms)).await?;
        match answer.as_slice() {
            [1, gates, found] => {
                self.counted(u32::try_from(*gates).unwrap_or(u32::MAX).max(1));
                Ok(u64::try_from(*found).unwrap_or_default())
            }
            _ => Err((ErrorKind::UnexpectedReturnType, "the script answered something else than expected").into()),
        }
    }

    /// Says that this gate has gone, if all is well, once no message is under way.
    pub(super) async fn leave(&self) {
        self.messages.close();
        self.messages.wait().await;
        if let Some(ready) = self.ready() {
            let mut connection = ready.connection();
            let command = self.limits.leave(&self.gate);
            let gone = timeout(self.pace.deadline, command.query_async::<i64>(&mut connection)).await;
            if !matches!(gone, Ok(Ok(_))) {
                tracing::debug!("Redis wasn't told that this gate ends; it counts for some seconds more");
            }
        }
    }

    /// Warns, once for each finding, where the server may throw counters away.
    async fn warn_of_eviction(&self, ready: &Ready, warned: &mut String) {
        let mut connection = ready.connection();
        let mut command = redis::cmd("INFO");
        command.arg("memory");
        let found = match timeout(CONNECT_WITHIN, command.query_async::<String>(&mut connection)).await {
            Ok(Ok(facts)) => eviction(&facts),
            Ok(Err(_)) | Err(_) => Some("it doesn't tell its maxmemory-policy".to_owned()),
        };
        let found = found.unwrap_or_default();
        if !found.is_empty() && *warned != found {
            tracing::warn!(
                found,
                "Redis may throw counters away, and limits then start anew: set maxmemory-policy noeviction"
            );
        }
        *warned = found;
    }
}

/// Whether this error says that the script has to be sent again.
pub(super) fn forgot_the_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// What of `INFO memory` says that keys may be evicted: a policy that does, and a bound on memory.
fn eviction(facts: &str) -> Option<String> {
    let fact = |name: &str| {
        facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    };
    let (policy, bound) = (fact("maxmemory_policy"), fact("maxmemory"));
    (policy != "noeviction" && bound != "0").then(|| format!("maxmemory {bound}, maxmemory-policy {policy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bound_and_a_policy_that_evicts_are_warned_of() {
        for (policy, bound, warned) in [
            ("noeviction", "100", false),
            ("allkeys-lru", "0", false),
            ("allkeys-lru", "100", true),
            // All our keys expire.
            ("volatile-ttl", "100", true),
        ] {
            let facts = format!("# Memory\r\nmaxmemory_human:1G\r\nmaxmemory:{bound}\r\nmaxmemory_policy:{policy}\r\n");
            assert_eq!(eviction(&facts).is_some(), warned, "{facts}");
        }
        assert!(eviction("").is_some());
    }
}
