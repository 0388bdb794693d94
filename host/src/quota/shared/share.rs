//! What a gate does while it can't ask Redis: this gate's share of each limit, everything, or nothing.
//!
//! Pure. A share is rounded down, so that all gates' shares together never pass the limit.

use std::num::NonZeroU32;

use crate::policy::{Amount, Rule, Shape};

/// What a gate does while it can't ask Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Each gate holds its share of every limit by itself.
    #[default]
    LocalShare,
    /// No limit holds.
    Open,
    /// No call that is charged passes.
    Closed,
}

/// What is done with one call while Redis can't be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Reserve these rules, one for each charge in its order, in this gate's memory.
    Share(Vec<Rule>),
    /// Let it pass.
    Admit,
    /// Refuse it.
    Refuse(WhyClosed),
}

/// Why a call is refused while Redis can't be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyClosed {
    /// It is configured so.
    #[error("calls with limits are then refused, as configured")]
    Configured,
    /// Nobody knows among how many gates the limits are shared.
    #[error("nobody knows among how many gates the limits are shared: set redis.replicas")]
    ReplicasUnknown,
    /// This gate's share of the charge at this place is less than one unit.
    #[error("this gate's share of the charge at place {0} is less than one unit")]
    NoShare(usize),
}

/// Decides about a call with these rules. `replicas` is the configured number, or the last one known.
pub fn fall_back(mode: Mode, replicas: Option<NonZeroU32>, rules: impl IntoIterator<Item = Rule>) -> Fallback {
    match (mode, replicas) {
        (Mode::Open, _) => Fallback::Admit,
        (Mode::Closed, _) => Fallback::Refuse(WhyClosed::Configured),
        (Mode::LocalShare, None) => Fallback::Refuse(WhyClosed::ReplicasUnknown),
        (Mode::LocalShare, Some(replicas)) => {
            let mut shares = Vec::new();
            for (place, rule) in rules.into_iter().enumerate() {
                match share(rule, replicas) {
                    Some(rule) => shares.push(rule),
                    None => return Fallback::Refuse(WhyClosed::NoShare(place)),
                }
            }
            Fallback::Share(shares)
        }
    }
}

/// One gate's share of a rule; none when it is less than one unit. A bucket refills as much slower as it is smaller.
pub fn share(rule: Rule, replicas: NonZeroU32) -> Option<Rule> {
    let part = |units: u64| Some(units / u64::from(replicas.get())).filter(|part| *part > 0);
    let metered = |amount: Amount, shape| Rule::Metered { amount, shape };
    match rule {
        Rule::Concurrent(most) => Some(Rule::Concurrent(u32::try_from(part(u64::from(most))?).ok()?)),
        Rule::Metered { amount, shape: Shape::Window { capacity, length_ms } } => {
            Some(metered(amount, Shape::Window { capacity: part(capacity)?, length_ms }))
        }
        Rule::Metered { amount, shape: Shape::Calendar { capacity, period } } => {
            Some(metered(amount, Shape::Calendar { capacity: part(capacity)?, period }))
        }
        Rule::Metered { amount, shape: Shape::Bucket { burst, refill, every_ms } } => {
            let burst = part(burst)?;
            match every_ms.checked_mul(replicas.get()) {
                Some(every_ms) => Some(metered(amount, Shape::Bucket { burst, refill, every_ms })),
                None => Some(metered(amount, Shape::Bucket { burst, refill: part(refill)?, every_ms })),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Period;

    const REQUEST: Amount = Amount::Requests(1);

    fn check(shape: Shape, replicas: u32, expected: Option<Shape>) {
        let rule = Rule::Metered { amount: REQUEST, shape };
        let expected = expected.map(|shape| Rule::Metered { amount: REQUEST, shape });
        assert_eq!(share(rule, NonZeroU32::new(replicas).unwrap()), expected);
    }

    #[test]
    fn shares_are_rounded_down_and_a_bucket_refills_slower() {
        let window = |capacity| Shape::Window { capacity, length_ms: 60_000 };
        let month = |capacity| Shape::Calendar { capacity, period: Period::Month };
        let bucket = |burst, refill, every_ms| Shape::Bucket { burst, refill, every_ms };
        check(window(100), 3, Some(window(33)));
        check(window(2), 3, None);
        check(window(0), 1, None);
        check(month(10), 10, Some(month(1)));
        check(bucket(10, 5, 1_000), 3, Some(bucket(3, 5, 3_000)));
        check(bucket(10, 9, u32::MAX), 3, Some(bucket(3, 3, u32::MAX)));
        check(bucket(10, 2, u32::MAX), 3, None);
        let three = NonZeroU32::new(3).unwrap();
        assert_eq!(share(Rule::Concurrent(7), three), Some(Rule::Concurrent(2)));
        assert_eq!(share(Rule::Concurrent(2), three), None);
    }

    #[test]
    fn each_mode_does_as_it_says() {
        let rules = [Rule::Concurrent(4), Rule::Concurrent(1)];
        let two = NonZeroU32::new(2);
        assert_eq!(fall_back(Mode::Open, None, rules), Fallback::Admit);
        assert_eq!(fall_back(Mode::Closed, two, rules), Fallback::Refuse(WhyClosed::Configured));
        assert_eq!(fall_back(Mode::LocalShare, None, rules), Fallback::Refuse(WhyClosed::ReplicasUnknown));
        assert_eq!(fall_back(Mode::LocalShare, two, rules), Fallback::Refuse(WhyClosed::NoShare(1)));
        assert_eq!(fall_back(Mode::LocalShare, two, [Rule::Concurrent(4)]), Fallback::Share(vec![Rule::Concurrent(2)]));
    }
}
