//! Warm instances of one policy, kept by the threads that use them.
//!
//! Each thread has a shelf of its own, so its lock is free in practice and its memory warm in the cache. The shelves belong
//! to the policy, not to the thread: when a generation goes, all of its instances go with it.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::instance::Instance;

/// Shelves of a pool; with more threads than this, some share one.
const SHELVES: usize = 64;
/// Instances kept on a shelf: a thread needs one, those that share a shelf a few.
const KEPT: usize = 4;

thread_local! {
    static SHELF: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Numbers threads in the order in which they first ask for an instance.
static NEXT_SHELF: AtomicUsize = AtomicUsize::new(0);

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

    fn shelf(&self) -> Option<&Shelf> {
        let at = SHELF.with(|shelf| match shelf.get() {
            Some(at) => at,
            None => {
                let at = NEXT_SHELF.fetch_add(1, Ordering::Relaxed) % SHELVES;
                shelf.set(Some(at));
                at
            }
        });
        self.shelves.get(at)
    }
}
