//! What a call spends that Redis isn't asked about, and how Redis hears of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use smallvec::SmallVec;

use super::SharedQuota;
use super::counter::{self, Counter, Kind};
use super::ledger::Noted;
use super::reservation::LocalLease;
use super::script::Told;
use super::unwritten::Booked;
use crate::quota::calendar::end_of;
use crate::quota::charge::Span;
use crate::quota::{Charge, Moment, Outcome, Refused, Tokens, budget};

impl SharedQuota {
    /// What a call spends that isn't reserved in Redis. `charges` are the policy's own, not their shares. Whether memory
    /// counts it, which then writes down what is spent of budgets.
    ///
    /// # Errors
    /// [`Refused`] when the charges are a bad answer.
    pub fn spends_locally(
        self: &Arc<Self>,
        charges: &[Charge<'_>],
        expected: Tokens,
        is_counted: bool,
    ) -> Result<LocalSpending, Refused> {
        let counters = counter::counters(charges, expected)?;
        let now = Told { at_us: self.clock.unix_us(), overshoot_units: 0, readings: SmallVec::new() };
        let booked = if is_counted { Vec::new() } else { booked(charges, &counters, &now) };
        let lease = self.local_lease(&counters);
        let counted_before = is_counted.then(|| self.ledger.next_restoration());
        let (shared, counters) = (Arc::clone(self), counters.into_vec());
        Ok(LocalSpending { shared, counters, booked, counted_before, _lease: lease })
    }

    /// The leases among these, for a call that Redis isn't asked about. None: there are none, or no place in the queue of
    /// endings; then Redis never hears of them.
    fn local_lease(&self, counters: &[Counter]) -> Option<LocalLease> {
        let is_lease = |counter: &&Counter| counter.numbers.kind == Kind::Leases;
        let leases: SmallVec<_> = counters.iter().filter(is_lease).copied().collect();
        if leases.is_empty() {
            return None;
        }
        let slot = self.queue.clone().try_reserve_owned().ok()?;
        Some(LocalLease::new(slot, Arc::new(self.booking(leases)), &self.running, &self.delivered))
    }
}

/// What one call spends without Redis. Dropped, it has spent nothing.
#[derive(Debug)]
pub struct LocalSpending {
    shared: Arc<SharedQuota>,
    counters: Vec<Counter>,
    booked: Vec<Booked>,
    /// The first restoration that tells of what memory has counted of the call, if it has.
    counted_before: Option<u64>,
    /// Held for what its end does.
    _lease: Option<LocalLease>,
}

impl LocalSpending {
    /// The call has ended: Redis is told of it as soon as it can be.
    pub fn settle(self, outcome: Outcome) {
        for booked in &self.booked {
            let units = self.counters.get(booked.place).map_or(0, |counter| counter.settled(outcome));
            self.shared.unwritten.moved(booked, 0, units);
        }
        let (now, ledger) = (Moment::now(&self.shared.clock), &self.shared.ledger);
        // By now memory has settled the call, or its budgets are noted: what it used is counted where it is written.
        let settled_before = ledger.next_restoration();
        for counter in self.counters {
            let units = counter.settled(outcome);
            let reserved = self.counted_before.map(|next| Noted { units: counter.amount, next });
            let noted = [Noted { units, next: settled_before }];
            let noted: SmallVec<[Noted; 2]> = noted.into_iter().chain(reserved).collect();
            if !ledger.add(&counter, units, &noted, now) {
                self.shared.forgotten.fetch_add(units, Relaxed);
            }
        }
    }
}

/// The budgets among a call's counters, each with the period that it counts in at that time.
pub(super) fn booked(charges: &[Charge<'_>], counters: &[Counter], told: &Told) -> Vec<Booked> {
    let mut booked = Vec::new();
    for (place, (charge, counter)) in charges.iter().zip(counters).enumerate() {
        let Span::Calendar(period) = counter.terms.span else { continue };
        let Some(name) = budget::name(charge, &counter.terms) else { continue };
        let reading = told.readings.get(place);
        // Redis keeps to a later period than its clock is in, when that went back.
        let period_end_us = reading
            .map_or_else(|| end_of(period, told.at_us), |reading| told.at_us.saturating_add(reading.reset_after_us));
        booked.push(Booked { place, counter: counter.name, name: Arc::new(name), period_end_us });
    }
    booked
}
