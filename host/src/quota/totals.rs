//! What the table did, in numbers that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers since the start. Read without a lock: they may be apart by a call.
#[derive(Debug, Default)]
pub struct Totals {
    admitted: AtomicU64,
    refused: AtomicU64,
    debts: AtomicU64,
    debt_units: AtomicU64,
    overshoot_units: AtomicU64,
}

impl Totals {
    /// Calls whose charges were reserved.
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Calls that found a limit used up, or no place for a counter.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How often a call used so much more than it had reserved that a counter passed its capacity.
    pub fn debts(&self) -> u64 {
        self.debts.load(Ordering::Relaxed)
    }

    /// By how many units these counters passed their capacities. Later calls pay them.
    pub fn debt_units(&self) -> u64 {
        self.debt_units.load(Ordering::Relaxed)
    }

    /// Units that were reserved beyond a capacity: a fault of the gate, if it is ever more than 0.
    pub fn overshoot_units(&self) -> u64 {
        self.overshoot_units.load(Ordering::Relaxed)
    }

    pub(super) fn admits(&self, overshoot_units: u64) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
        if overshoot_units > 0 {
            self.overshoot_units.fetch_add(overshoot_units, Ordering::Relaxed);
        }
    }

    pub(super) fn refuses(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn owes(&self, units: u64) {
        if units > 0 {
            self.debts.fetch_add(1, Ordering::Relaxed);
            self.debt_units.fetch_add(units, Ordering::Relaxed);
        }
    }
}
