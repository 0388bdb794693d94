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
    /// Places that are taken; whoever adds a limit takes one first.
    taken: AtomicUsize,
}

impl LimitRefusals {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family = Family::<Labels, Counter>::default();
        let help = "Calls refused, by the limit that had no room for the longest time; beyond 100 limits: other";
        registry.register("limit_refusals", help, family.clone());
        Self { family, known: Few::default(), taken: AtomicUsize::new(0) }
    }

    pub(super) fn note(&self, policy: &str, limit: &str) {
        let named = |known: &Labels| *known.policy == *policy && *known.limit == *limit;
        if !self.known.has(named) && !self.takes_place() {
            self.family.get_or_create(&Labels { policy: OTHER.into(), limit: OTHER.into() }).inc();
            return;
        }
        let make = || {
            let labels = Labels { policy: policy.into(), limit: limit.into() };
            let counter = self.family.get_or_create(&labels).clone();
            (labels, counter)
        };
        self.known.with(named, make, Counter::inc);
    }

    /// Takes a place for one limit more, if there is one. Two threads that meet the same new limit at once take two: then
    /// fewer are told apart, and never more.
    fn takes_place(&self) -> bool {
        let more = |taken: usize| (taken < MOST_LIMITS).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

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

    #[test]
    fn the_bound_holds_however_many_meet_new_limits_at_once() {
        let refusals = LimitRefusals::register(&mut Registry::default());
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (refusals, barrier) = (&refusals, &barrier);
                scope.spawn(move || {
                    for n in 0..MOST_LIMITS {
                        barrier.wait();
                        refusals.note("p", &format!("{thread}-{n}"));
                    }
                });
            }
        });
        let mut text = String::new();
        let mut registry = Registry::default();
        registry.register("r", "r", refusals.family.clone());
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert_eq!(text.matches("r_total{").count(), MOST_LIMITS + 1, "{text}");
    }
}
