//! One shard of the table: counters by key, bounded in number.
//!
//! A counter is dropped when nothing is counted, owed or reserved in it, and never before. While a reservation is open its
//! counter stays. To find those that may go without looking at all of them, the shard keeps a note for each of the others:
//! a moment before which something surely counts there. Only counters whose note is due are looked at, and a look either
//! drops the counter or moves its note to the moment at which it will be empty, so the work is paid for by the charges
//! that moved that moment. (A calendar's note is a guess, for the wall clock may step; a look finds out.) While there is
//! room, a look is taken a little after the note is due, so that a counter that is empty between two calls serves both.
//!
//! Whoever calls holds the shard's lock. Nothing here waits or asks the time.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::BuildHasherDefault,
    sync::Arc,
};

use super::{
    Moment,
    bucket::Bucket,
    budget::{Budget, Written},
    calendar::{Calendar, Floors},
    charge::{Charge, Span, Terms},
    concurrent::Concurrent,
    counter::{Counter, Mark, Wait, ceiling},
    key::{CounterKey, KeyHasher, Owner},
    owners::Owners,
    window::Window,
};
use crate::{
    policy::Period,
    ports::budgets::{BudgetChange, StoredBudget},
};

/// How many due notes are looked at for each charge that uses the shard: more than the one that it can add, so that idle
/// counters go even while new ones come.
const NOTES_PER_CHARGE: usize = 2;
/// A counter that has no note.
const NO_NOTE: u64 = u64::MAX;
/// How long an empty counter waits for the next call, unless its place is needed: of most keys that are in use no call runs
/// now and then, and making their counters anew takes longer than counting.
const IDLE_US: u64 = 1_000_000;

/// Some of the counters, and the latest moment seen by any of them.
#[derive(Debug)]
pub(super) struct Shard {
    counters: HashMap<CounterKey, Box<Live>, BuildHasherDefault<KeyHasher>>,
    /// The `note_us` of every counter that has one, earliest first.
    notes: BTreeSet<(u64, CounterKey)>,
    /// The latest monotonic time seen, and the wall time that came with the latest moment. The former outlives the
    /// counters: a clock that goes back finds a dropped counter no earlier.
    now: Moment,
    /// What calendars that were dropped leave behind.
    floors: Floors,
    /// Calendars that counted something nobody has taken to be written.
    unsaved: BTreeSet<CounterKey>,
    /// The same of calendars that were dropped since.
    departed: Vec<BudgetChange>,
    owners: Arc<Owners>,
    max_counters: usize,
}

/// A counter, and what keeps it. Boxed, because growing the map moves its entries while the lock is held.
#[derive(Debug)]
struct Live<C: ?Sized = dyn Counter> {
    /// Whose it is, if it is anybody's.
    owner: Owner,
    /// Where its note stands; never later than when it will be empty, or became so, but for calendars.
    note_us: u64,
    /// Units that open reservations hold.
    reserved: u64,
    /// How many reservations are open.
    open: u32,
    /// Whether a principal was charged when it was made; not so if it was restored.
    is_owned: bool,
    counter: C,
}

/// Where a counter stands, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) used: u64,
    pub(super) reserved: u64,
    pub(super) reset_after_us: Option<u64>,
    pub(super) window_us: Option<u64>,
}

impl<C> Live<C> {
    fn of(counter: C) -> Box<Self> {
        let (owner, note_us) = (Owner(0), NO_NOTE);
        Box::new(Self { owner, note_us, reserved: 0, open: 0, is_owned: false, counter })
    }
}

impl Live {
    fn figures(&self, at: Moment, capacity: u64) -> Figures {
        Figures {
            used: self.counter.used(),
            reserved: self.reserved,
            reset_after_us: self.counter.reset_after_us(at),
            window_us: self.counter.window_us(capacity),
        }
    }

    /// It has taken or settled what counts at this mark, and counted so many units before.
    fn moved(&mut self, unsaved: &mut BTreeSet<CounterKey>, (key, mark): (CounterKey, Mark), used_before: u64) {
        let used = self.counter.used();
        if self.counter.budget().is_some_and(|budget| budget.moved(mark.0, used_before, used)) {
            unsaved.insert(key);
        }
    }

    /// Notes when it will be empty, or that it is, unless there is an earlier note.
    fn note(&mut self, notes: &mut BTreeSet<(u64, CounterKey)>, key: CounterKey, now: Moment) {
        let note_us = self.counter.clears_at_us(now).max(now.monotonic_us);
        if note_us >= self.note_us {
            return;
        }
        let former_us = std::mem::replace(&mut self.note_us, note_us);
        if former_us != NO_NOTE {
            notes.remove(&(former_us, key));
        }
        notes.insert((note_us, key));
    }
}

impl Shard {
    /// An empty shard that never holds more than `max_counters`.
    pub(super) fn new(max_counters: usize, owners: Arc<Owners>) -> Self {
        Self {
            counters: HashMap::default(),
            notes: BTreeSet::new(),
            now: Moment::default(),
            floors: Floors::default(),
            unsaved: BTreeSet::new(),
            departed: Vec::new(),
            owners,
            max_counters,
        }
    }

    /// Moves the shard to this moment, unless it has seen a later one, and drops a few empty counters, for it is used by so
    /// many charges.
    pub(super) fn advance(&mut self, at: Moment, charges: usize) {
        self.see(at);
        let due_us = self.now.monotonic_us.saturating_sub(IDLE_US);
        self.look(charges.saturating_mul(NOTES_PER_CHARGE), due_us);
    }

    /// Looks at so many due notes, at most, however short a time they have been due.
    pub(super) fn sweep(&mut self, most: usize) {
        self.look(most, self.now.monotonic_us);
    }

    fn look(&mut self, most: usize, due_us: u64) {
        for _ in 0..most {
            if !self.look_at_earliest(due_us) {
                break;
            }
        }
    }

    pub(super) fn holds(&self, key: CounterKey) -> bool {
        self.counters.contains_key(&key)
    }

    /// Asks whether the counter admits `amount`, and counts nothing; `at` is the caller's time. If it does, tells whether
    /// there is such a counter.
    pub(super) fn check(&mut self, key: CounterKey, at: Moment, capacity: u64, amount: u64) -> Result<bool, Wait> {
        let now = self.now;
        let Some(live) = self.counters.get_mut(&key) else {
            return ceiling(capacity, amount).map(|_| false);
        };
        live.counter.advance(now);
        live.counter.check(at, capacity, amount).map(|()| true)
    }

    /// Where the counter stands, or would stand if there were one.
    pub(super) fn figures(&mut self, key: CounterKey, at: Moment, terms: &Terms) -> Figures {
        let now = self.now;
        if let Some(live) = self.counters.get_mut(&key) {
            live.counter.advance(now);
            return live.figures(at, terms.capacity);
        }
        create(terms.span, now, &self.floors).figures(at, terms.capacity)
    }

    /// Drops empty counters until all of `keys` have a place, and tells whether they have.
    pub(super) fn make_room(&mut self, keys: &(impl Iterator<Item = CounterKey> + Clone)) -> bool {
        if self.counters.len().saturating_add(keys.clone().count()) <= self.max_counters {
            return true;
        }
        loop {
            let missing = keys.clone().filter(|key| !self.counters.contains_key(key)).count();
            if missing == 0 || self.counters.len().saturating_add(missing) <= self.max_counters {
                return true;
            }
            if !self.look_at_earliest(self.now.monotonic_us) {
                return false;
            }
        }
    }

    /// Counts `amount`, for which [`check`](Self::check) and [`make_room`](Self::make_room) have found room, and opens a
    /// reservation. A new counter is this owner's.
    pub(super) fn commit(
        &mut self,
        key: CounterKey,
        at: Moment,
        (terms, owner, charge): (&Terms, Owner, &Charge<'_>),
        amount: u64,
    ) -> (Mark, Figures) {
        let now = self.now;
        let live = match self.counters.entry(key) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let mut live = match (terms.span, Budget::of(charge, terms)) {
                    (Span::Calendar(period), Some(budget)) => {
                        let calendar = Calendar::new(period, self.floors.start(period, now.unix_us));
                        Live::of(Written { calendar, budget })
                    }
                    (span, _) => create(span, now, &self.floors),
                };
                (live.owner, live.is_owned) = (owner, true);
                place.insert(live)
            }
        };
        live.counter.advance(now);
        let used_before = live.counter.used();
        let mark = live.counter.take(amount);
        live.moved(&mut self.unsaved, (key, mark), used_before);
        live.reserved = live.reserved.saturating_add(amount);
        live.open = live.open.saturating_add(1);
        (mark, live.figures(at, terms.capacity))
    }

    /// Settles what [`commit`](Self::commit) counted at `mark` as `used`, and closes the reservation; a counter that this
    /// leaves empty may be dropped from now on. No moment: the latest seen. Answers by how many units the counter is over its capacity now
    /// and was not before.
    pub(super) fn settle(
        &mut self,
        key: CounterKey,
        at: Option<Moment>,
        (mark, capacity): (Mark, u64),
        (reserved, used): (u64, u64),
    ) -> u64 {
        if let Some(at) = at {
            self.see(at);
        }
        let now = self.now;
        let Some(live) = self.counters.get_mut(&key) else {
            return 0;
        };
        live.counter.advance(now);
        let used_before = live.counter.used();
        live.counter.settle(now, mark, reserved, used);
        live.moved(&mut self.unsaved, (key, mark), used_before);
        let over = |used: u64| used.saturating_sub(capacity);
        let owed = over(live.counter.used()).saturating_sub(over(used_before));
        live.reserved = live.reserved.saturating_sub(reserved);
        live.open = live.open.saturating_sub(1);
        if live.open == 0 {
            live.note(&mut self.notes, key, now);
        }
        owed
    }

    /// Makes the counter of a budget as it was written, and finds its place among those that will go.
    pub(super) fn restore(&mut self, key: CounterKey, at: Moment, period: Period, stored: &StoredBudget) {
        self.see(at);
        let calendar = Calendar::restored(period, stored.period_end_us, stored.used);
        let budget = Budget::named(stored.name.clone(), stored.period_end_us);
        let mut live: Box<Live> = Live::of(Written { calendar, budget });
        live.note(&mut self.notes, key, self.now);
        self.counters.insert(key, live);
    }

    /// What one calendar counted and nobody took yet.
    pub(super) fn take_unsaved(&mut self, at: Moment) -> Option<BudgetChange> {
        while let Some(change) = self.departed.pop() {
            if at.unix_us < change.period_end_us {
                return Some(change);
            }
        }
        while let Some(key) = self.unsaved.pop_first() {
            let budget = self.counters.get_mut(&key).and_then(|live| live.counter.budget());
            if let Some(change) = budget.and_then(|budget| budget.take(at.unix_us)) {
                return Some(change);
            }
        }
        None
    }

    fn see(&mut self, at: Moment) {
        self.now = Moment { monotonic_us: self.now.monotonic_us.max(at.monotonic_us), unix_us: at.unix_us };
    }

    /// Looks at the counter with the earliest note, if that was due by then. Tells whether it was. While a reservation is open
    /// a counter gets no other note; settling it makes one. Else it is dropped if it is empty, or noted when it will be.
    fn look_at_earliest(&mut self, due_us: u64) -> bool {
        let Some(&(note_us, key)) = self.notes.first() else {
            return false;
        };
        if note_us > due_us {
            return false;
        }
        self.notes.pop_first();
        let Some(live) = self.counters.get_mut(&key) else {
            return true;
        };
        live.note_us = NO_NOTE;
        if live.open > 0 {
            return true;
        }
        if live.counter.clears_at_us(self.now) > self.now.monotonic_us {
            live.note(&mut self.notes, key, self.now);
        } else {
            self.drop_counter(key);
        }
        true
    }

    fn drop_counter(&mut self, key: CounterKey) {
        let Some(mut live) = self.counters.remove(&key) else {
            return;
        };
        if let Some((period, unix_us)) = live.counter.floor() {
            self.floors.raise(period, unix_us);
        }
        if live.is_owned {
            self.owners.leave(live.owner);
        }
        if let Some(budget) = live.counter.budget() {
            self.unsaved.remove(&key);
            self.departed.extend(budget.take(self.now.unix_us));
        }
    }

    /// How many counters are held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        for (key, live) in &self.counters {
            let has_note = live.note_us != NO_NOTE;
            assert_eq!(has_note, self.notes.contains(&(live.note_us, *key)));
            assert!(has_note || live.open > 0, "what is not in use is noted");
        }
        let noted = self.counters.values().filter(|live| live.note_us != NO_NOTE).count();
        assert_eq!(noted, self.notes.len());
        self.counters.len()
    }
}

/// An empty counter of this shape, at this moment.
fn create(span: Span, Moment { monotonic_us, unix_us }: Moment, floors: &Floors) -> Box<Live> {
    match span {
        Span::Window { length_ms } => Live::of(Window::new(length_ms, monotonic_us)),
        Span::Bucket { pace, .. } => Live::of(Bucket::new(pace, monotonic_us)),
        Span::Calendar(period) => Live::of(Calendar::new(period, floors.start(period, unix_us))),
        Span::Concurrent => Live::of(Concurrent::default()),
    }
}

#[cfg(test)]
mod tests;
