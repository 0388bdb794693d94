//! What was spent while Redis couldn't be asked: by counter, added up as far as it would still count, until Redis has heard
//! of it.
//!
//! Bounded by a number of counters; what finds no place is counted and lost. Pure but for its lock and its bell.
//!
//! A Redis that has lost its counters is told of calendars from what is written of them, which holds what was spent without
//! it as well: that must not be owed besides. So restorations have numbers, and whoever counts where it is written notes
//! what the next one will be. What was counted before a restoration began is told by it, once that has succeeded.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::counter::{Counter, Kind, Name, Numbers};
use crate::policy::MOST_UNITS;
use crate::quota::Moment;
use crate::quota::calendar::end_of;
use crate::quota::charge::Span;

/// Parts of a window in which spending is kept apart. A part counts until all of it has left the window: that takes one part
/// more than the window has.
const PARTS: u64 = 3;
const KEPT: usize = 4;

/// Units owed to one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Debt {
    numbers: Numbers,
    /// Of a window, by part, the newest first; of a bucket, in its finest part; of a calendar, units. What isn't a window's
    /// uses the first alone.
    owed: [u64; KEPT],
    /// When the last of them were spent, on the monotonic clock.
    spent_us: u64,
    /// The end of a calendar's period; else 0.
    border_us: u64,
}

impl Debt {
    fn new(counter: &Counter, now: Moment) -> Self {
        Self { numbers: counter.numbers, owed: [0; KEPT], spent_us: now.monotonic_us, border_us: border(counter, now) }
    }

    fn add(&mut self, counter: &Counter, units: u64, now: Moment) {
        self.pass(now.monotonic_us);
        let border_us = border(counter, now);
        if border_us > self.border_us {
            (self.owed, self.border_us) = ([0; KEPT], border_us);
        }
        let units = match self.numbers.kind {
            Kind::Bucket => units.saturating_mul(self.numbers.first),
            Kind::Window | Kind::Calendar | Kind::Leases => units,
        };
        let [newest, ..] = &mut self.owed;
        *newest = newest.saturating_add(units).min(MOST_UNITS);
    }

    /// Moves to this time; an earlier one than before changes nothing.
    fn pass(&mut self, now_us: u64) {
        let passed_us = now_us.saturating_sub(self.spent_us);
        match self.numbers.kind {
            Kind::Window => {
                let part_us = self.numbers.first.div_ceil(PARTS).max(1);
                let parts = (self.spent_us.max(now_us) / part_us).saturating_sub(self.spent_us / part_us);
                for _ in 0..parts.min(PARTS + 1) {
                    self.owed.rotate_right(1);
                    let [newest, ..] = &mut self.owed;
                    *newest = 0;
                }
            }
            Kind::Bucket => {
                let [level, ..] = &mut self.owed;
                *level = level.saturating_sub(passed_us.saturating_mul(self.numbers.second));
            }
            Kind::Calendar | Kind::Leases => {}
        }
        self.spent_us = self.spent_us.max(now_us);
    }

    /// Adds another debt of the same calendar: that of the later period is what counts.
    fn join(&mut self, earlier: &Self) {
        if earlier.border_us == self.border_us {
            let ([own, ..], [other, ..]) = (&mut self.owed, &earlier.owed);
            *own = own.saturating_add(*other).min(MOST_UNITS);
        } else if earlier.border_us > self.border_us {
            *self = *earlier;
        }
    }

    /// What is still owed at this time of the monotonic clock, as the script takes it; none when it would have been paid by
    /// then. Errs against the caller, by less than a part of a window.
    pub(super) fn due(&self, now_us: u64) -> Option<(Numbers, u64)> {
        let mut then = *self;
        then.pass(now_us);
        let owed = then.owed.iter().fold(0, |sum: u64, owed| sum.saturating_add(*owed)).min(MOST_UNITS);
        let mut numbers = self.numbers;
        match numbers.kind {
            // Owed in the bucket's finest part: one of them costs one.
            Kind::Bucket => numbers.first = 1,
            Kind::Calendar => numbers.second = now_us.saturating_sub(self.spent_us).min(MOST_UNITS),
            Kind::Window | Kind::Leases => {}
        }
        (owed > 0).then_some((numbers, owed))
    }
}

/// The end of the period in which a calendar counts at this moment; 0 for what is none.
fn border(counter: &Counter, now: Moment) -> u64 {
    match counter.terms.span {
        Span::Calendar(period) => end_of(period, now.unix_us),
        Span::Window { .. } | Span::Bucket { .. } | Span::Concurrent => 0,
    }
}

/// Units of a calendar that are counted where they are written: every restoration from this number on tells of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    pub(super) units: u64,
    pub(super) next: u64,
}

/// Debts that were taken out to be told.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) debts: Vec<(Name, Debt)>,
    /// The restoration that would tell of the calendars among them.
    next: u64,
}

impl Taken {
    /// How many counters are owed to.
    pub(super) fn len(&self) -> usize {
        self.debts.len()
    }
}

/// All debts that Redis has yet to hear of.
#[derive(Debug)]
pub(super) struct Ledger {
    owed: Mutex<Owed>,
    most: usize,
    added: Notify,
}

#[derive(Debug, Default)]
struct Owed {
    debts: HashMap<Name, Debt>,
    /// The number of the next restoration.
    next: u64,
    /// All that waits for a restoration below this number was told, by that one or one after it.
    restored_below: u64,
}

impl Ledger {
    /// For at most so many counters.
    pub(super) fn new(most: usize) -> Self {
        Self { owed: Mutex::default(), most, added: Notify::new() }
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which restoration tells of what is counted by now.
    pub(super) fn next_restoration(&self) -> u64 {
        self.owed().next
    }

    /// Adds units that were spent now, but what a restoration has told of them: some of a calendar's were counted where they
    /// are written, as noted. False: there is no place for another counter.
    pub(super) fn add(&self, counter: &Counter, units: u64, noted: &[Noted], now: Moment) -> bool {
        let mut owed = self.owed();
        let Owed { debts, restored_below, .. } = &mut *owed;
        let units = match counter.numbers.kind {
            Kind::Leases => 0,
            Kind::Window | Kind::Bucket => units,
            Kind::Calendar => {
                let told = noted.iter().filter(|noted| noted.next < *restored_below).map(|noted| noted.units).max();
                units.saturating_sub(told.unwrap_or_default())
            }
        };
        if units == 0 {
            return true;
        }
        let full = debts.len() >= self.most;
        match debts.entry(counter.name) {
            Entry::Occupied(mut held) => held.get_mut().add(counter, units, now),
            Entry::Vacant(_) if full => return false,
            Entry::Vacant(place) => place.insert(Debt::new(counter, now)).add(counter, units, now),
        }
        drop(owed);
        self.added.notify_one();
        true
    }

    /// Waits until something was added since the last time.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Takes the debts of up to so many counters out.
    pub(super) fn take(&self, most: usize) -> Taken {
        let mut owed = self.owed();
        let names: Vec<_> = owed.debts.keys().take(most).copied().collect();
        let debts = names.into_iter().filter_map(|name| owed.debts.remove_entry(&name)).collect();
        Taken { debts, next: owed.next }
    }

    /// What of this is due at this time, as the script takes it: no calendar that a restoration has told of since.
    pub(super) fn due(&self, taken: &Taken, now_us: u64) -> Vec<(Name, Numbers, u64)> {
        let is_restored = taken.next < self.owed().restored_below;
        let left = taken.debts.iter().filter(|(_, debt)| !(is_restored && debt.numbers.kind == Kind::Calendar));
        left.filter_map(|(name, debt)| debt.due(now_us).map(|(numbers, units)| (*name, numbers, units))).collect()
    }

    /// A restoration begins, before it reads what is written: it tells of all calendars that are taken out here.
    pub(super) fn begin_restoring(&self) -> Taken {
        let mut owed = self.owed();
        let debts = owed.debts.extract_if(|_, debt| debt.numbers.kind == Kind::Calendar).collect();
        let next = owed.next;
        owed.next += 1;
        Taken { debts, next }
    }

    /// The restoration that began by taking these out has told of all that is written.
    pub(super) fn restored(&self, told: &Taken) {
        let mut owed = self.owed();
        owed.restored_below = owed.restored_below.max(told.next.saturating_add(1));
    }

    /// The restoration failed: what was taken out is owed again, beside what was added since.
    pub(super) fn put_back(&self, taken: Taken) {
        let mut owed = self.owed();
        for (name, debt) in taken.debts {
            owed.debts.entry(name).and_modify(|held| held.join(&debt)).or_insert(debt);
        }
        drop(owed);
        self.added.notify_one();
    }

    /// How many counters are owed to.
    pub(super) fn len(&self) -> usize {
        self.owed().debts.len()
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

    const SECOND: u64 = 1_000_000;
    const WINDOW: Shape = Shape::Window { capacity: 9, length_ms: 3_000 };
    const DAY: Shape = Shape::Calendar { capacity: 9, period: Period::Day };
    const DAY_US: u64 = 86_400 * SECOND;

    fn at(us: u64) -> Moment {
        Moment { monotonic_us: us, unix_us: us }
    }

    /// What is due at `then` of units that were spent at these times.
    fn due(shape: Shape, spent: &[(u64, u64)], then: u64) -> Option<u64> {
        let ledger = Ledger::new(1);
        for (us, units) in spent {
            assert!(ledger.add(&counter("x", shape), *units, &[], at(*us)));
        }
        ledger.take(1).debts.first().and_then(|(_, debt)| debt.due(then)).map(|(_, units)| units)
    }

    #[test]
    fn a_debt_is_due_only_as_long_as_spending_would_have_counted() {
        let window = |then| due(WINDOW, &[(10 * SECOND, 7)], then);
        assert_eq!(window(13 * SECOND - 1), Some(7));
        assert_eq!(window(14 * SECOND), None);
        // A unit costs 1000 parts, of which one leaks each µs.
        let bucket = Shape::Bucket { burst: 9, refill: 1, every_ms: 1 };
        let bucket = |then| due(bucket, &[(5_000, 7)], then);
        assert_eq!((bucket(5_000), bucket(7_000), bucket(12_000)), (Some(7_000), Some(5_000), None));
        assert_eq!(due(DAY, &[(5, 7)], u64::MAX / 2), Some(7));
    }

    #[test]
    fn a_long_outage_owes_no_more_than_what_still_counts() {
        let spent: Vec<_> = (0..60).map(|second| (second * SECOND, 2)).collect();
        // A window of three seconds, of which the last four parts count.
        assert_eq!(due(WINDOW, &spent, 59 * SECOND), Some(8));
        // One unit a second leaks, two are spent: the rest adds up.
        let slow = Shape::Bucket { burst: 9, refill: 1, every_ms: 1_000 };
        assert_eq!(due(slow, &spent, 59 * SECOND), Some(61 * SECOND));
        let paid = Shape::Bucket { burst: 9, refill: 2, every_ms: 1_000 };
        let (numbers, level) = (counter("x", paid).numbers, due(paid, &spent, 59 * SECOND));
        assert_eq!(level, Some(2 * numbers.first), "what leaks meanwhile is paid");
        assert_eq!(due(DAY, &[(DAY_US - 1, 5), (DAY_US, 1)], DAY_US), Some(1), "yesterday's budget is yesterday's");
    }

    #[test]
    fn debts_add_up_by_counter_within_the_bound() {
        let ledger = Ledger::new(2);
        assert!(ledger.add(&counter("x", WINDOW), 3, &[], at(5)));
        assert!(ledger.add(&counter("x", WINDOW), MOST_UNITS, &[], at(4)));
        assert!(ledger.add(&counter("y", WINDOW), 1, &[], at(5)));
        assert!(!ledger.add(&counter("z", WINDOW), 1, &[], at(5)));
        assert!(ledger.add(&counter("y", WINDOW), 1, &[], at(5)));
        let due = |(_, debt): (Name, Debt)| debt.due(5).map(|(_, units)| units);
        let mut debts: Vec<_> = ledger.take(9).debts.into_iter().map(due).collect();
        debts.sort_unstable();
        assert_eq!(debts, [Some(2), Some(MOST_UNITS)]);
        assert_eq!(ledger.len(), 0);
        assert!(ledger.add(&counter("x", DAY), 1, &[], at(5)));
        assert!(ledger.add(&counter("x", WINDOW), 1, &[], at(5)));
        let calendars = ledger.begin_restoring();
        assert_eq!((calendars.len(), ledger.len()), (1, 1));
        assert!(ledger.add(&counter("x", DAY), 2, &[], at(6)));
        ledger.put_back(calendars);
        let mut debts: Vec<_> = ledger.take(9).debts.into_iter().map(due).collect();
        debts.sort_unstable();
        assert_eq!(debts, [Some(1), Some(3)]);
    }

    #[test]
    fn what_a_restoration_has_told_is_not_owed_besides() {
        let ledger = Ledger::new(9);
        let (day, window) = (counter("x", DAY), counter("x", WINDOW));
        let before = Noted { units: 3, next: ledger.next_restoration() };
        assert!(ledger.add(&day, 1, &[], at(5)) && ledger.add(&window, 1, &[], at(5)));
        let taken = ledger.take(9);
        let failing = ledger.begin_restoring();
        ledger.put_back(failing);
        assert_eq!(ledger.due(&taken, 5).len(), 2, "nothing was told yet");
        let told = ledger.begin_restoring();
        let after = Noted { units: 3, next: ledger.next_restoration() };
        ledger.restored(&told);
        let kinds: Vec<_> = ledger.due(&taken, 5).into_iter().map(|(_, numbers, _)| numbers.kind).collect();
        assert_eq!(kinds, [Kind::Window], "windows aren't written");
        let owed = |counter, units, noted: &[Noted]| {
            assert!(ledger.add(counter, units, noted, at(5)));
            let taken = ledger.take(9);
            ledger.due(&taken, 5).iter().map(|(_, _, units)| *units).sum::<u64>()
        };
        assert_eq!((owed(&day, 5, &[before]), owed(&day, 2, &[before])), (2, 0), "what was counted before is told");
        assert_eq!((owed(&day, 5, &[after]), owed(&day, 5, &[])), (5, 5), "what came after it is not");
        assert_eq!(owed(&day, 5, &[before, Noted { units: 5, ..before }]), 0);
        assert_eq!(owed(&window, 5, &[before]), 5);
    }
}
