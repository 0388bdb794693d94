//! Metrics of few label sets, found without a lock and without hashing: on the path of every call both would cost more than
//! the counting.

use arc_swap::ArcSwap;

/// The metrics of all label sets that were seen, in the order in which they came.
#[derive(Debug)]
pub(super) struct Few<L, M>(ArcSwap<Vec<(L, M)>>);

impl<L, M> Default for Few<L, M> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<L: Clone, M: Clone> Few<L, M> {
    /// Whether the label set was seen that `is` tells.
    pub(super) fn has(&self, is: impl Fn(&L) -> bool) -> bool {
        self.0.load().iter().any(|(labels, _)| is(labels))
    }

    /// Does something with the metric of the label set that `is` tells; the first time with the one that is made.
    pub(super) fn with<T>(
        &self,
        is: impl Fn(&L) -> bool,
        make: impl FnOnce() -> (L, M),
        act: impl FnOnce(&M) -> T,
    ) -> T {
        let known = self.0.load();
        if let Some((_, metric)) = known.iter().find(|(labels, _)| is(labels)) {
            return act(metric);
        }
        let made = make();
        self.0.rcu(|known| {
            let mut more = Vec::clone(known);
            // Two threads may have made it: they have made the same one.
            if !more.iter().any(|(labels, _)| is(labels)) {
                more.push(made.clone());
            }
            more
        });
        act(&made.1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn each_label_set_has_one_metric_whoever_asks_first() {
        let few = Few::<u8, Arc<AtomicU32>>::default();
        let shared = Arc::new([AtomicU32::new(0), AtomicU32::new(0)].map(Arc::new));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..1000_u32 {
                        let label = u8::try_from(turn % 2).unwrap();
                        let make = || (label, Arc::clone(&shared[usize::from(label)]));
                        few.with(|known| *known == label, make, |count| count.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
        assert_eq!(few.0.load().len(), 2);
        assert_eq!(shared.each_ref().map(|count| count.load(Ordering::Relaxed)), [2000, 2000]);
    }
}
