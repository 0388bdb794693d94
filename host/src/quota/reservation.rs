//! What one call has reserved, until it is settled.

use std::sync::Arc;

use super::{Moment, Outcome, Quota, Standing, charge::Settling, counter::Mark, key::CounterKey};

/// Units that a reservation holds in one counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) key: CounterKey,
    pub(super) mark: Mark,
    pub(super) amount: u64,
    /// What the counter admitted when they were reserved.
    pub(super) capacity: u64,
    pub(super) settling: Settling,
}

/// What one call has reserved. It must be settled once anything reached a backend; dropping it gives everything back, for
/// then nothing did.
#[derive(Debug)]
#[must_use = "a reservation that is dropped gives back what it reserved"]
pub struct Reservation {
    quota: Arc<Quota>,
    held: Vec<Held>,
    standings: Vec<Standing>,
}

impl Reservation {
    pub(super) fn new(quota: Arc<Quota>, held: Vec<Held>, standings: Vec<Standing>) -> Self {
        Self { quota, held, standings }
    }

    /// Where the call's counters stood when it was reserved, itself included, in the order in which they were charged.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// The call is over, at this moment.
    pub fn settle(mut self, at: Moment, outcome: Outcome) {
        self.close(Some(at), outcome);
    }

    /// One counter after the other: others may find some of them settled before the rest, never too many units free. One
    /// that is taken out is settled once, even if this panics.
    fn close(&mut self, at: Option<Moment>, outcome: Outcome) {
        while let Some(held) = self.held.pop() {
            let used = held.settling.uses(held.amount, outcome);
            self.quota.settle(at, &held, used);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.close(None, Outcome::Refund);
    }
}
