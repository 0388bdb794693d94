//! What budgets counted in Redis that is not written down yet: by counter, added up, until somebody takes it to the store.
//!
//! Bounded by a number of counters; what finds no place is counted and lost. Pure but for its lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::counter::Name;
use crate::ports::budgets::{BudgetChange, BudgetName};
use crate::quota::budget::signed;

/// What a call reserved of one budget, so that its settlement finds it.
#[derive(Clone, Debug)]
pub(super) struct Booked {
    /// Which of the call's counters it is.
    pub(super) place: usize,
    pub(super) counter: Name,
    pub(super) name: Arc<BudgetName>,
    /// The end of the period in which it counts.
    pub(super) period_end_us: u64,
}

/// All that is not written yet.
#[derive(Debug)]
pub struct Unwritten {
    changes: Mutex<HashMap<Name, BudgetChange>>,
    most: usize,
    lost_units: AtomicU64,
}

impl Default for Unwritten {
    /// For a million counters.
    fn default() -> Self {
        Self::new(1_000_000)
    }
}

impl Unwritten {
    /// Of at most so many counters at a time.
    pub fn new(most: usize) -> Self {
        Self { changes: Mutex::default(), most, lost_units: AtomicU64::new(0) }
    }

    /// Takes out what was counted, of at most so many counters. Whoever takes it writes it down.
    pub fn take(&self, now_unix_us: u64, most: usize) -> Vec<BudgetChange> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<Name> = changes.keys().take(most).copied().collect();
        let taken = names.into_iter().filter_map(|name| changes.remove(&name));
        taken.filter(|change| change.units != 0 && now_unix_us < change.period_end_us).collect()
    }

    /// Units that found no place, and are written nowhere.
    pub(super) fn lost_units(&self) -> u64 {
        self.lost_units.load(Relaxed)
    }

    /// A budget went from so many units of its period to so many. What is left of a period that is over matters to nobody.
    pub(super) fn moved(&self, booked: &Booked, before: u64, after: u64) {
        let units = signed(after).saturating_sub(signed(before));
        if units == 0 {
            return;
        }
        let Booked { counter, name, period_end_us, .. } = booked;
        let fresh = || BudgetChange { name: Arc::clone(name), period_end_us: *period_end_us, units };
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = changes.len() >= self.most;
        match changes.entry(*counter) {
            Entry::Occupied(mut held) => {
                let change = held.get_mut();
                if change.period_end_us == *period_end_us {
                    change.units = change.units.saturating_add(units);
                } else if change.period_end_us < *period_end_us {
                    *change = fresh();
                }
            }
            Entry::Vacant(_) if is_full => {
                self.lost_units.fetch_add(units.unsigned_abs(), Relaxed);
            }
            Entry::Vacant(place) => {
                place.insert(fresh());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Amount, Period, Rule, Shape};
    use crate::quota::shared::counter::Counter;
    use crate::quota::{Charge, Tokens, budget};

    fn booked(partition: &str, period_end_us: u64) -> Booked {
        let shape = Shape::Calendar { capacity: 9, period: Period::Day };
        let rule = Rule::Metered { amount: Amount::Requests(1), shape };
        let charge = Charge { policy: "p", limit: "l", partition, rule };
        let counter = Counter::of(&charge, Tokens::default()).unwrap();
        let name = Arc::new(budget::name(&charge, &counter.terms).unwrap());
        Booked { place: 0, counter: counter.name, name, period_end_us }
    }

    fn taken(unwritten: &Unwritten, now_us: u64) -> Vec<(String, u64, i64)> {
        let mut taken: Vec<_> = unwritten
            .take(now_us, 9)
            .into_iter()
            .map(|change| (change.name.partition.to_string(), change.period_end_us, change.units))
            .collect();
        taken.sort();
        taken
    }

    #[test]
    fn changes_add_up_by_counter_and_period_and_are_taken_once() {
        let unwritten = Unwritten::new(9);
        for (partition, end_us, before, after) in
            [("x", 50, 0, 7), ("x", 50, 7, 3), ("y", 50, 4, 4), ("z", 50, 5, 0), ("z", 40, 0, 9), ("z", 60, 0, 2)]
        {
            unwritten.moved(&booked(partition, end_us), before, after);
        }
        assert_eq!(taken(&unwritten, 10), [("x".to_owned(), 50, 3), ("z".to_owned(), 60, 2)]);
        assert_eq!(taken(&unwritten, 10), []);
        unwritten.moved(&booked("x", 50), 0, 1);
        assert_eq!(taken(&unwritten, 50), [], "the period is over");
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let unwritten = Unwritten::new(1);
        unwritten.moved(&booked("x", 50), 0, 1);
        unwritten.moved(&booked("y", 50), 9, 4);
        unwritten.moved(&booked("x", 50), 0, 1);
        assert_eq!((unwritten.lost_units(), taken(&unwritten, 0)), (5, vec![("x".to_owned(), 50, 2)]));
    }
}
