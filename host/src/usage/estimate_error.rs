//! How far off the estimates were: tokens that calls took beyond what was expected of them, which is owed to the limits, and
//! tokens that were expected and not taken.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::metrics::Direction;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: &'static str,
    kind: &'static str,
}

/// The sums of one direction.
#[derive(Clone, Debug)]
struct Sums {
    owed: Counter,
    spare: Counter,
}

/// The sums of both directions; written without a lock.
#[derive(Debug)]
pub(super) struct EstimateError {
    input: Sums,
    output: Sums,
}

impl EstimateError {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family = Family::<Labels, Counter>::default();
        let sum = |direction: Direction, kind| {
            let labels = Labels { direction: direction.as_str(), kind };
            family.get_or_create(&labels).clone()
        };
        let sums = |direction| Sums { owed: sum(direction, "owed"), spare: sum(direction, "spare") };
        let (input, output) = (sums(Direction::Input), sums(Direction::Output));
        let help = "Tokens that calls took beyond their estimate (owed), or fewer than that (spare)";
        registry.register("estimate_error_tokens", help, family);
        Self { input, output }
    }

    pub(super) fn note(&self, direction: Direction, expected: u32, used: u64) {
        let sums = match direction {
            Direction::Input => &self.input,
            Direction::Output => &self.output,
        };
        let expected = u64::from(expected);
        if used > expected {
            sums.owed.inc_by(used - expected);
        } else if used < expected {
            sums.spare.inc_by(expected - used);
        }
    }
}
