//! Which limits refuse calls. Policies name them, so that there is a bound on how many are told apart.

use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering::Relaxed};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::few::Few;

/// Most limits that have a counter of their own; all others share one.
const MOST_LIMITS: usize = 100;
const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    policy: Arc<str>,
    limit: Arc<str>,
}

/// A counter for each limit that refused a call.
#[derive(Debug)]
pub(super) struct LimitRefusals {
    family: Family<Labels, Counter>,
    known: Few<Labels, Counter>,
    count: AtomicUsize,
}

impl LimitRefusals {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family = Family::<Labels, Counter>::default();
        let help = "Calls refused, by the limit that had no room for the longest time; beyond 100 limits: other";
        registry.register("limit_refusals", help, family.clone());
        Self { family, known: Few::default(), count: AtomicUsize::new(0) }
    }

    pub(super) fn note(&self, policy: &str, limit: &str) {
        let named = |known: &Labels| *known.policy == *policy && *known.limit == *limit;
        if self.count.load(Relaxed) >= MOST_LIMITS && !self.known.has(named) {
            self.family.get_or_create(&Labels { policy: OTHER.into(), limit: OTHER.into() }).inc();
            return;
        }
        let make = || {
            self.count.fetch_add(1, Relaxed);
            let labels = Labels { policy: policy.into(), limit: limit.into() };
            let counter = self.family.get_or_create(&labels).clone();
            (labels, counter)
        };
        self.known.with(named, make, Counter::inc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_apart_up_to_a_bound() {
        let refusals = LimitRefusals::register(&mut Registry::default());
        for _ in 0..2 {
            for n in 0..MOST_LIMITS + 7 {
                refusals.note("p", &n.to_string());
            }
        }
        let count = |policy: &str, limit: &str| {
            refusals.family.get_or_create(&Labels { policy: policy.into(), limit: limit.into() }).get()
        };
        assert_eq!((count("p", "0"), count("p", "99"), count(OTHER, OTHER)), (2, 2, 14));
    }
}
