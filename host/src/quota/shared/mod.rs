//! The same limits across several gates: counters kept in Redis, reserved by one script call.
//!
//! [`SharedQuota::reserve`] waits at most for the configured deadline and never for a connection; what comes after an
//! answer (settling, cancelling, renewing) is sent by the [`Keeper`]'s task. When Redis can't be asked,
//! [`SharedQuota::fall_back`] says what to do instead, and [`LocalSpending`] remembers what was spent, so that Redis hears
//! of it.
//!
//! The only module that names the `redis` crate. It never shows a partition or a password, and no state of Redis
//! becomes more than [`Unavailable`].

mod address;
mod breaker;
mod counter;
mod delivery;
mod ledger;
mod link;
mod reservation;
mod script;
mod share;
mod standing;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use smallvec::SmallVec;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

pub use address::{Address, AddressError};
pub use breaker::Tolerance;
pub use link::Condition;
pub use reservation::SharedReservation;
pub use share::{Fallback, Mode, WhyClosed, fall_back, share};

use super::{Charge, Outcome, Refused, Tokens};
use crate::clock::Clock;
use crate::policy::Rule;
use counter::Counter;
use delivery::{Booking, Delivered, Delivery, Ending, Running};
use ledger::Ledger;
use link::{Link, Pace};
use reservation::Pending;
use script::{Answer, Limits, Terms};

/// How the limits are shared.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// Where Redis is.
    pub address: Address,
    /// The hash tag of all keys: gates with the same tag share limits. Letters, digits, `-`, `_` and `.`, at most 64.
    pub tag: String,
    /// What is done while Redis can't be asked.
    pub mode: Mode,
    /// Among how many gates limits are shared meanwhile; none: as many as were there when last counted.
    pub replicas: Option<NonZeroU32>,
    /// How long a reservation may take, all of it.
    pub deadline: Duration,
    /// How often this gate says that it is there, and so finds out that Redis isn't.
    pub beat_every: Duration,
    /// How many failures are too many.
    pub tolerance: Tolerance,
    /// How long a running call counts after its gate was last heard of. Renewed three times in that time.
    pub lease: Duration,
    /// How long Redis remembers a reservation that isn't settled; at least two leases.
    pub open: Duration,
    /// Most reservations that are open or wait to be settled.
    pub most_open: usize,
    /// Most counters whose local spending is remembered.
    pub most_owed: usize,
}

impl SharedSettings {
    /// The defaults, for this place.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            tag: "limits".to_owned(),
            mode: Mode::default(),
            replicas: None,
            deadline: Duration::from_millis(25),
            beat_every: Duration::from_millis(250),
            tolerance: Tolerance::default(),
            lease: Duration::from_secs(30),
            open: Duration::from_secs(3_600),
            most_open: 65_536,
            most_owed: 100_000,
        }
    }
}

/// Settings with which limits can't be shared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The tag has no characters, too many, or others.
    #[error("the tag of the keys in Redis is not [A-Za-z0-9._-]{{1,64}}: name another")]
    Tag,
    /// A time or a bound is zero, or a reservation is forgotten before its lease can be renewed.
    #[error("`{0}` is too small for shared limits: raise it")]
    TooSmall(&'static str),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes to tell this gate from others: try again")]
    NoRandomness,
}

/// Why Redis didn't answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unavailable {
    /// Not in time. If it reserved anything, that is taken back.
    #[error("Redis didn't answer in time")]
    Deadline,
    /// It isn't asked, because it failed just now; the condition says how.
    #[error("Redis isn't asked until it works again")]
    Open,
    /// Too many reservations are open or wait to be settled.
    #[error("too many reservations wait to be settled in Redis: raise their bound, or look at Redis")]
    Backlog,
    /// It answered, but nothing that helps.
    #[error("Redis can't count: {0}")]
    Error(String),
}

/// Why nothing was reserved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotReserved {
    /// A limit is used up, or the charges are a bad answer of a policy.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Redis can't be asked: see [`SharedQuota::fall_back`].
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedTotals {
    /// Reservations made.
    pub admitted: u64,
    /// Reservations refused by a limit.
    pub refused: u64,
    /// Reservations that Redis didn't answer in time.
    pub late: u64,
    /// Reservations that weren't tried, because Redis failed just before.
    pub not_asked: u64,
    /// Reservations that weren't tried, because too many wait to be settled.
    pub backlog: u64,
    /// Reservations answered by an error.
    pub failed: u64,
    /// Settlements and cancellations done in Redis.
    pub ended: u64,
    /// Of these, cancellations of reservations that weren't answered in time.
    pub cancelled: u64,
    /// Settlements and cancellations given up.
    pub lost: u64,
    /// Reservations that are open, or that Redis has yet to hear the end of.
    pub waiting: u64,
    /// Counters that were told of local spending.
    pub owed: u64,
    /// Counters that have yet to be told.
    pub owing: u64,
    /// Units spent locally that found no place to be remembered.
    pub forgotten: u64,
    /// Milliseconds without Redis.
    pub degraded_ms: u64,
}

/// Counters kept in Redis.
#[derive(Debug)]
pub struct SharedQuota {
    settings: SharedSettings,
    gate: String,
    clock: Clock,
    limits: Arc<Limits>,
    link: Arc<Link>,
    running: Arc<Running>,
    ledger: Arc<Ledger>,
    delivered: Arc<Delivered>,
    queue: mpsc::Sender<Ending>,
    next: AtomicU64,
    admitted: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    not_asked: AtomicU64,
    backlog: AtomicU64,
    failed: AtomicU64,
    forgotten: AtomicU64,
}

/// What runs beside the calls: the connection, settling, renewing and replaying.
#[derive(Debug)]
pub struct Keeper {
    delivery: Delivery,
    queue: mpsc::Receiver<Ending>,
}

impl SharedQuota {
    /// The counters, and what has to run beside them. Connects to nothing yet.
    ///
    /// # Errors
    /// [`SettingsError`] says which setting is wrong.
    pub fn new(settings: SharedSettings, clock: Clock) -> Result<(Arc<Self>, Keeper), SettingsError> {
        check(&settings)?;
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| SettingsError::NoRandomness)?;
        let gate = format!("{:016x}", u64::from_le_bytes(random));
        let limits = Arc::new(Limits::new(&settings.tag));
        let pace = Pace { deadline: settings.deadline, beat_every: settings.beat_every, tolerance: settings.tolerance };
        let address = settings.address.clone();
        let link = Arc::new(Link::new(address, gate.clone(), pace, clock.clone(), Arc::clone(&limits)));
        let (queue, endings) = mpsc::channel(settings.most_open);
        let (running, delivered) = (Arc::<Running>::default(), Arc::<Delivered>::default());
        let ledger = Arc::new(Ledger::new(settings.most_owed));
        let delivery = Delivery {
            link: Arc::clone(&link),
            limits: Arc::clone(&limits),
            running: Arc::clone(&running),
            ledger: Arc::clone(&ledger),
            delivered: Arc::clone(&delivered),
            clock: clock.clone(),
            gate: gate.clone(),
            lease: settings.lease,
            open_ms: millis(settings.open),
        };
        let quota = Self {
            settings,
            gate,
            clock,
            limits,
            link,
            running,
            ledger,
            delivered,
            queue,
            next: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
            not_asked: AtomicU64::new(0),
            backlog: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
        };
        Ok((Arc::new(quota), Keeper { delivery, queue: endings }))
    }

    /// Reserves all charges, or none. May be dropped at any await: what Redis reserved is then taken back.
    ///
    /// # Errors
    /// [`NotReserved`]; nothing is reserved then, or it is taken back once Redis hears of it.
    pub async fn reserve(&self, charges: &[Charge<'_>], expected: Tokens) -> Result<SharedReservation, NotReserved> {
        let counters = counter::counters(charges, expected)?;
        if counters.is_empty() {
            return Ok(SharedReservation::nothing());
        }
        let reserved = self.ask(charges, counters).await;
        let counted = match &reserved {
            Ok(_) => &self.admitted,
            Err(NotReserved::Refused(_)) => &self.refused,
            Err(NotReserved::Unavailable(Unavailable::Deadline)) => &self.late,
            Err(NotReserved::Unavailable(Unavailable::Open)) => &self.not_asked,
            Err(NotReserved::Unavailable(Unavailable::Backlog)) => &self.backlog,
            Err(NotReserved::Unavailable(Unavailable::Error(_))) => &self.failed,
        };
        counted.fetch_add(1, Relaxed);
        reserved
    }

    async fn ask(
        &self,
        charges: &[Charge<'_>],
        counters: SmallVec<[Counter; 4]>,
    ) -> Result<SharedReservation, NotReserved> {
        let ready = self.link.ready().ok_or(Unavailable::Open)?;
        let slot = self.queue.clone().try_reserve_owned().map_err(|_| Unavailable::Backlog)?;
        let number = self.next.fetch_add(1, Relaxed);
        let booking = Arc::new(Booking { id: format!("{}-{number:x}", self.gate), number, counters });
        let terms = Terms {
            id: &booking.id,
            lease_us: delivery::micros(self.settings.lease),
            open_ms: millis(self.settings.open),
        };
        let call = self.limits.reserve(terms, &booking.counters);
        let pending = Pending::new(slot, Arc::clone(&booking), &self.delivered.waiting);
        let numbers = match timeout(self.settings.deadline, ready.ask(&call)).await {
            Ok(Ok(numbers)) => numbers,
            Ok(Err(error)) => {
                self.link.failed(&ready, &error);
                return Err(Unavailable::Error(error.to_string()).into());
            }
            Err(_) => {
                self.link.was_slow(&ready);
                return Err(Unavailable::Deadline.into());
            }
        };
        match script::answer(&numbers, booking.counters.len()) {
            Ok(Answer::Admitted(readings)) => {
                let standings = standing::standings(charges, &booking.counters, &readings, self.clock.unix_us());
                Ok(pending.reserved(&self.running, standings))
            }
            Ok(Answer::Refused(readings)) => {
                pending.nothing();
                let unix_us = self.clock.unix_us();
                Err(standing::exceeded(charges, &booking.counters, &readings, unix_us)?.into())
            }
            Ok(Answer::Void) => Err(Unavailable::Error("the reservation was taken back before it came".into()).into()),
            Ok(Answer::Foreign(place)) => {
                pending.nothing();
                let text = format!("the key of charge {place} holds what no gate wrote: delete it, or change the tag");
                Err(Unavailable::Error(text).into())
            }
            Err(text) => Err(Unavailable::Error(text).into()),
        }
    }

    /// What to do with a call of these rules that Redis can't be asked about.
    pub fn fall_back(&self, rules: impl IntoIterator<Item = Rule>) -> Fallback {
        fall_back(self.settings.mode, self.replicas(), rules)
    }

    /// Among how many gates limits are shared: as configured, or as last counted. None: nobody knows.
    pub fn replicas(&self) -> Option<NonZeroU32> {
        self.settings.replicas.or_else(|| NonZeroU32::new(self.link.gates()?))
    }

    /// What a call spends that isn't reserved in Redis. `charges` are the policy's own, not their shares.
    ///
    /// # Errors
    /// [`Refused`] when the charges are a bad answer.
    pub fn spends_locally(
        self: &Arc<Self>,
        charges: &[Charge<'_>],
        expected: Tokens,
    ) -> Result<LocalSpending, Refused> {
        let counters = counter::counters(charges, expected)?.into_vec();
        Ok(LocalSpending { shared: Arc::clone(self), counters })
    }

    /// Whether Redis is asked now: it was there, and hasn't failed since.
    pub fn is_asked(&self) -> bool {
        self.link.ready().is_some()
    }

    /// Whether limits are shared, and a sign each time that changes.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.link.condition()
    }

    /// What has happened so far.
    pub fn totals(&self) -> SharedTotals {
        let long = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        SharedTotals {
            admitted: self.admitted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            late: self.late.load(Relaxed),
            not_asked: self.not_asked.load(Relaxed),
            backlog: self.backlog.load(Relaxed),
            failed: self.failed.load(Relaxed),
            ended: self.delivered.ended.load(Relaxed),
            cancelled: self.delivered.cancelled.load(Relaxed),
            lost: self.delivered.lost.load(Relaxed),
            waiting: self.delivered.waiting.load(Relaxed),
            owed: self.delivered.owed.load(Relaxed),
            owing: long(self.ledger.len()),
            forgotten: self.forgotten.load(Relaxed),
            degraded_ms: self.link.degraded_ms(),
        }
    }
}

/// What one call spends without Redis. Dropped, it has spent nothing.
#[derive(Debug)]
pub struct LocalSpending {
    shared: Arc<SharedQuota>,
    counters: Vec<Counter>,
}

impl LocalSpending {
    /// The call has ended: Redis is told of it as soon as it can be.
    pub fn settle(self, outcome: Outcome) {
        let now_ms = self.shared.clock.monotonic_ms();
        for counter in self.counters {
            let units = counter.settled(outcome);
            if !self.shared.ledger.add(&counter, units, now_ms) {
                self.shared.forgotten.fetch_add(units, Relaxed);
            }
        }
    }
}

impl Keeper {
    /// Keeps the connection and delivers until `stop`; then until every reservation has ended, for as long as the
    /// caller lets it. No reservation is made from `stop` on.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { delivery, queue } = self;
        tokio::select! {
            () = delivery.endings(queue, stop) => {}
            () = delivery.link.keep() => {}
            () = delivery.renewals() => {}
            () = delivery.debts() => {}
        }
        delivery.link.leave().await;
    }
}

fn check(settings: &SharedSettings) -> Result<(), SettingsError> {
    let spelled = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if settings.tag.is_empty() || settings.tag.len() > 64 || !settings.tag.bytes().all(spelled) {
        return Err(SettingsError::Tag);
    }
    for (name, large_enough) in [
        ("deadline", !settings.deadline.is_zero()),
        ("beat_every", !settings.beat_every.is_zero()),
        ("lease", settings.lease >= Duration::from_millis(100)),
        ("open", settings.open >= settings.lease * 2),
        ("most_open", settings.most_open > 0),
        ("tolerance", settings.tolerance.failures > 0),
    ] {
        if !large_enough {
            return Err(SettingsError::TooSmall(name));
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    crate::clock::saturating_ms(duration)
}
