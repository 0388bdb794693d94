//! Budgets that are written down and restored.

use super::{
    super::{Moment, Outcome, Quota, QuotaBounds, Refused, Tokens},
    *,
};
use crate::ports::budgets::StoredBudget;

const DAY_US: u64 = 86_400_000_000;

fn at(unix_us: u64) -> Moment {
    Moment { monotonic_us: unix_us, unix_us }
}

fn charge(partition: &str, period: Period) -> Charge<'_> {
    let amount = Amount::Tokens { kind: TokenKind::All, weight_permille: 1_000 };
    let rule = Rule::Metered { amount, shape: Shape::Calendar { capacity: 100, period } };
    Charge { policy: "rate-limit", limit: "tokens", partition, rule }
}

fn tokens(output: u64) -> Tokens {
    Tokens { input: 0, output }
}

fn table() -> Arc<Quota> {
    Arc::new(Quota::new(QuotaBounds::default()))
}

fn taken(quota: &Quota, at: Moment) -> Vec<BudgetChange> {
    let mut taken = quota.take_unsaved_budgets(at, 100);
    taken.sort_by(|one, other| one.name.partition.cmp(&other.name.partition));
    taken
}

/// The only change: units, and the period's end.
fn one(quota: &Quota, at: Moment) -> Option<(i64, u64)> {
    match taken(quota, at).as_slice() {
        [] => None,
        [change] => Some((change.units, change.period_end_us)),
        more => panic!("{more:?}"),
    }
}

#[test]
fn what_moves_is_taken_once_and_what_comes_to_nothing_not_at_all() {
    let quota = table();
    let charges = [charge("k1", Period::Day)];
    let first = quota.reserve(at(1), "k1", &charges, tokens(30)).unwrap();
    assert_eq!(one(&quota, at(1)), Some((30, DAY_US)));
    assert_eq!(one(&quota, at(1)), None);
    first.settle(at(2), Outcome::Used(tokens(12)));
    assert_eq!(one(&quota, at(2)), Some((-18, DAY_US)));
    drop(quota.reserve(at(3), "k1", &charges, tokens(5)).unwrap());
    assert_eq!(one(&quota, at(3)), None, "taken and given back");
}

#[test]
fn a_counter_that_is_dropped_leaves_what_it_gave_back() {
    let quota = table();
    let charges = [charge("k1", Period::Day)];
    let first = quota.reserve(at(1), "k1", &charges, tokens(30)).unwrap();
    assert_eq!(one(&quota, at(1)), Some((30, DAY_US)));
    first.settle(at(2), Outcome::Refund);
    assert_eq!(one(&quota, at(2)), Some((-30, DAY_US)));
    assert_eq!(one(&quota, at(2)), None);
}

#[test]
fn what_is_left_of_a_period_that_is_over_is_not_told() {
    let quota = table();
    let charges = [charge("k1", Period::Day)];
    quota.reserve(at(1), "k1", &charges, tokens(30)).unwrap().settle(at(1), Outcome::Used(tokens(30)));
    let later = quota.reserve(at(DAY_US), "k1", &charges, tokens(4)).unwrap();
    assert_eq!(one(&quota, at(DAY_US)), Some((4, 2 * DAY_US)));
    drop(later);
    assert_eq!(one(&quota, at(2 * DAY_US)), None);
}

#[test]
fn no_more_are_taken_than_asked_for_and_the_others_stay() {
    let quota = table();
    let keys: Vec<String> = (0..10).map(|n| format!("k{n}")).collect();
    for key in &keys {
        let reserved = quota.reserve(at(1), key, &[charge(key, Period::Month)], tokens(1)).unwrap();
        reserved.settle(at(1), Outcome::Used(tokens(1)));
    }
    let few = quota.take_unsaved_budgets(at(1), 3).len();
    assert_eq!((few, taken(&quota, at(1)).len()), (3, 7));
}

#[test]
fn other_shapes_leave_nothing() {
    let quota = table();
    let window = Rule::Metered { amount: Amount::Requests(1), shape: Shape::Window { capacity: 5, length_ms: 60_000 } };
    let charges = [window, Rule::Concurrent(3)].map(|rule| Charge { rule, ..charge("k1", Period::Day) });
    let _running = quota.reserve(at(1), "k1", &charges, tokens(1)).unwrap();
    assert_eq!(one(&quota, at(1)), None);
}

#[test]
fn a_table_that_takes_over_what_another_wrote_goes_on_from_there() {
    let long = "x".repeat(65);
    for partition in ["k1", long.as_str(), ""] {
        for period in [Period::Hour, Period::Day, Period::Week, Period::Month] {
            let (before, after) = (table(), table());
            let charges = [charge(partition, period)];
            before.reserve(at(1), "k1", &charges, tokens(90)).unwrap().settle(at(1), Outcome::Used(tokens(90)));
            let change = taken(&before, at(1)).pop().unwrap();
            assert!(change.name.partition.len() <= 64);
            assert!(!format!("{change:?}").contains(&*change.name.partition) || partition.is_empty());
            let used = u64::try_from(change.units).unwrap();
            let stored = StoredBudget { name: (*change.name).clone(), period_end_us: change.period_end_us, used };
            assert!(after.restore(at(2), &stored));
            let refused = after.reserve(at(2), "k1", &charges, tokens(11)).unwrap_err();
            assert!(matches!(refused, Refused::Exceeded(_)), "{period:?}");
            let fits = after.reserve(at(2), "k1", &charges, tokens(10)).unwrap();
            assert_eq!(one(&after, at(2)).map(|(units, _)| units), Some(10), "only what is new is told");
            fits.settle(at(3), Outcome::Refund);
            let next = at(change.period_end_us);
            assert!(after.reserve(next, "k1", &charges, tokens(100)).is_ok(), "a new period starts anew");
        }
    }
}

#[test]
fn words_of_another_version_are_not_guessed_at() {
    let quota = table();
    quota.reserve(at(1), "k1", &[charge("k1", Period::Day)], tokens(9)).unwrap().settle(at(1), Outcome::RequestOnly);
    let _running = quota.reserve(at(1), "k1", &[charge("k1", Period::Day)], tokens(9)).unwrap();
    let name = (*taken(&quota, at(1)).pop().unwrap().name).clone();
    for (unit, period, is_known) in [("tokens", "day", true), ("tokens", "year", false), ("calls", "day", false)] {
        let name = BudgetName { unit: unit.into(), period: period.into(), ..name.clone() };
        assert_eq!(table().restore(at(1), &StoredBudget { name, period_end_us: DAY_US, used: 1 }), is_known, "{unit}");
    }
}
