//! One shard of the table: counters by key, bounded in number.
//!
//! A counter is dropped when nothing counts in it, and never before. To find such counters without looking at all of
//! them, the shard keeps one note for each: a moment before which something surely counts there. Only counters whose
//! note is due are looked at, and a look either drops the counter or moves its note to the moment at which it will be
//! empty, so the work is paid for by the charges that moved that moment.
//!
//! Whoever calls holds the shard's lock. Nothing here waits or asks the time.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::num::NonZeroU32;

use super::key::{CounterKey, KeyHasher};
use super::window::{self, NoRoom, Slice, Window};

/// How many due notes are looked at whenever the shard is used: more than the one that a charge can add, so that idle
/// counters go even while new ones come.
const NOTES_PER_USE: usize = 2;

/// Some of the counters, and the latest time seen by any of them.
#[derive(Debug)]
pub(super) struct Shard {
    counters: HashMap<CounterKey, Counter, BuildHasherDefault<KeyHasher>>,
    /// Every counter's `note_ms`, earliest first.
    notes: BTreeSet<(u64, CounterKey)>,
    /// The latest time seen. It outlives the counters: a clock that goes back finds a dropped counter no earlier.
    seen_ms: u64,
    max_counters: usize,
}

/// A window and when to look whether it is empty.
#[derive(Debug)]
struct Counter {
    /// Boxed, because growing the map moves its entries while the lock is held.
    window: Box<Window>,
    /// Never later than the window's `clears_at_ms`.
    note_ms: u64,
}

impl Shard {
    /// An empty shard that never holds more than `max_counters`.
    pub(super) fn new(max_counters: usize) -> Self {
        Self { counters: HashMap::default(), notes: BTreeSet::new(), seen_ms: 0, max_counters }
    }

    /// Moves the shard to `now_ms`, unless it has seen a later time, and drops a few empty counters.
    pub(super) fn advance(&mut self, now_ms: u64) {
        self.seen_ms = self.seen_ms.max(now_ms);
        for _ in 0..NOTES_PER_USE {
            if !self.look_at_earliest() {
                break;
            }
        }
    }

    /// Tells whether the counter admits `amount`, and counts nothing; `now_ms` is the caller's time.
    pub(super) fn check(&mut self, key: CounterKey, now_ms: u64, capacity: u64, amount: u64) -> Result<(), NoRoom> {
        let Some(Counter { window, .. }) = self.counters.get_mut(&key) else {
            return window::ceiling(capacity, amount).map(|_| ());
        };
        window.advance(self.seen_ms);
        window.check(now_ms, capacity, amount)
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
            if !self.look_at_earliest() {
                return false;
            }
        }
    }

    /// Counts `amount`, for which [`check`](Self::check) and [`make_room`](Self::make_room) have found room.
    pub(super) fn commit(&mut self, key: CounterKey, length_ms: NonZeroU32, amount: u64) -> Slice {
        if let Some(Counter { window, .. }) = self.counters.get_mut(&key) {
            window.advance(self.seen_ms);
            return window.commit(amount);
        }
        let mut window = Box::new(Window::new(length_ms, self.seen_ms));
        let slice = window.commit(amount);
        let note_ms = window.clears_at_ms();
        self.notes.insert((note_ms, key));
        self.counters.insert(key, Counter { window, note_ms });
        slice
    }

    /// Takes back what [`commit`](Self::commit) counted, and drops the counter if that leaves it empty.
    pub(super) fn give_back(&mut self, key: CounterKey, slice: Slice, amount: u64) {
        let Some(counter) = self.counters.get_mut(&key) else {
            return;
        };
        counter.window.give_back(slice, amount);
        let clears_at_ms = counter.window.clears_at_ms();
        if clears_at_ms < counter.note_ms {
            self.notes.remove(&(counter.note_ms, key));
            self.note_or_drop(key);
        }
    }

    /// Looks at the counter with the earliest note, if that is due. Tells whether it was.
    fn look_at_earliest(&mut self) -> bool {
        let Some(&(note_ms, key)) = self.notes.first() else {
            return false;
        };
        if note_ms > self.seen_ms {
            return false;
        }
        self.notes.pop_first();
        self.note_or_drop(key);
        true
    }

    /// For a counter whose note was taken out: notes when it will be empty, or drops it if it is.
    fn note_or_drop(&mut self, key: CounterKey) {
        let Some(counter) = self.counters.get_mut(&key) else {
            return;
        };
        counter.note_ms = counter.window.clears_at_ms();
        if counter.note_ms > self.seen_ms {
            self.notes.insert((counter.note_ms, key));
        } else {
            self.counters.remove(&key);
        }
    }

    /// How many counters are held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let is_noted = |(key, counter): (&CounterKey, &Counter)| {
            self.notes.contains(&(counter.note_ms, *key)) && counter.note_ms <= counter.window.clears_at_ms()
        };
        assert!(self.counters.iter().all(is_noted) && self.counters.len() == self.notes.len());
        self.counters.len()
    }
}

#[cfg(test)]
mod tests;
