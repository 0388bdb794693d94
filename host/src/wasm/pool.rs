//! Warm instances of one policy, kept by the threads that use them.
//!
//! Each thread has a shelf of its own, so its lock is free in practice and its memory warm in the cache. The shelves belong
//! to the policy, not to the thread: when a generation goes, all of its instances go with it.

use std::{
    cell::OnceCell,
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use super::instance::Instance;

/// Shelves of a pool; with more threads than this, some share one.
const SHELVES: usize = 64;
/// Instances kept on a shelf: a thread needs one, those that share a shelf a few.
const KEPT: usize = 4;

thread_local! {
    static SHELF: OnceCell<Number> = const { OnceCell::new() };
}

/// A thread's number, which another thread gets when this one has ended: workers come and go where one of them hands its
/// calls over, and instances on shelves of threads that are gone would serve nobody.
struct Number(usize);

/// Numbers that no thread has: those given back, and all from `next` on.
struct Numbers {
    given_back: BTreeSet<usize>,
    next: usize,
}

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { given_back: BTreeSet::new(), next: 0 });

impl Number {
    fn take() -> Self {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = numbers.given_back.pop_first();
        Self(number.unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        }))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).given_back.insert(self.0);
    }
}

/// The instances of one policy that are free.
pub(super) struct Pool {
    shelves: [Shelf; SHELVES],
    /// Made ahead, for threads that have none yet.
    stock: Shelf,
}

impl Default for Pool {
    fn default() -> Self {
        Self { shelves: std::array::from_fn(|_| Mutex::default()), stock: Mutex::default() }
    }
}

type Shelf = Mutex<Vec<Instance>>;

impl Pool {
    pub(super) fn take(&self) -> Option<Instance> {
        let own = self.shelf().and_then(|shelf| shelf.lock().unwrap_or_else(PoisonError::into_inner).pop());
        own.or_else(|| self.stock.lock().unwrap_or_else(PoisonError::into_inner).pop())
    }

    /// Keeps an instance for whichever thread needs one first.
    pub(super) fn stock(&self, instance: Instance) {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
    }

    /// Keeps an instance for later; gives back one that finds no room.
    pub(super) fn keep(&self, instance: Instance) -> Option<Instance> {
        let Some(shelf) = self.shelf() else { return Some(instance) };
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.len() >= KEPT {
            return Some(instance);
        }
        shelf.push(instance);
        None
    }

    /// Gives back all that is free.
    pub(super) fn empty(&self) -> Vec<Instance> {
        let shelves = self.shelves.iter().chain([&self.stock]);
        shelves.flat_map(|shelf| std::mem::take(&mut *shelf.lock().unwrap_or_else(PoisonError::into_inner))).collect()
    }

    /// The thread's own; none while it ends.
    fn shelf(&self) -> Option<&Shelf> {
        let number = SHELF.try_with(|shelf| shelf.get_or_init(Number::take).0).ok()?;
        self.shelves.get(number % SHELVES)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_that_come_and_go_have_no_more_shelves_than_there_are_threads_at_once() {
        let number = || SHELF.with(|shelf| shelf.get_or_init(Number::take).0);
        let numbers: BTreeSet<usize> = (0..100).map(|_| thread::spawn(number).join().unwrap()).collect();
        // Other tests of this process have threads of their own.
        assert!(numbers.len() < 50, "{numbers:?}");
        let own = number();
        assert_eq!(number(), own, "a thread keeps its number");
        assert_ne!(thread::spawn(number).join().unwrap(), own, "no two threads have one");
    }
}
