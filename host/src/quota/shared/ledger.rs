//! What was spent while Redis couldn't be asked: by counter, added up, until Redis has heard of it.
//!
//! Bounded by a number of counters; what finds no place is counted and lost. Pure but for its lock and its bell.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::counter::{Counter, Kind, Name, Numbers};
use crate::policy::MOST_UNITS;

/// Units owed to one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Debt {
    numbers: Numbers,
    units: u64,
    /// When the last of them were spent, on the monotonic clock.
    spent_ms: u64,
}

impl Debt {
    /// What is still owed at `now_ms`, as the script takes it; none when it would have been paid by then. Errs against
    /// the caller: all units count as spent when the last of them were.
    pub(super) fn due(&self, now_ms: u64) -> Option<(Numbers, u64)> {
        let age_us = now_ms.saturating_sub(self.spent_ms).saturating_mul(1000).min(MOST_UNITS);
        let mut numbers = self.numbers;
        match self.numbers.kind {
            Kind::Leases => None,
            Kind::Window => (age_us < numbers.first).then_some((numbers, self.units)),
            Kind::Calendar => {
                numbers.second = age_us;
                Some((numbers, self.units))
            }
            Kind::Bucket => {
                let level = self.units.saturating_mul(numbers.first).min(MOST_UNITS);
                let level = level.saturating_sub(age_us.saturating_mul(numbers.second));
                // Owed in the bucket's finest part: one of them costs one.
                numbers.first = 1;
                (level > 0).then_some((numbers, level))
            }
        }
    }
}

/// All debts that Redis has yet to hear of.
#[derive(Debug)]
pub(super) struct Ledger {
    debts: Mutex<HashMap<Name, Debt>>,
    most: usize,
    added: Notify,
}

impl Ledger {
    /// For at most so many counters.
    pub(super) fn new(most: usize) -> Self {
        Self { debts: Mutex::default(), most, added: Notify::new() }
    }

    /// Adds units that were spent now. False: there is no place for another counter.
    pub(super) fn add(&self, counter: &Counter, units: u64, now_ms: u64) -> bool {
        if units == 0 || counter.numbers.kind == Kind::Leases {
            return true;
        }
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        let full = debts.len() >= self.most;
        match debts.entry(counter.name) {
            Entry::Occupied(mut held) => {
                let debt = held.get_mut();
                debt.units = debt.units.saturating_add(units).min(MOST_UNITS);
                debt.spent_ms = debt.spent_ms.max(now_ms);
            }
            Entry::Vacant(_) if full => return false,
            Entry::Vacant(place) => {
                place.insert(Debt { numbers: counter.numbers, units, spent_ms: now_ms });
            }
        }
        drop(debts);
        self.added.notify_one();
        true
    }

    /// Waits until something was added since the last time.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Takes the debts of up to so many counters out.
    pub(super) fn take(&self, most: usize) -> Vec<(Name, Debt)> {
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<_> = debts.keys().take(most).copied().collect();
        names.into_iter().filter_map(|name| debts.remove_entry(&name)).collect()
    }

    /// Forgets what is owed to calendars: somebody else tells of that.
    pub(super) fn forget_calendars(&self) {
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        debts.retain(|_, debt| debt.numbers.kind != Kind::Calendar);
    }

    /// How many counters are owed to.
    pub(super) fn len(&self) -> usize {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Amount, Period, Rule, Shape};
    use crate::quota::{Charge, Tokens};

    fn counter(partition: &str, shape: Shape) -> Counter {
        let rule = Rule::Metered { amount: Amount::Requests(1), shape };
        Counter::of(&Charge { policy: "p", limit: "l", partition, rule }, Tokens::default()).unwrap()
    }

    fn due(shape: Shape, units: u64, age_ms: u64) -> Option<u64> {
        let debt = Debt { numbers: counter("x", shape).numbers, units, spent_ms: 1_000 };
        debt.due(1_000 + age_ms).map(|(_, units)| units)
    }

    #[test]
    fn a_debt_is_due_only_as_long_as_spending_would_have_counted() {
        let window = Shape::Window { capacity: 9, length_ms: 100 };
        assert_eq!((due(window, 7, 99), due(window, 7, 100)), (Some(7), None));
        // A unit costs 1000 parts, of which one leaks each µs.
        let bucket = Shape::Bucket { burst: 9, refill: 1, every_ms: 1 };
        assert_eq!((due(bucket, 7, 0), due(bucket, 7, 2), due(bucket, 7, 7)), (Some(7_000), Some(5_000), None));
        assert_eq!(due(Shape::Calendar { capacity: 9, period: Period::Day }, 7, u64::MAX / 2), Some(7));
    }

    #[test]
    fn debts_add_up_by_counter_within_the_bound() {
        let ledger = Ledger::new(2);
        let shape = Shape::Window { capacity: 9, length_ms: 100 };
        assert!(ledger.add(&counter("x", shape), 3, 5));
        assert!(ledger.add(&counter("x", shape), MOST_UNITS, 4));
        assert!(ledger.add(&counter("y", shape), 1, 5));
        assert!(!ledger.add(&counter("z", shape), 1, 5));
        assert!(ledger.add(&counter("y", shape), 1, 5));
        let mut debts: Vec<_> = ledger.take(9).into_iter().map(|(_, debt)| (debt.units, debt.spent_ms)).collect();
        debts.sort_unstable();
        assert_eq!(debts, [(2, 5), (MOST_UNITS, 5)]);
        assert_eq!(ledger.len(), 0);
        assert!(ledger.add(&counter("x", Shape::Calendar { capacity: 9, period: Period::Day }), 1, 5));
        assert!(ledger.add(&counter("x", shape), 1, 5));
        ledger.forget_calendars();
        assert_eq!(ledger.len(), 1);
    }
}
