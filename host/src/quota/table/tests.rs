//! Reservations of several charges, by one thread and by many.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

fn quota() -> Arc<Quota> {
    Arc::new(Quota::new(QuotaBounds::default()))
}

fn charge<'a>(limit: &'a str, partition: &'a str, capacity: u64) -> Charge<'a> {
    Charge { policy: "rate-limit", limit, partition, capacity, length_ms: 60_000, amount: 1 }
}

/// How many more calls this charge admits; they are given back.
fn free(quota: &Arc<Quota>, now_ms: u64, charge: Charge<'_>) -> usize {
    let held: Vec<_> = std::iter::from_fn(|| quota.reserve(now_ms, &[charge]).ok()).collect();
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
                if let Ok(reservation) = quota.reserve(1_000, &charges) {
                    admitted.fetch_add(1, Ordering::Relaxed);
                    reservation.keep();
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
                    if let Ok(reservation) = quota.reserve(1_000, &charges) {
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 3, "the smallest limit is 3");
                        running.fetch_sub(1, Ordering::SeqCst);
                        reservation.refund();
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
    quota.reserve(0, &[charge("user", "u", 1)]).expect("room").keep();
    for _ in 0..50 {
        assert!(quota.reserve(0, &[charge("key", "k", 10), charge("user", "u", 1)]).is_err());
    }
    assert_eq!(free(&quota, 0, charge("key", "k", 10)), 10);
}

#[test]
fn keeping_counts_and_refunding_or_dropping_does_not() {
    let quota = quota();
    let all = [charge("key", "k", 3), charge("user", "u", 3)];
    quota.reserve(0, &all).expect("room").keep();
    quota.reserve(0, &all).expect("room").refund();
    drop(quota.reserve(0, &all).expect("room"));
    assert_eq!(free(&quota, 0, charge("key", "k", 3)), 2);
    assert_eq!(free(&quota, 0, charge("user", "u", 3)), 2);
}

#[test]
fn a_late_refund_takes_nothing_from_later_calls() {
    let quota = quota();
    let early = quota.reserve(0, &[charge("key", "k", 1)]).expect("room");
    quota.reserve(61_000, &[charge("key", "k", 1)]).expect("the first has left").keep();
    early.refund();
    assert_eq!(free(&quota, 61_000, charge("key", "k", 1)), 0);
}

#[test]
fn the_binding_limit_is_the_one_with_the_longest_wait() {
    let quota = quota();
    let minute = charge("minute", "k", 1);
    let hour = Charge { limit: "hour", length_ms: 3_600_000, ..minute };
    let free = charge("free", "k", 10);
    quota.reserve(0, &[minute, hour]).expect("room").keep();
    let check = |charges: &[Charge<'_>], limit: &str, wait: Option<u64>| match quota.reserve(7, charges) {
        Err(Refused::Exceeded { policy, limit: named, retry_after_ms, .. }) => {
            assert_eq!((policy.as_str(), named.as_str(), retry_after_ms), ("rate-limit", limit, wait));
        }
        other => panic!("{other:?}"),
    };
    check(&[free, minute, hour], "hour", Some(3_600_000 + 59_999 - 7));
    check(&[hour, minute, free], "hour", Some(3_600_000 + 59_999 - 7));
    check(&[minute, free], "minute", Some(60_999 - 7));
    check(&[hour, Charge { capacity: 0, ..free }, minute], "free", None);
    let (one, two) = (Charge { amount: 11, ..free }, Charge { limit: "other", amount: 11, ..free });
    for _ in 0..8 {
        check(&[hour, one, two], "free", None);
        check(&[two, hour, one], "other", None);
    }
}

#[test]
fn the_wait_of_several_limits_is_exact() {
    let quota = quota();
    let (minute, hour) = (charge("minute", "k", 2), Charge { length_ms: 3_600_000, ..charge("hour", "k", 3) });
    for now in [0, 100_000, 200_000] {
        quota.reserve(now, &[minute, hour]).expect("room").keep();
    }
    let Err(Refused::Exceeded { retry_after_ms: Some(wait), .. }) = quota.reserve(200_500, &[minute, hour]) else {
        panic!("three an hour");
    };
    assert!(quota.reserve(200_500 + wait - 1, &[minute, hour]).is_err());
    assert!(quota.reserve(200_500 + wait, &[minute, hour]).is_ok());
}

#[test]
fn bad_answers_are_named_and_count_nothing() {
    let quota = quota();
    let one = charge("key", "k", 1);
    let repeated = quota.reserve(0, &[one, charge("user", "u", 1), Charge { capacity: 9, amount: 0, ..one }]);
    assert_eq!(repeated.err(), Some(Refused::Repeated { policy: "rate-limit".into(), limit: "key".into() }));
    let no_length = quota.reserve(0, &[one, Charge { length_ms: 0, ..charge("user", "u", 1) }]);
    assert_eq!(no_length.err(), Some(Refused::NoLength { policy: "rate-limit".into(), limit: "user".into() }));
    let names: Vec<String> = (0..=MAX_CHARGES).map(|n| n.to_string()).collect();
    let many: Vec<_> = names.iter().map(|name| charge("key", name, 1)).collect();
    assert_eq!(quota.reserve(0, &many).err(), Some(Refused::TooMany { count: 33 }));
    assert!(quota.reserve(0, many.get(..MAX_CHARGES).expect("33 charges")).is_ok());
    assert_eq!(free(&quota, 0, one), 1);
}

#[test]
fn another_length_is_another_counter_and_another_capacity_is_not() {
    let quota = quota();
    quota.reserve(0, &[charge("key", "k", 1)]).expect("room").keep();
    assert_eq!(free(&quota, 0, Charge { length_ms: 61_000, ..charge("key", "k", 1) }), 1);
    assert_eq!(free(&quota, 0, charge("key", "k", 3)), 2);
}

#[test]
fn no_charges_take_no_lock() {
    let quota = quota();
    let guards: Vec<_> = quota.shards.iter().map(|shard| shard.lock().expect("not poisoned")).collect();
    quota.reserve(0, &[]).expect("nothing to refuse").keep();
    assert_eq!(guards.len(), 64);
}

#[test]
fn free_charges_pass_and_hold_no_counter() {
    let quota = Arc::new(Quota::new(QuotaBounds { max_counters: 0 }));
    assert!(quota.reserve(0, &[Charge { amount: 0, ..charge("key", "k", 0) }]).is_ok());
    assert_eq!(quota.reserve(0, &[charge("key", "k", 1)]).err(), Some(Refused::Full));
}

#[test]
fn a_full_table_refuses_new_counters_serves_old_ones_and_recovers() {
    let quota = Arc::new(Quota::new(QuotaBounds { max_counters: 640 }));
    let names: Vec<String> = (0..2_000).map(|n| format!("k{n}")).collect();
    let (mut held, mut refused) = (Vec::new(), 0);
    for name in &names {
        match quota.reserve(0, &[charge("key", name, 2)]) {
            Ok(reservation) => {
                reservation.keep();
                held.push(name);
            }
            Err(denied) => {
                assert_eq!(denied, Refused::Full);
                refused += 1;
            }
        }
    }
    assert_eq!((held.len(), refused), (640, 1_360));
    for name in &held {
        assert_eq!(free(&quota, 60_998, charge("key", name, 2)), 1, "one of two is used");
    }
    let admitted = names.iter().rev().filter_map(|name| quota.reserve(60_999, &[charge("key", name, 2)]).ok());
    assert_eq!(admitted.map(Reservation::keep).count(), 640);
}

#[test]
fn a_call_that_finds_no_place_for_one_counter_takes_none() {
    let quota = Arc::new(Quota::new(QuotaBounds { max_counters: 64 }));
    let names: Vec<String> = (0..2_000).map(|n| format!("k{n}")).collect();
    for name in &names {
        if let Ok(reservation) = quota.reserve(0, &[charge("key", name, 2)]) {
            reservation.keep();
        }
    }
    let is_held = |name: &&String| quota.reserve(0, &[charge("key", name, 2)]).is_ok();
    let (old, new) = (names.iter().find(is_held), names.iter().find(|name| !is_held(name)));
    let (old, new) = (old.expect("64 are held"), new.expect("the rest is not"));
    let both = [charge("key", old, 2), charge("key", new, 2)];
    assert_eq!(quota.reserve(0, &both).err(), Some(Refused::Full));
    assert_eq!(free(&quota, 0, charge("key", old, 2)), 1);
}

#[test]
fn an_overlong_partition_is_a_partition() {
    let quota = quota();
    let (one, other) = ("x".repeat(100_000), "x".repeat(100_001));
    quota.reserve(0, &[charge("key", &one, 1)]).expect("room").keep();
    assert_eq!(free(&quota, 0, charge("key", &one, 1)), 0);
    assert_eq!(free(&quota, 0, charge("key", &other, 1)), 1);
}

#[test]
fn a_partition_is_never_printed() {
    let quota = quota();
    let charge = charge("key", "somebody", 1);
    let printed = format!("{charge:?} {quota:?} {:?}", quota.reserve(0, &[charge]));
    assert!(printed.contains("rate-limit") && printed.contains("max_counters"), "{printed}");
    assert!(!printed.contains("somebody"), "{printed}");
}
