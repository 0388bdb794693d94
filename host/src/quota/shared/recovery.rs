//! What a gate does about counters that Redis has lost: those of the calendar are told it again, from what is written of
//! them, and running calls count again, also those that were admitted without it; windows and buckets begin anew.
//!
//! Counters live under a *generation*, a number in Redis that lives as long as they do. A gate that finds none, or another
//! than it knows, asks for what is written and tells Redis before it lets anybody reserve; every reservation of a budget
//! names its generation, so that none is made against counters that nobody told. Several gates may do so at once: telling
//! it twice changes nothing.
//!
//! What other gates counted and had not written yet, a second's worth, is forgotten. Of calls that run meanwhile it stays
//! counted what they had reserved; one that was admitted without Redis owes what it takes beyond that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use redis::RedisResult;
use tokio::time::timeout;

use super::counter;
use super::delivery::{Booking, Lasting, Running};
use super::ledger::Ledger;
use super::link::Ready;
use super::script::{Call, Limits, Terms};
use crate::ports::budgets::{StoredBudget, WrittenBudgets};
use crate::wire::causes::causes;

/// Budgets in one message.
const BUDGETS: usize = 64;
/// How long reading what is written may take.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// How long one message may take.
const TELL_WITHIN: Duration = Duration::from_secs(1);
/// Running calls in one message.
const RUNNING: usize = 128;
/// Generations stay within what every number here can hold.
const MOST_GENERATION: u64 = (1 << 52) - 1;

/// Restores what was lost.
#[derive(Debug)]
pub(super) struct Recovery {
    limits: Arc<Limits>,
    ledger: Arc<Ledger>,
    running: Arc<Running>,
    lasting: Lasting,
    written: Option<Arc<dyn WrittenBudgets>>,
    /// Of the gate; what a new generation is made of.
    seed: u64,
    /// The generation last seen; 0: none yet.
    known: AtomicU64,
    /// Generations that this gate has begun, so that no two are the same.
    begun: AtomicU64,
    losses: AtomicU64,
    restored: AtomicU64,
}

impl Recovery {
    pub(super) fn new(
        limits: Arc<Limits>,
        ledger: Arc<Ledger>,
        (running, lasting): (Arc<Running>, Lasting),
        written: Option<Arc<dyn WrittenBudgets>>,
        seed: u64,
    ) -> Self {
        let (known, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        let (losses, restored) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { limits, ledger, running, lasting, written, seed, known, begun, losses, restored }
    }

    /// How often Redis had lost its counters.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Relaxed)
    }

    /// Budgets that Redis was told it again.
    pub(super) fn restored(&self) -> u64 {
        self.restored.load(Relaxed)
    }

    /// The generation under which calls are reserved over this connection, where Redis holds `found`. Whatever was lost is
    /// restored before this answers.
    ///
    /// # Errors
    /// A text when what is written can't be read, or Redis doesn't take it: then nobody may reserve.
    pub(super) async fn generation(&self, ready: &Ready, found: u64) -> Result<u64, String> {
        let known = self.known.load(Relaxed);
        if found != 0 && (found == known || known == 0) {
            self.known.store(found, Relaxed);
            return Ok(found);
        }
        // What was spent without Redis is written too; what is spent from now on may not be.
        let debts = self.ledger.begin_restoring();
        let restored = match self.restore(ready).await {
            Ok(restored) => restored,
            Err(error) => {
                self.ledger.put_back(debts);
                return Err(error);
            }
        };
        let generation = match found {
            0 => self.found(ready).await?,
            found => found,
        };
        self.ledger.restored(&debts);
        self.known.store(generation, Relaxed);
        self.restored.fetch_add(restored, Relaxed);
        if known != 0 {
            self.losses.fetch_add(1, Relaxed);
            tracing::warn!(
                budgets = restored,
                "Redis has lost its counters: what is written of budgets was restored; every other limit begins anew, so \
                 that up to as much again may pass as it admits"
            );
        } else if restored > 0 {
            tracing::info!(budgets = restored, "Redis was told what is written of budgets");
        }
        Ok(generation)
    }

    /// Tells Redis of the calls that run, before anybody reserves: it may have lost them, their leases may have ended
    /// meanwhile, or they were admitted without it.
    ///
    /// # Errors
    /// A text when Redis doesn't take it.
    pub(super) async fn renew_leases(&self, ready: &Ready) -> Result<(), String> {
        for part in self.running.renewing().chunks(RUNNING) {
            let renew = |booking: &Arc<Booking>| self.limits.renew(self.lasting.terms(&booking.id), &booking.counters);
            let calls: Vec<_> = part.iter().map(renew).collect();
            let refused = in_time(ready.ask_all(calls)).await?.into_iter().find_map(Result::err);
            if let Some(error) = refused {
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    /// Tells Redis what is written of budgets; answers of how many it knew less.
    async fn restore(&self, ready: &Ready) -> Result<u64, String> {
        let budgets = self.written().await?;
        self.tell(ready, &budgets).await
    }

    async fn written(&self) -> Result<Vec<StoredBudget>, String> {
        let Some(written) = &self.written else { return Ok(Vec::new()) };
        match timeout(READ_WITHIN, written.all()).await {
            Ok(Ok(budgets)) => Ok(budgets),
            Ok(Err(error)) => Err(format!("it lost its counters, and the store can't tell them: {}", causes(&error))),
            Err(_) => Err("it lost its counters, and the store doesn't tell them in time".to_owned()),
        }
    }

    /// Tells Redis of these budgets; answers of how many it knew less.
    async fn tell(&self, ready: &Ready, budgets: &[StoredBudget]) -> Result<u64, String> {
        let mut restored = 0;
        for part in budgets.chunks(BUDGETS) {
            let call = self.limits.restore(Terms::of("restore"), part.iter().filter_map(counter::written));
            match ask(ready, &call).await?.as_slice() {
                [1, told] => restored += u64::try_from(*told).unwrap_or_default(),
                _ => return Err(STRANGE.to_owned()),
            }
        }
        Ok(restored)
    }

    /// Begins a generation; answers the one that holds, for another gate may have been faster.
    async fn found(&self, ready: &Ready) -> Result<u64, String> {
        let own = self.seed.wrapping_add(self.begun.fetch_add(1, Relaxed)) % MOST_GENERATION + 1;
        let call = self.limits.found(Terms { generation: own, ..Terms::of("found") });
        match ask(ready, &call).await?.as_slice() {
            [1, generation] if *generation > 0 => u64::try_from(*generation).map_err(|_| STRANGE.to_owned()),
            _ => Err(STRANGE.to_owned()),
        }
    }
}

const STRANGE: &str = "the script answered something else than expected";

async fn ask(ready: &Ready, call: &Call) -> Result<Vec<i64>, String> {
    in_time(ready.ask(call)).await
}

async fn in_time<T>(asking: impl Future<Output = RedisResult<T>>) -> Result<T, String> {
    match timeout(TELL_WITHIN, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("restoring counters takes longer than {} ms", TELL_WITHIN.as_millis())),
    }
}
