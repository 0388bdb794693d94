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

    /// Where the call's counters stood when it was reserved, itself included, in the order in which they were charged. Once:
    /// a call may run long after its caller was told.
    pub fn tells_standings(&mut self) -> Vec<Standing> {
        std::mem::take(&mut self.standings)
    }

    /// The call is over, at this moment.
    pub fn settle(mut self, at: Moment, outcome: Outcome) {
        self.quota.settle(Some(at), &mut self.held, outcome);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.settle(None, &mut self.held, Outcome::Refund);
    }
}
