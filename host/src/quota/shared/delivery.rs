//! What goes to Redis without anybody waiting: settlements, cancellations, renewals and debts, in pipelines.
//!
//! Every message can be sent again: Redis knows by its id whether it did it. While Redis can't be asked they wait in
//! the queue, whose places were taken together with the reservations, and are sent when it is back.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{ErrorKind, RedisResult, ServerErrorKind};
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::counter::{Counter, Name};
use super::ledger::{Ledger, Taken};
use super::link::{Link, Ready, forgot_the_script};
use super::script::{Call, Limits, Terms};
use crate::clock::{Clock, saturating_ms};
use crate::quota::Outcome;

/// Messages in one pipeline.
const PIPELINE: usize = 128;
/// Debts in one message.
const DEBTS: usize = 32;
/// How long a pipeline may take before its connection is given up.
const PIPELINE_WITHIN: Duration = Duration::from_millis(500);
/// Pause after a pipeline of which something is left.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a message is sent that the server answers with an error of its own.
const TRIES: u8 = 3;

/// How long Redis keeps what a call holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting {
    /// A running call, after its gate was last heard of.
    pub(super) lease: Duration,
    /// A reservation that isn't settled.
    pub(super) open: Duration,
}

impl Lasting {
    pub(super) fn terms(self, id: &str) -> Terms<'_> {
        Terms { lease_us: micros(self.lease), open_ms: saturating_ms(self.open), ..Terms::of(id) }
    }
}

/// What one call reserved.
#[derive(Debug)]
pub(super) struct Booking {
    /// Unique over all gates.
    pub(super) id: String,
    /// Unique in this gate.
    pub(super) number: u64,
    pub(super) counters: SmallVec<[Counter; 4]>,
    /// Whether its leases were renewed, and so are known to Redis whoever reserved them. Changes under the lock of
    /// [`Running`].
    pub(super) is_renewed: AtomicBool,
}

/// How a booking ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// Redis answered, and the call has ended.
    Settled(Outcome),
    /// Nobody knows whether Redis reserved it; it must not.
    Cancelled,
}

/// A booking that has ended.
#[derive(Debug)]
pub(super) struct Ending {
    booking: Arc<Booking>,
    how: How,
    tries: u8,
}

impl Ending {
    pub(super) fn new(booking: Arc<Booking>, how: How) -> Self {
        Self { booking, how, tries: 0 }
    }
}

/// The bookings of running calls, whose leases are renewed.
#[derive(Debug, Default)]
pub(super) struct Running {
    calls: Mutex<Calls>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Calls {
    bookings: HashMap<u64, Arc<Booking>>,
    /// Of these, the ones that Redis has yet to hear of.
    unheard: BTreeSet<u64>,
}

impl Running {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn began(&self, booking: &Arc<Booking>) {
        self.calls().bookings.insert(booking.number, Arc::clone(booking));
    }

    /// A call began of which Redis has not heard, and is to as soon as it can.
    pub(super) fn began_unheard(&self, booking: &Arc<Booking>) {
        let mut calls = self.calls();
        calls.bookings.insert(booking.number, Arc::clone(booking));
        calls.unheard.insert(booking.number);
        drop(calls);
        self.came.notify_one();
    }

    pub(super) fn ended(&self, booking: &Booking) {
        let mut calls = self.calls();
        calls.bookings.remove(&booking.number);
        calls.unheard.remove(&booking.number);
    }

    /// Units that running calls have reserved of this counter.
    pub(super) fn holds(&self, counter: Name) -> u64 {
        let calls = self.calls();
        let amounts = calls.bookings.values().flat_map(|booking| &booking.counters).filter(|held| held.name == counter);
        amounts.fold(0, |sum, held| sum.saturating_add(held.amount))
    }

    /// All of them, to be renewed now.
    pub(super) fn renewing(&self) -> Vec<Arc<Booking>> {
        let mut calls = self.calls();
        calls.unheard.clear();
        calls.bookings.values().inspect(|booking| booking.is_renewed.store(true, Relaxed)).cloned().collect()
    }

    /// Those of which Redis has yet to hear, to be told it now.
    fn telling(&self) -> Vec<Arc<Booking>> {
        let mut calls = self.calls();
        let unheard = std::mem::take(&mut calls.unheard);
        let bookings = unheard.iter().filter_map(|number| calls.bookings.get(number));
        bookings.inspect(|booking| booking.is_renewed.store(true, Relaxed)).cloned().collect()
    }
}

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Reservations that are open or have yet to be settled.
    pub(super) waiting: AtomicU64,
    /// Settlements and cancellations that Redis did.
    pub(super) ended: AtomicU64,
    /// Of these, cancellations.
    pub(super) cancelled: AtomicU64,
    /// Settlements and cancellations given up, because Redis answers them with an error.
    pub(super) lost: AtomicU64,
    /// Counters whose debts Redis has heard of.
    pub(super) owed: AtomicU64,
    /// Counters whose debts Redis answered with an error, so that it never heard of them.
    pub(super) untold: AtomicU64,
    /// How often a settlement made a counter pass its bound, and by how many units.
    pub(super) debts: AtomicU64,
    pub(super) debt_units: AtomicU64,
}

/// Sends what needs no answer.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) link: Arc<Link>,
    pub(super) limits: Arc<Limits>,
    pub(super) running: Arc<Running>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) delivered: Arc<Delivered>,
    pub(super) clock: Clock,
    pub(super) gate: String,
    pub(super) lasting: Lasting,
    /// Whether it was said that Redis refuses debts, until it takes them again.
    pub(super) is_untold: AtomicBool,
}

impl Delivery {
    /// Delivers what ends, until `stop`; then what is left, until every reservation has ended.
    pub(super) async fn endings(&self, mut queue: mpsc::Receiver<Ending>, stop: impl Future<Output = ()>) {
        let mut batch = Vec::new();
        let until_there_are_none = async { while self.next_endings(&mut queue, &mut batch).await {} };
        tokio::select! {
            () = stop => {}
            () = until_there_are_none => return,
        }
        queue.close();
        while self.next_endings(&mut queue, &mut batch).await {}
    }

    /// Waits for endings and sends them; false when there will be none. May be dropped at any await: what wasn't sent
    /// stays in `batch`, and what may have been sent does nothing the second time.
    async fn next_endings(&self, queue: &mut mpsc::Receiver<Ending>, batch: &mut Vec<Ending>) -> bool {
        if batch.is_empty() && queue.recv_many(batch, PIPELINE).await == 0 {
            return false;
        }
        let ready = self.link.sound().await;
        let calls: Vec<_> = batch.iter().map(|ending| self.call(ending)).collect();
        let mut answers = self.send(&ready, &calls).await.into_iter();
        batch.retain_mut(|ending| self.is_left(ending, answers.next()));
        if !batch.is_empty() {
            sleep(PAUSE).await;
        }
        true
    }

    fn call(&self, ending: &Ending) -> Call {
        let (terms, counters) = (self.lasting.terms(&ending.booking.id), &ending.booking.counters);
        match ending.how {
            How::Settled(outcome) => self.limits.settle(terms, counters, outcome),
            How::Cancelled => self.limits.cancel(terms, counters),
        }
    }

    /// Whether this ending has to be sent again.
    fn is_left(&self, ending: &mut Ending, answer: Option<RedisResult<Vec<i64>>>) -> bool {
        match answer {
            Some(Ok(answer)) => {
                if let [_, debts, units] = *answer.as_slice() {
                    self.delivered.debts.fetch_add(u64::try_from(debts).unwrap_or_default(), Relaxed);
                    self.delivered.debt_units.fetch_add(u64::try_from(units).unwrap_or_default(), Relaxed);
                }
                self.delivered.ended.fetch_add(1, Relaxed);
                self.delivered.cancelled.fetch_add(u64::from(matches!(ending.how, How::Cancelled)), Relaxed);
                self.delivered.waiting.fetch_sub(1, Relaxed);
                false
            }
            // The server's own condition passes; an error of the script at these keys doesn't.
            Some(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) => {
                ending.tries += 1;
                let again = ending.tries < TRIES;
                if !again {
                    self.delivered.lost.fetch_add(1, Relaxed);
                    self.delivered.waiting.fetch_sub(1, Relaxed);
                    tracing::warn!(%error, "a reservation couldn't be settled in Redis: it stays as reserved");
                }
                again
            }
            Some(Err(_)) | None => true,
        }
    }

    /// Sends a pipeline; the answers are none when the connection failed. Counts failures against the connection.
    async fn send(&self, ready: &Arc<Ready>, calls: &[Call]) -> Vec<RedisResult<Vec<i64>>> {
        let mut answers = self.send_once(ready, calls).await;
        if answers.iter().flat_map(|answer| answer.as_ref().err()).any(forgot_the_script) {
            // The link's own call brings the script back.
            match timeout(PIPELINE_WITHIN, self.link.beat(ready)).await {
                Ok(Ok(_)) => answers = self.send_once(ready, calls).await,
                Ok(Err(error)) => self.link.failed(ready, &error),
                Err(_) => self.link.was_slow(ready),
            }
        }
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            self.link.failed(ready, error);
        }
        answers
    }

    async fn send_once(&self, ready: &Arc<Ready>, calls: &[Call]) -> Vec<RedisResult<Vec<i64>>> {
        match timeout(PIPELINE_WITHIN, ready.ask_all(calls.to_vec())).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => {
                self.link.failed(ready, &error);
                Vec::new()
            }
            Err(_) => {
                self.link.give_up(ready, &format!("a pipeline takes longer than {} ms", PIPELINE_WITHIN.as_millis()));
                Vec::new()
            }
        }
    }

    /// Prolongs what running calls hold, three times in a lease, and tells at once of a call that was admitted without Redis;
    /// never ends.
    pub(super) async fn renewals(&self) {
        let mut pause = pin!(sleep(self.lasting.lease / 3));
        loop {
            let is_due = tokio::select! {
                () = &mut pause => true,
                () = self.running.came.notified() => false,
            };
            // Who isn't told must not count as told.
            self.link.sound().await;
            let renewed = if is_due { self.running.renewing() } else { self.running.telling() };
            self.renew(&renewed).await;
            if is_due {
                pause.set(sleep(self.lasting.lease / 3));
            }
        }
    }

    async fn renew(&self, bookings: &[Arc<Booking>]) {
        for part in bookings.chunks(PIPELINE) {
            // Whoever makes the next connection tells of all calls first.
            let Some(ready) = self.link.ready() else { break };
            let renew = |booking: &Arc<Booking>| self.limits.renew(self.lasting.terms(&booking.id), &booking.counters);
            let calls: Vec<_> = part.iter().map(renew).collect();
            self.send(&ready, &calls).await;
        }
    }

    /// Tells Redis what was spent without it, until all calls are over; then what is left of that.
    pub(super) async fn debts(&self, over: &CancellationToken) {
        let mut sent = 0_u64;
        loop {
            let is_last = over.run_until_cancelled(self.ledger.added()).await.is_none();
            while self.ledger.len() > 0 {
                // Taken only once it can be sent, so that it adds up until then.
                self.link.sound().await;
                let taken = self.ledger.take(DEBTS);
                sent = sent.wrapping_add(1);
                // No reservation has such an id: its number is all hexadecimal.
                self.tell(&format!("{}-owe-{sent:x}", self.gate), &taken).await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Tells Redis of these debts, until it has heard of them.
    async fn tell(&self, id: &str, taken: &Taken) {
        let mut tries = 0;
        while tries < TRIES {
            let ready = self.link.sound().await;
            let due = self.ledger.due(taken, self.clock.monotonic_us());
            let call = self.limits.owe(self.lasting.terms(id), due.into_iter());
            match self.send(&ready, &[call]).await.pop() {
                Some(Ok(_)) => {
                    self.delivered.owed.fetch_add(long(taken.len()), Relaxed);
                    self.is_untold.store(false, Relaxed);
                    return;
                }
                Some(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) => tries += 1,
                Some(Err(_)) | None => {}
            }
            sleep(PAUSE).await;
        }
        self.delivered.untold.fetch_add(long(taken.len()), Relaxed);
        if !self.is_untold.swap(true, Relaxed) {
            tracing::warn!(
                counters = taken.len(),
                "Redis answers what was spent without it with an error: it isn't counted there, as redis_untold says"
            );
        }
    }
}

fn long(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A duration in whole microseconds.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
