//! The counters that a call's charges name, as Redis knows them: a hashed name, the numbers of the shape, and what is
//! asked.
//!
//! Pure. A name is 128 bits of SHA-256 over its parts, each behind its length, so that all gates agree on it and no
//! partition stands in Redis in clear. Capacity, burst and weight are no part of it: when they change, what was
//! counted still counts. Every number handed on is at most [`MOST_UNITS`].

use aws_lc_rs::digest::{Context, SHA256};
use smallvec::SmallVec;

use crate::policy::{MOST_UNITS, Period, TokenKind};
use crate::ports::budgets::{BudgetName, StoredBudget};
use crate::quota::budget::{self, kept_partition};
use crate::quota::charge::{Span, Terms};
use crate::quota::window;
use crate::quota::{Charge, MAX_CHARGES, Outcome, Refused, Tokens, Unit};

const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];

/// Which arithmetic the script applies; the letter it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Window,
    Bucket,
    Calendar,
    Leases,
}

impl Kind {
    pub(super) fn letter(self) -> &'static str {
        match self {
            Self::Window => "w",
            Self::Bucket => "b",
            Self::Calendar => "c",
            Self::Leases => "n",
        }
    }
}

/// The numbers of a shape, as the script takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub(super) kind: Kind,
    /// Most units; of a bucket, in its finest part.
    pub(super) bound: u64,
    /// A window's length in µs; a bucket's cost of a unit; a calendar's period.
    pub(super) first: u64,
    /// The width of a window's slice in µs; what leaks from a bucket in each µs.
    pub(super) second: u64,
}

/// One counter, and what a call asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    /// 32 hexadecimal digits.
    pub(super) name: Name,
    pub(super) numbers: Numbers,
    /// Units reserved.
    pub(super) amount: u64,
    pub(super) terms: Terms,
}

/// The hash of a counter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name([u8; 16]);

impl Name {
    /// Appends the name in hexadecimal.
    pub(super) fn write(self, text: &mut String) {
        for byte in self.0 {
            for digit in [byte >> 4, byte & 15] {
                text.extend(HEX.get(usize::from(digit)));
            }
        }
    }
}

impl Counter {
    /// The counter that a charge names, and what the call asks of it.
    pub(super) fn of(charge: &Charge<'_>, expected: Tokens) -> Result<Self, Refused> {
        let terms = Terms::of(&charge.rule).map_err(|wrong| Refused::BadRule {
            policy: charge.policy.to_owned(),
            limit: charge.limit.to_owned(),
            wrong,
        })?;
        let numbers = numbers(&terms);
        Ok(Self { name: name(charge, &terms, numbers), numbers, amount: terms.settling.reserves(expected), terms })
    }

    /// Units that this counter is charged in the end.
    pub(super) fn settled(&self, outcome: Outcome) -> u64 {
        self.terms.settling.uses(self.amount, outcome)
    }
}

/// The counters of all charges of a call, in their order.
pub(super) fn counters(charges: &[Charge<'_>], expected: Tokens) -> Result<SmallVec<[Counter; 4]>, Refused> {
    if charges.len() > MAX_CHARGES {
        return Err(Refused::TooMany { count: charges.len() });
    }
    let mut counters: SmallVec<[Counter; 4]> = SmallVec::with_capacity(charges.len());
    for charge in charges {
        let counter = Counter::of(charge, expected)?;
        if counters.iter().any(|other| other.name == counter.name) {
            let (policy, limit) = (charge.policy.to_owned(), charge.limit.to_owned());
            return Err(Refused::Repeated { policy, limit });
        }
        counters.push(counter);
    }
    Ok(counters)
}

/// The counter of a budget as it is written, with the end of its period among its numbers, and its units; none where its
/// words are of another version.
pub(super) fn written(budget: &StoredBudget) -> Option<(Name, Numbers, u64)> {
    let BudgetName { policy, limit, partition, .. } = &budget.name;
    let (rule, _) = budget::rule(&budget.name)?;
    let counter = Counter::of(&Charge { policy, limit, partition, rule }, Tokens::default()).ok()?;
    Some((counter.name, Numbers { second: budget.period_end_us, ..counter.numbers }, budget.used))
}

fn numbers(terms: &Terms) -> Numbers {
    let (kind, bound, first, second) = match terms.span {
        Span::Concurrent => (Kind::Leases, terms.capacity, 0, 0),
        Span::Window { length_ms } => {
            let (length_us, width_us) = window::measures(length_ms);
            (Kind::Window, terms.capacity, length_us.get(), width_us.get())
        }
        // Nothing that a bucket holds is left after a microsecond in which the most of units leaks.
        Span::Bucket { pace, .. } => {
            (Kind::Bucket, pace.shares(terms.capacity), pace.cost(), pace.leak().min(MOST_UNITS))
        }
        Span::Calendar(period) => {
            let period = match period {
                Period::Hour => 1,
                Period::Day => 2,
                Period::Week => 3,
                Period::Month => 4,
            };
            (Kind::Calendar, terms.capacity, period, 0)
        }
    };
    Numbers { kind, bound, first, second }
}

fn name(charge: &Charge<'_>, terms: &Terms, numbers: Numbers) -> Name {
    let unit = match terms.settling.unit() {
        Unit::Requests => "requests",
        Unit::Tokens(TokenKind::Input) => "input",
        Unit::Tokens(TokenKind::Output) => "output",
        Unit::Tokens(TokenKind::All) => "tokens",
        Unit::Calls => "calls",
    };
    let mut hash = Context::new(&SHA256);
    // As it is written down, so that what was written finds the counter.
    let partition = match numbers.kind {
        Kind::Calendar => kept_partition(charge.partition),
        Kind::Window | Kind::Bucket | Kind::Leases => charge.partition.into(),
    };
    for part in [charge.policy, charge.limit, &partition, unit, numbers.kind.letter()] {
        hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let (one, other) = match terms.span {
        // As the policy names them: half of both is the same rate, but another counter.
        Span::Bucket { refill, every_ms, .. } => (refill.get(), u64::from(every_ms.get())),
        Span::Window { .. } | Span::Calendar(_) | Span::Concurrent => (numbers.first, numbers.second),
    };
    hash.update(&one.to_le_bytes());
    hash.update(&other.to_le_bytes());
    let mut name = [0; 16];
    name.iter_mut().zip(hash.finish().as_ref()).for_each(|(byte, hashed)| *byte = *hashed);
    Name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Amount, Rule, Shape};

    const WINDOW: Shape = Shape::Window { capacity: 10, length_ms: 60_000 };
    const ALL_TOKENS: Amount = Amount::Tokens { kind: TokenKind::All, weight_permille: 1_500 };

    fn charge<'a>(limit: &'a str, partition: &'a str, amount: Amount, shape: Shape) -> Charge<'a> {
        Charge { policy: "p", limit, partition, rule: Rule::Metered { amount, shape } }
    }

    fn counter(charge: &Charge<'_>) -> Counter {
        Counter::of(charge, Tokens { input: 3, output: 4 }).unwrap()
    }

    #[test]
    fn every_part_of_the_name_makes_another_counter_and_its_capacity_does_not() {
        let bucket = |refill, every_ms| Shape::Bucket { burst: 10, refill, every_ms };
        let month = Shape::Calendar { capacity: 10, period: Period::Month };
        let input = Amount::Tokens { kind: TokenKind::Input, weight_permille: 1_000 };
        let mut names: Vec<_> = [
            charge("l", "x", Amount::Requests(1), WINDOW),
            charge("l", "y", Amount::Requests(1), WINDOW),
            charge("lx", "", Amount::Requests(1), WINDOW),
            charge("", "lx", Amount::Requests(1), WINDOW),
            charge("l", "x", ALL_TOKENS, WINDOW),
            charge("l", "x", input, WINDOW),
            charge("l", "x", Amount::Requests(1), Shape::Window { capacity: 10, length_ms: 60_001 }),
            charge("l", "x", Amount::Requests(1), bucket(1, 60_000)),
            charge("l", "x", Amount::Requests(1), bucket(2, 120_000)),
            charge("l", "x", Amount::Requests(1), month),
            Charge { policy: "p", limit: "l", partition: "x", rule: Rule::Concurrent(3) },
        ]
        .iter()
        .map(|charge| counter(charge).name)
        .collect();
        let first = names[0];
        assert_eq!(
            first,
            counter(&charge("l", "x", Amount::Requests(7), Shape::Window { capacity: 99, length_ms: 60_000 })).name
        );
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_name_is_the_same_in_every_gate() {
        let mut text = String::new();
        counter(&charge("l", "x", Amount::Requests(1), WINDOW)).name.write(&mut text);
        assert_eq!(text, "f4b75a95b1c6d76570fd0d164e2ec8bf");
    }

    #[test]
    fn what_is_written_of_a_budget_leads_to_its_counter() {
        let long = "x".repeat(65);
        let input = Amount::Tokens { kind: TokenKind::Input, weight_permille: 1_500 };
        for partition in ["", "k1", &long] {
            for (amount, period) in [(Amount::Requests(2), Period::Hour), (input, Period::Week)] {
                let charge = charge("l", partition, amount, Shape::Calendar { capacity: 10, period });
                let counter = counter(&charge);
                let name = budget::name(&charge, &counter.terms).unwrap();
                let stored = StoredBudget { name: name.clone(), period_end_us: 77, used: 5 };
                let numbers = Numbers { second: 77, bound: 0, ..counter.numbers };
                assert_eq!(written(&stored), Some((counter.name, numbers, 5)));
                let name = BudgetName { period: "year".into(), ..name };
                assert_eq!(written(&StoredBudget { name, period_end_us: 77, used: 5 }), None);
            }
        }
    }

    #[test]
    fn tokens_are_weighed_and_rounded_up_and_never_pass_the_most() {
        let tokens = counter(&charge("l", "x", ALL_TOKENS, WINDOW));
        assert_eq!(tokens.amount, 11);
        assert_eq!(tokens.settled(Outcome::RequestOnly), 0);
        assert_eq!(tokens.settled(Outcome::Used(Tokens { input: 1, output: 0 })), 2);
        assert_eq!(tokens.settled(Outcome::Used(Tokens { input: u64::MAX, output: 1 })), MOST_UNITS);
        let requests = counter(&charge("l", "x", Amount::Requests(2), WINDOW));
        assert_eq!((requests.settled(Outcome::RequestOnly), requests.settled(Outcome::Refund)), (2, 0));
    }

    #[test]
    fn a_bucket_counts_in_its_finest_part_and_is_refused_when_that_is_too_fine() {
        let fine = |burst, refill| {
            let charge = charge("l", "x", Amount::Requests(1), Shape::Bucket { burst, refill, every_ms: 1 });
            Counter::of(&charge, Tokens::default())
                .map(|counter| (counter.numbers.bound, counter.numbers.first, counter.numbers.second))
        };
        assert_eq!(fine(10, 400), Ok((50, 5, 2)));
        assert!(matches!(fine(MOST_UNITS, 1), Err(Refused::BadRule { .. })));
        assert!(matches!(fine(1, 0), Err(Refused::BadRule { .. })));
    }

    #[test]
    fn a_counter_named_twice_is_a_bad_answer() {
        let one = charge("l", "x", Amount::Requests(1), WINDOW);
        assert!(matches!(counters(&[one, one], Tokens::default()), Err(Refused::Repeated { .. })));
        assert!(matches!(counters(&[one; 33], Tokens::default()), Err(Refused::TooMany { count: 33 })));
    }
}
