//! State of one policy, shared by its instances: bounded in entries, bytes and age. It outlives a reload, not the process.
//!
//! Counters and values are apart. When one of them is full, its least recently used entry goes.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;

/// Entries of each kind that one policy may keep.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Bytes of values, keys included, that one policy may keep.
const MAX_BYTES: usize = 16 << 20;

/// Counters and values of one policy. Time comes in as monotonic milliseconds.
#[derive(Debug)]
pub(super) struct SharedState {
    counters: Mutex<LruCache<Box<str>, Counter>>,
    values: Mutex<Values>,
    /// What is read where nothing is kept here; it never changes by that.
    beneath: Option<Arc<Self>>,
}

#[derive(Debug)]
struct Counter {
    value: i64,
    ends_ms: Option<u64>,
}

#[derive(Debug)]
struct Values {
    entries: LruCache<Box<str>, Value>,
    bytes: usize,
}

#[derive(Debug)]
struct Value {
    bytes: Box<[u8]>,
    ends_ms: Option<u64>,
}

impl Default for SharedState {
    fn default() -> Self {
        let values = Values { entries: LruCache::new(MAX_ENTRIES), bytes: 0 };
        Self { counters: Mutex::new(LruCache::new(MAX_ENTRIES)), values: Mutex::new(values), beneath: None }
    }
}

impl SharedState {
    /// A state that begins as this one is, and keeps to itself what is written.
    pub(super) fn above(self: &Arc<Self>) -> Self {
        Self { beneath: Some(Arc::clone(self)), ..Self::default() }
    }

    /// Adds to a counter, which starts at 0 and stops at the ends of `i64`; answers its new value.
    pub(super) fn add(&self, key: &str, delta: i64, ttl_ms: u32, now_ms: u64) -> i64 {
        let ends_ms = end(ttl_ms, now_ms);
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get_mut(key) {
            let value = if is_over(counter.ends_ms, now_ms) { 0 } else { counter.value };
            *counter = Counter { value: value.saturating_add(delta), ends_ms };
            return counter.value;
        }
        let value = self.beneath.as_ref().map_or(0, |beneath| beneath.count(key, now_ms)).saturating_add(delta);
        counters.put(key.into(), Counter { value, ends_ms });
        value
    }

    /// What a counter holds; reading it makes it none the younger.
    fn count(&self, key: &str, now_ms: u64) -> i64 {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = counters.peek(key).filter(|counter| !is_over(counter.ends_ms, now_ms));
        counter.map_or(0, |counter| counter.value)
    }

    /// What was last put, likewise.
    fn peek(&self, key: &str, now_ms: u64) -> Option<Vec<u8>> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let value = values.entries.peek(key).filter(|value| !is_over(value.ends_ms, now_ms))?;
        Some(value.bytes.to_vec())
    }

    /// The value last put, if its time has not passed.
    pub(super) fn value(&self, key: &str, now_ms: u64) -> Option<Vec<u8>> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = values.entries.get(key) else {
            return self.beneath.as_ref().and_then(|beneath| beneath.peek(key, now_ms));
        };
        if is_over(value.ends_ms, now_ms) {
            // Above another state it stays: what it took the place of must not be read again.
            if self.beneath.is_none() {
                values.remove(key);
            }
            return None;
        }
        Some(value.bytes.to_vec())
    }

    /// Keeps a value, whose size the caller has checked.
    pub(super) fn put(&self, key: &str, bytes: Vec<u8>, ttl_ms: u32, now_ms: u64) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.remove(key);
        values.bytes += key.len() + bytes.len();
        let value = Value { bytes: bytes.into(), ends_ms: end(ttl_ms, now_ms) };
        if let Some((key, gone)) = values.entries.push(key.into(), value) {
            values.bytes -= key.len() + gone.bytes.len();
        }
        while values.bytes > MAX_BYTES
            && let Some((key, gone)) = values.entries.pop_lru()
        {
            values.bytes -= key.len() + gone.bytes.len();
        }
    }
}

impl Values {
    fn remove(&mut self, key: &str) {
        if let Some(gone) = self.entries.pop(key) {
            self.bytes -= key.len() + gone.bytes.len();
        }
    }
}

fn end(ttl_ms: u32, now_ms: u64) -> Option<u64> {
    (ttl_ms > 0).then(|| now_ms.saturating_add(u64::from(ttl_ms)))
}

fn is_over(ends_ms: Option<u64>, now_ms: u64) -> bool {
    ends_ms.is_some_and(|end| end <= now_ms)
}

/// The state of every policy by name, so that a new version of a policy finds what the old one left.
#[derive(Debug, Default)]
pub(super) struct States(Mutex<HashMap<Arc<str>, Arc<SharedState>>>);

impl States {
    pub(super) fn of(&self, policy: &Arc<str>) -> Arc<SharedState> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(states.entry(Arc::clone(policy)).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_counts_until_its_time_has_passed_since_the_last_write() {
        let state = SharedState::default();
        assert_eq!(state.add("k", 2, 100, 0), 2);
        assert_eq!(state.add("k", 3, 100, 99), 5);
        assert_eq!(state.add("k", 1, 100, 198), 6, "the time counts from the last write");
        assert_eq!(state.add("k", 1, 100, 298), 1, "its time has passed");
        assert_eq!(state.add("k", i64::MAX, 0, 300), i64::MAX, "it stops at the end");
    }

    #[test]
    fn values_and_counters_are_apart_and_values_end() {
        let state = SharedState::default();
        state.add("k", 7, 0, 0);
        assert_eq!(state.value("k", 0), None);
        state.put("k", vec![1], 10, 0);
        assert_eq!((state.value("k", 9), state.value("k", 10)), (Some(vec![1]), None));
        assert_eq!(state.add("k", 0, 0, 0), 7);
    }

    #[test]
    fn a_state_above_another_begins_with_what_that_has_and_keeps_its_own_to_itself() {
        let beneath = Arc::new(SharedState::default());
        beneath.add("n", 5, 100, 0);
        beneath.put("v", vec![1], 100, 0);
        let above = beneath.above();
        assert_eq!((above.add("n", 2, 0, 50), above.add("n", 1, 0, 50), above.add("new", 1, 0, 50)), (7, 8, 1));
        assert_eq!((above.value("v", 50), above.value("v", 100), above.value("w", 0)), (Some(vec![1]), None, None));
        above.put("v", vec![2], 0, 50);
        assert_eq!((above.value("v", 50), beneath.value("v", 50)), (Some(vec![2]), Some(vec![1])));
        above.put("v", vec![3], 10, 60);
        assert_eq!((above.value("v", 75), above.value("v", 75)), (None, None), "what is beneath stays covered");
        assert_eq!((beneath.add("n", 0, 100, 50), beneath.add("new", 0, 0, 50)), (5, 0));
        assert_eq!(beneath.above().add("n", 1, 0, 150), 1, "its time has passed");
    }

    #[test]
    fn the_least_recently_used_entry_goes_when_it_is_full() {
        let state = SharedState::default();
        for at in 0..MAX_ENTRIES.get() {
            state.add(&at.to_string(), 1, 0, 0);
        }
        assert_eq!(state.add("0", 1, 0, 0), 2, "used just now");
        state.add("new", 1, 0, 0);
        assert_eq!(state.add("1", 1, 0, 0), 1, "it was the oldest, and is counted anew");
        assert_eq!(state.add("0", 1, 0, 0), 3);
    }

    #[test]
    fn values_never_hold_more_than_their_bytes() {
        let state = SharedState::default();
        let big = vec![0; 1 << 20];
        for at in 0..20 {
            state.put(&format!("k{at:02}"), big.clone(), 0, 0);
        }
        let kept = (0..20).filter(|at| state.value(&format!("k{at:02}"), 0).is_some()).count();
        assert_eq!(kept, 15, "sixteen of a MiB and a key each are too many");
        assert!(state.values.lock().unwrap().bytes <= MAX_BYTES);
    }
}
