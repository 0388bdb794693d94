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
mod gates;
mod ledger;
mod link;
mod recovery;
mod reservation;
mod script;
mod settings;
mod share;
mod spending;
mod standing;
#[cfg(test)]
mod tests;
mod together;
mod unwritten;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use smallvec::SmallVec;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use address::{Address, AddressError, SentinelLogin};
pub use breaker::Tolerance;
pub use link::Condition;
pub use reservation::SharedReservation;
pub use settings::{SettingsError, SharedSettings};
pub use share::{Fallback, Mode, WhyClosed, fall_back, share};
pub use spending::LocalSpending;
pub use unwritten::Unwritten;

use super::{Charge, Refused, Standing, Tokens};
use crate::clock::Clock;
use crate::policy::Rule;
use crate::ports::budgets::WrittenBudgets;
use counter::{Counter, Kind};
use delivery::{Booking, Delivered, Delivery, Ending, Lasting, Running};
use ledger::Ledger;
use link::{Link, Pace};
use recovery::Recovery;
use reservation::Pending;
use script::{Answer, Limits, Terms};
use spending::booked;

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
    /// It has lost its counters; what is known of them is restored first.
    #[error("Redis has lost its counters, and is told what is known of them")]
    Lost,
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
    /// Counters whose local spending Redis answered with an error, so that it never heard of it.
    pub untold: u64,
    /// Counters that have yet to be told.
    pub owing: u64,
    /// Units spent locally that found no place to be remembered.
    pub forgotten: u64,
    /// Milliseconds without Redis.
    pub degraded_ms: u64,
    /// Units reserved beyond a bound: a fault, if it is ever more than 0.
    pub overshoot_units: u64,
    /// How often what a call used made a counter pass its capacity.
    pub debts: u64,
    /// By how many units they passed it.
    pub debt_units: u64,
    /// How often Redis had lost its counters.
    pub losses: u64,
    /// Budgets that it was then told again.
    pub restored: u64,
    /// Units of budgets that found no place to wait until they are written.
    pub unwritten: u64,
}

/// The way to what is written of budgets, and back.
#[derive(Debug, Default)]
pub struct Budgets {
    /// What is to be written; the same that somebody takes it from.
    pub unwritten: Arc<Unwritten>,
    /// What was written, for a Redis that has lost its counters; none: they then begin anew.
    pub written: Option<Arc<dyn WrittenBudgets>>,
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
    unwritten: Arc<Unwritten>,
    queue: mpsc::Sender<Ending>,
    next: AtomicU64,
    admitted: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    not_asked: AtomicU64,
    backlog: AtomicU64,
    failed: AtomicU64,
    forgotten: AtomicU64,
    overshoot_units: AtomicU64,
    /// Whether it was said that a key holds what no gate wrote.
    told_of_foreign: AtomicBool,
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
    pub fn new(settings: SharedSettings, clock: Clock, budgets: Budgets) -> Result<(Arc<Self>, Keeper), SettingsError> {
        settings::check(&settings)?;
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| SettingsError::NoRandomness)?;
        let seed = u64::from_le_bytes(random);
        let gate = format!("{seed:016x}");
        let limits = Arc::new(Limits::new(&settings.tag));
        let pace = Pace {
            deadline: settings.deadline,
            beat_every: settings.beat_every,
            tolerance: settings.tolerance,
            replicas: settings.replicas,
        };
        let address = settings.address.clone();
        let ledger = Arc::new(Ledger::new(settings.most_owed));
        let (running, delivered) = (Arc::<Running>::default(), Arc::<Delivered>::default());
        let lasting = Lasting { lease: settings.lease, open: settings.open };
        let Budgets { unwritten, written } = budgets;
        let leases = (Arc::clone(&running), lasting);
        let recovery = Recovery::new(Arc::clone(&limits), Arc::clone(&ledger), leases, written, seed);
        let link = Link::new(address, gate.clone(), pace, clock.clone(), (Arc::clone(&limits), recovery));
        let link = Arc::new(link);
        let (queue, endings) = mpsc::channel(settings.most_open);
        let delivery = Delivery {
            link: Arc::clone(&link),
            limits: Arc::clone(&limits),
            running: Arc::clone(&running),
            ledger: Arc::clone(&ledger),
            delivered: Arc::clone(&delivered),
            clock: clock.clone(),
            gate: gate.clone(),
            lasting,
            is_untold: AtomicBool::new(false),
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
            unwritten,
            queue,
            next: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
            not_asked: AtomicU64::new(0),
            backlog: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            overshoot_units: AtomicU64::new(0),
            told_of_foreign: AtomicBool::new(false),
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
            Err(NotReserved::Unavailable(Unavailable::Open | Unavailable::Lost)) => &self.not_asked,
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
        let booking = Arc::new(self.booking(counters));
        let lasting = Lasting { lease: self.settings.lease, open: self.settings.open };
        // Budgets and running calls are told again where they were lost: nobody reserves before that.
        let generation = if outlive_loss(&booking.counters) { ready.generation() } else { 0 };
        let terms = Terms { generation, ..lasting.terms(&booking.id) };
        let pending = Pending::new(slot, Arc::clone(&booking), &self.delivered.waiting);
        let asking = ready.ask_together(|| self.limits.reserve(terms, &booking.counters));
        let numbers = match timeout(self.settings.deadline, asking).await {
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
            Ok(Answer::Admitted(told)) => {
                self.overshoot_units.fetch_add(told.overshoot_units, Relaxed);
                let booked = booked(charges, &booking.counters, &told);
                let standings = standing::standings(charges, &booking.counters, &told);
                Ok(pending.reserved(&self.running, (&self.unwritten, booked), standings))
            }
            Ok(Answer::Refused(told)) => {
                pending.nothing();
                Err(standing::exceeded(charges, &booking.counters, &told)?.into())
            }
            Ok(Answer::Lost) => {
                pending.nothing();
                self.link.lost(&ready);
                Err(Unavailable::Lost.into())
            }
            Ok(Answer::Void) => Err(Unavailable::Error("the reservation was taken back before it came".into()).into()),
            Ok(Answer::Foreign(place)) => {
                pending.nothing();
                if !self.told_of_foreign.swap(true, Relaxed) {
                    tracing::warn!(
                        "a key of a limit in Redis holds what no gate wrote: delete it, or change redis.tag"
                    );
                }
                let text = format!("the key of charge {place} holds what no gate wrote: delete it, or change the tag");
                Err(Unavailable::Error(text).into())
            }
            Err(text) => Err(Unavailable::Error(text).into()),
        }
    }

    fn booking(&self, counters: SmallVec<[Counter; 4]>) -> Booking {
        let number = self.next.fetch_add(1, Relaxed);
        Booking { id: format!("{}-{number:x}", self.gate), number, counters, is_renewed: AtomicBool::new(false) }
    }

    /// Where the counters of these charges stand, in their order, and the units counted. Of what is reserved it tells the part
    /// of this gate's calls, and all of calls that run at a time. Nothing is charged, and Redis writes nothing.
    ///
    /// # Errors
    /// [`NotReserved`]: the charges are a bad answer, or Redis doesn't tell in time.
    pub async fn look(&self, charges: &[Charge<'_>]) -> Result<Vec<(Standing, u64)>, NotReserved> {
        let counters = counter::counters(charges, Tokens::default())?;
        if counters.is_empty() {
            return Ok(Vec::new());
        }
        let ready = self.link.ready().ok_or(Unavailable::Open)?;
        let call = self.limits.look(Terms::of("look"), &counters);
        let asked = timeout(self.settings.deadline, ready.ask(&call)).await;
        let numbers =
            asked.map_err(|_| Unavailable::Deadline)?.map_err(|error| Unavailable::Error(error.to_string()))?;
        let looks = script::looks(&numbers, counters.len()).map_err(Unavailable::Error)?;
        let foreign = || Unavailable::Error("a counter's key holds what no gate wrote: delete it".to_owned());
        let told = charges.iter().zip(&counters).zip(looks.ok_or_else(foreign)?);
        Ok(told
            .map(|((charge, counter), look)| standing::looked(charge, counter, look, self.running.holds(counter.name)))
            .collect())
    }

    /// What to do with a call of these rules that Redis can't be asked about.
    pub fn fall_back(&self, rules: impl IntoIterator<Item = Rule>) -> Fallback {
        fall_back(self.settings.mode, self.replicas(), rules)
    }

    /// Among how many gates limits are shared: as configured, or as last counted, whichever is more. None: nobody knows.
    pub fn replicas(&self) -> Option<NonZeroU32> {
        self.settings.replicas.max(self.link.gates().and_then(NonZeroU32::new))
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
            untold: self.delivered.untold.load(Relaxed),
            owing: long(self.ledger.len()),
            forgotten: self.forgotten.load(Relaxed),
            degraded_ms: self.link.degraded_ms(),
            overshoot_units: self.overshoot_units.load(Relaxed),
            debts: self.delivered.debts.load(Relaxed),
            debt_units: self.delivered.debt_units.load(Relaxed),
            losses: self.link.recovery().losses(),
            restored: self.link.recovery().restored(),
            unwritten: self.unwritten.lost_units(),
        }
    }
}

impl Keeper {
    /// Keeps the connection and delivers until `stop`; then until every reservation has ended, for as long as the
    /// caller lets it. No reservation is made from `stop` on.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { delivery, queue } = self;
        let over = CancellationToken::new();
        let ending = async {
            delivery.endings(queue, stop).await;
            over.cancel();
        };
        tokio::select! {
            _ = async { tokio::join!(ending, delivery.debts(&over)) } => {}
            () = delivery.link.keep() => {}
            () = delivery.renewals() => {}
        }
        delivery.link.leave().await;
    }
}

fn outlive_loss(counters: &[Counter]) -> bool {
    counters.iter().any(|counter| matches!(counter.numbers.kind, Kind::Calendar | Kind::Leases))
}
