//! Reservations of several charges, by one thread and by many.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::{
    policy::{Amount, MOST_UNITS, Rule, Shape},
    quota::Outcome,
};

const MS: u64 = 1_000;
const NOBODY: Tokens = Tokens { input: 0, output: 0 };

fn at(ms: u64) -> Moment {
    Moment { monotonic_us: ms * MS, unix_us: 1_781_092_800_000_000 + ms * MS }
}

/// A table of so many counters.
fn small(max_counters: usize) -> Arc<Quota> {
    Arc::new(Quota::new(QuotaBounds { max_counters, ..QuotaBounds::default() }))
}

fn quota() -> Arc<Quota> {
    Arc::new(Quota::new(QuotaBounds::default()))
}

fn requests(requests: u32, capacity: u64, length_ms: u32) -> Rule {
    Rule::Metered { amount: Amount::Requests(requests), shape: Shape::Window { capacity, length_ms } }
}

fn charge<'a>(limit: &'a str, partition: &'a str, capacity: u64) -> Charge<'a> {
    Charge { policy: "rate-limit", limit, partition, rule: requests(1, capacity, 60_000) }
}

fn reserve(quota: &Arc<Quota>, ms: u64, charges: &[Charge<'_>]) -> Result<Reservation, Refused> {
    quota.reserve(at(ms), "ann", charges, NOBODY)
}

/// The call counts.
fn keep(reservation: Reservation) {
    reservation.settle(at(0), Outcome::RequestOnly);
}

/// How many more calls this charge admits; they are given back.
fn free(quota: &Arc<Quota>, ms: u64, charge: Charge<'_>) -> usize {
    let held: Vec<_> = std::iter::from_fn(|| reserve(quota, ms, &[charge]).ok()).collect();
    held.len()
}

/// Reserves in as many threads at once, keeps what it gets, and tells how many got it.
fn admitted(quota: &Arc<Quota>, threads: usize, charges: impl Fn(usize) -> Vec<Charge<'static>> + Sync) -> usize {
    let (barrier, admitted) = (Barrier::new(threads), AtomicUsize::new(0));
    thread::scope(|scope| {
        for n in 0..threads {
            let (barrier, admitted, charges) = (&barrier, &admitted, &charges);
            scope.spawn(move || {
                let charges = charges(n);
                barrier.wait();
                if let Ok(reservation) = reserve(quota, 1_000, &charges) {
                    admitted.fetch_add(1, Ordering::Relaxed);
                    keep(reservation);
                }
            });
        }
    });
    admitted.into_inner()
}

#[test]
fn two_hundred_threads_against_a_hundred_are_exactly_a_hundred() {
    for _ in 0..20 {
        let quota = quota();
        assert_eq!(admitted(&quota, 200, |_| vec![charge("key", "k", 100)]), 100);
        assert_eq!(free(&quota, 1_000, charge("key", "k", 100)), 0);
    }
}

#[test]
fn under_threads_two_charges_are_taken_together_or_not_at_all() {
    for _ in 0..20 {
        let quota = quota();
        let both = |n: usize| {
            let mut charges = vec![charge("key", "k", 100), charge("user", "u", 60)];
            charges.rotate_left(n % 2);
            charges
        };
        assert_eq!(admitted(&quota, 200, both), 60);
        assert_eq!(free(&quota, 1_000, charge("key", "k", 100)), 40);
        assert_eq!(free(&quota, 1_000, charge("user", "u", 60)), 0);
    }
}

#[test]
fn threads_that_take_and_give_back_leave_nothing_behind_and_never_pass_the_limit() {
    let quota = quota();
    let running = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..8_usize {
            let (quota, running) = (&quota, &running);
            scope.spawn(move || {
                let mut charges = [charge("a", "x", 3), charge("b", "y", 5), charge("c", "z", 4)];
                charges.rotate_left(n % 3);
                for _ in 0..2_000 {
                    if let Ok(reservation) = reserve(quota, 1_000, &charges) {
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 3, "the smallest limit is 3");
                        running.fetch_sub(1, Ordering::SeqCst);
                        drop(reservation);
                    }
                }
            });
        }
    });
    assert_eq!(free(&quota, 1_000, charge("a", "x", 3)), 3);
    assert_eq!(free(&quota, 1_000, charge("b", "y", 5)), 5);
    assert_eq!(free(&quota, 1_000, charge("c", "z", 4)), 4);
}

#[test]
fn a_refused_charge_leaves_the_others_untouched() {
    let quota = quota();
    keep(reserve(&quota, 0, &[charge("user", "u", 1)]).expect("room"));
    for _ in 0..50 {
        assert!(reserve(&quota, 0, &[charge("key", "k", 10), charge("user", "u", 1)]).is_err());
    }
    assert_eq!(free(&quota, 0, charge("key", "k", 10)), 10);
}

#[test]
fn keeping_counts_and_refunding_or_dropping_does_not() {
    let quota = quota();
    let all = [charge("key", "k", 3), charge("user", "u", 3)];
    keep(reserve(&quota, 0, &all).expect("room"));
    drop(reserve(&quota, 0, &all).expect("room"));
    drop(reserve(&quota, 0, &all).expect("room"));
    assert_eq!(free(&quota, 0, charge("key", "k", 3)), 2);
    assert_eq!(free(&quota, 0, charge("user", "u", 3)), 2);
}

#[test]
fn a_late_refund_takes_nothing_from_later_calls() {
    let quota = quota();
    let early = reserve(&quota, 0, &[charge("key", "k", 1)]).expect("room");
    keep(reserve(&quota, 61_000, &[charge("key", "k", 1)]).expect("the first has left"));
    drop(early);
    assert_eq!(free(&quota, 61_000, charge("key", "k", 1)), 0);
}

#[test]
fn the_binding_limit_is_the_one_with_the_longest_wait() {
    let quota = quota();
    let minute = charge("minute", "k", 1);
    let hour = Charge { limit: "hour", rule: requests(1, 1, 3_600_000), ..minute };
    let free = charge("free", "k", 10);
    keep(reserve(&quota, 0, &[minute, hour]).expect("room"));
    let running = Charge { limit: "running", rule: Rule::Concurrent(1), ..minute };
    let _call = reserve(&quota, 0, &[running]).expect("room");
    let check = |charges: &[Charge<'_>], limit: &str, wait: Wait| match reserve(&quota, 7, charges) {
        Err(Refused::Exceeded(exceeded)) => {
            assert_eq!((&*exceeded.policy, &*exceeded.limit, exceeded.wait), ("rate-limit", limit, wait));
            let named: Vec<&str> = exceeded.standings.iter().map(|standing| &*standing.limit).collect();
            assert_eq!(named, charges.iter().map(|charge| charge.limit).collect::<Vec<_>>());
        }
        other => panic!("{other:?}"),
    };
    let an_hour = Wait::Micros(3_600_000_000 + 59_999_999 - 7 * MS);
    check(&[free, running, minute, hour], "hour", an_hour);
    check(&[hour, minute, free, running], "hour", an_hour);
    check(&[minute, free], "minute", Wait::Micros(60_999_999 - 7 * MS));
    check(&[running, minute], "minute", Wait::Micros(60_999_999 - 7 * MS));
    check(&[free, running], "running", Wait::UntilACallEnds);
    check(&[hour, Charge { rule: requests(1, 0, 60_000), ..free }, minute], "free", Wait::Forever);
    let one = Charge { rule: requests(11, 10, 60_000), ..free };
    let two = Charge { limit: "other", ..one };
    for _ in 0..8 {
        check(&[hour, one, two], "free", Wait::Forever);
        check(&[two, hour, one], "other", Wait::Forever);
    }
}

#[test]
fn the_wait_of_several_limits_is_exact() {
    let quota = quota();
    let hour = Charge { rule: requests(1, 3, 3_600_000), ..charge("hour", "k", 3) };
    let both = [charge("minute", "k", 2), hour];
    for now in [0, 100_000, 200_000] {
        keep(reserve(&quota, now, &both).expect("room"));
    }
    let Err(Refused::Exceeded(exceeded)) = reserve(&quota, 200_500, &both) else { panic!("three an hour") };
    let Wait::Micros(wait) = exceeded.wait else { panic!("{exceeded:?}") };
    let then = |us| Moment { monotonic_us: 200_500 * MS + us, unix_us: 0 };
    assert!(quota.reserve(then(wait - 1), "ann", &both, NOBODY).is_err());
    assert!(quota.reserve(then(wait), "ann", &both, NOBODY).is_ok());
}

#[test]
fn bad_answers_are_named_and_count_nothing() {
    let quota = quota();
    let one = charge("key", "k", 1);
    let bad = |charges: &[Charge<'_>]| reserve(&quota, 0, charges).err();
    let repeated = bad(&[one, charge("user", "u", 1), Charge { rule: requests(3, 9, 60_000), ..one }]);
    assert_eq!(repeated, Some(Refused::Repeated { policy: "rate-limit".into(), limit: "key".into() }));
    let shape = Shape::Bucket { burst: MOST_UNITS, refill: 1, every_ms: 1 };
    let large = Rule::Metered { amount: Amount::Requests(1), shape };
    for (rule, says) in [(requests(1, 1, 0), "0 ms"), (large, "too large")] {
        match bad(&[one, Charge { rule, ..charge("user", "u", 1) }]) {
            Some(Refused::BadRule { policy, limit, wrong }) => {
                assert!((&*policy, &*limit) == ("rate-limit", "user") && wrong.contains(says), "{wrong}");
            }
            other => panic!("{other:?}"),
        }
    }
    let names: Vec<String> = (0..=MAX_CHARGES).map(|n| n.to_string()).collect();
    let many: Vec<_> = names.iter().map(|name| charge("key", name, 1)).collect();
    assert_eq!(bad(&many), Some(Refused::TooMany { count: 33 }));
    assert!(reserve(&quota, 0, many.get(..MAX_CHARGES).expect("33 charges")).is_ok());
    assert_eq!(free(&quota, 0, one), 1);
}

#[test]
fn another_length_is_another_counter_and_another_capacity_is_not() {
    let quota = quota();
    keep(reserve(&quota, 0, &[charge("key", "k", 1)]).expect("room"));
    assert_eq!(free(&quota, 0, Charge { rule: requests(1, 1, 61_000), ..charge("key", "k", 1) }), 1);
    assert_eq!(free(&quota, 0, charge("key", "k", 3)), 2);
}

#[test]
fn no_charges_take_no_lock() {
    let quota = quota();
    let guards: Vec<_> = quota.shards.iter().map(|shard| shard.lock().expect("not poisoned")).collect();
    keep(reserve(&quota, 0, &[]).expect("nothing to refuse"));
    assert_eq!(guards.len(), 64);
}

#[test]
fn a_full_table_refuses_new_counters_serves_old_ones_and_recovers() {
    let quota = small(640);
    // Enough that each of the 64 shards is surely filled.
    let names: Vec<String> = (0..4_000).map(|n| format!("k{n}")).collect();
    let (mut held, mut refused) = (Vec::new(), 0);
    for name in &names {
        match reserve(&quota, 0, &[charge("key", name, 2)]) {
            Ok(reservation) => {
                keep(reservation);
                held.push(name);
            }
            Err(denied) => {
                assert_eq!(denied, Refused::Full);
                refused += 1;
            }
        }
    }
    assert_eq!((held.len(), refused), (640, 3_360));
    for name in &held {
        assert_eq!(free(&quota, 60_999, charge("key", name, 2)), 1, "one of two is used");
    }
    let admitted = names.iter().rev().filter_map(|name| reserve(&quota, 61_000, &[charge("key", name, 2)]).ok());
    assert_eq!(admitted.map(keep).count(), 640);
}

#[test]
fn a_principal_with_too_many_counters_is_refused_alone_until_some_are_empty() {
    let quota = Arc::new(Quota::new(QuotaBounds { max_counters_per_principal: 100, ..QuotaBounds::default() }));
    let call = |principal: &str, policy: &str, partition: usize, ms: u64| {
        let partition = partition.to_string();
        let charge = Charge { policy, ..charge("key", &partition, 2) };
        quota.reserve(at(ms), principal, &[charge], NOBODY).map(keep)
    };
    for n in 0..100 {
        assert_eq!(call("ann", "p", n, 0), Ok(()));
    }
    for n in 100..120 {
        assert_eq!(call("ann", "p", n, 0), Err(Refused::TooManyCounters { policy: "p".into() }));
        assert_eq!(call("ben", "p", n, 0), Ok(()), "others have a cap of their own");
    }
    assert_eq!(call("ann", "q", 200, 0), Ok(()), "so has another policy");
    assert_eq!(call("ann", "p", 7, 0), Ok(()), "the counters that are there go on");
    assert_eq!(call("ann", "p", 121, 60_999), Err(Refused::TooManyCounters { policy: "p".into() }));
    for n in 0..100 {
        assert_eq!(call("ann", "p", 300 + n, 61_000), Ok(()), "the old ones are empty, wherever they are");
    }
}

#[test]
fn a_call_that_finds_too_many_counters_for_one_charge_makes_none() {
    let quota = Arc::new(Quota::new(QuotaBounds { max_counters_per_principal: 1, ..QuotaBounds::default() }));
    let both = [charge("key", "k", 1), Charge { policy: "other", ..charge("key", "k", 1) }];
    let three = [both[0], both[1], Charge { policy: "other", ..charge("user", "k", 1) }];
    for _ in 0..5 {
        assert_eq!(reserve(&quota, 0, &three).err(), Some(Refused::TooManyCounters { policy: "other".into() }));
        assert_eq!(quota.owners.total(), 0);
    }
    let reservation = reserve(&quota, 0, &both).expect("one each");
    assert_eq!(quota.owners.total(), 2);
    drop(reservation);
    quota.sweep(at(0));
    assert_eq!(quota.owners.total(), 0);
}

#[test]
fn a_call_that_finds_no_place_for_one_counter_takes_none() {
    let quota = small(64);
    let names: Vec<String> = (0..2_000).map(|n| format!("k{n}")).collect();
    for name in &names {
        if let Ok(reservation) = reserve(&quota, 0, &[charge("key", name, 2)]) {
            keep(reservation);
        }
    }
    let is_held = |name: &&String| reserve(&quota, 0, &[charge("key", name, 2)]).is_ok();
    let (old, new) = (names.iter().find(is_held), names.iter().find(|name| !is_held(name)));
    let (old, new) = (old.expect("64 are held"), new.expect("the rest is not"));
    let both = [charge("key", old, 2), charge("key", new, 2)];
    assert_eq!(reserve(&quota, 0, &both).err(), Some(Refused::Full));
    assert_eq!(free(&quota, 0, charge("key", old, 2)), 1);
}

#[test]
fn an_overlong_partition_is_a_partition() {
    let quota = quota();
    let (one, other) = ("x".repeat(100_000), "x".repeat(100_001));
    keep(reserve(&quota, 0, &[charge("key", &one, 1)]).expect("room"));
    assert_eq!(free(&quota, 0, charge("key", &one, 1)), 0);
    assert_eq!(free(&quota, 0, charge("key", &other, 1)), 1);
}

#[test]
fn a_partition_is_never_printed() {
    let quota = quota();
    let charge = charge("key", "somebody", 1);
    let printed = format!("{charge:?} {quota:?} {:?}", reserve(&quota, 0, &[charge]));
    assert!(printed.contains("rate-limit") && printed.contains("max_counters"), "{printed}");
    assert!(!printed.contains("somebody"), "{printed}");
}

#[test]
fn what_is_foreseen_is_what_reserving_comes_to_and_counts_nothing() {
    let quota = quota();
    let charges = [charge("a", "ann", 3), charge("b", "ann", 2)];
    for call in 0..4 {
        let foreseen = quota.foresee(at(call), &charges, NOBODY);
        assert_eq!(quota.foresee(at(call), &charges, NOBODY), foreseen, "asking twice is as asking once");
        let reserved = reserve(&quota, call, &charges).map(keep);
        assert_eq!((foreseen.is_ok(), &foreseen), (call < 2, &reserved), "call {call}");
    }
    assert_eq!(
        quota.foresee(at(0), &[charge("c", "bob", 0)], NOBODY),
        reserve(&quota, 0, &[charge("c", "bob", 0)]).map(keep)
    );
    assert_eq!(quota.totals().refused(), 3, "what is foreseen is no refusal");
}
