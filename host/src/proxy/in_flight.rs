//! How many calls run at a time, over all connections.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The running calls.
#[derive(Debug)]
pub(super) struct InFlight {
    running: Arc<AtomicUsize>,
    most: usize,
}

/// One running call; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl InFlight {
    pub(super) fn new(most: usize) -> Self {
        Self { running: Arc::default(), most }
    }

    /// A place for one more call, if there is one.
    pub(super) fn enter(&self) -> Option<Place> {
        let one_more = |running| (running < self.most).then_some(running + 1);
        let entered = self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        entered.ok().map(|_| Place(Arc::clone(&self.running)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_given_once_and_again_when_a_call_is_over() {
        let calls = InFlight::new(2);
        let (first, second) = (calls.enter(), calls.enter());
        assert!(first.is_some() && second.is_some());
        assert!(calls.enter().is_none());
        assert!(calls.enter().is_none(), "a call that was refused takes no place");
        drop(first);
        assert!(calls.enter().is_some());
    }
}
