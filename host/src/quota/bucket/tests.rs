//! The bucket against a list of everything that was poured in and taken out.

use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;

fn at(monotonic_us: u64) -> Moment {
    Moment { monotonic_us, unix_us: 0 }
}

fn bucket(refill: u64, every_ms: u32) -> Bucket {
    let (refill, every_ms) = (NonZeroU64::new(refill), NonZeroU32::new(every_ms));
    Bucket::new(Pace::new(refill.expect("a refill"), every_ms.expect("a time")), 0)
}

fn take(bucket: &mut Bucket, now_us: u64, burst: u64, amount: u64) -> Result<Mark, Wait> {
    bucket.check(at(now_us), burst, amount)?;
    Ok(bucket.take(amount))
}

#[derive(Clone, Debug)]
struct Step {
    moves_us: i64,
    amount: u64,
    settles: Option<(prop::sample::Index, u64)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let moves_us = prop_oneof![4 => 0_i64..3, 6 => 0_i64..200_000, 2 => 0_i64..20_000_000, 1 => -500_000_i64..0];
    let settles = prop::option::weighted(0.3, (any::<prop::sample::Index>(), 0_u64..30));
    let step = (moves_us, 1_u64..=12, settles);
    let step = step.prop_map(|(moves_us, amount, settles)| Step { moves_us, amount, settles });
    prop::collection::vec(step, 1..200)
}

/// What is in the bucket, in fractions of the time that one unit takes: exact, and slow.
fn level(events: &[(u64, i128)], refill: u64, now: u64) -> i128 {
    let (mut level, mut seen) = (0_i128, 0_u64);
    for (at_us, units) in events.iter().copied().chain([(now, 0)]) {
        level = (level - i128::from(at_us.saturating_sub(seen)) * i128::from(refill)).max(0);
        seen = seen.max(at_us);
        level = (level + units).max(0);
    }
    level
}

/// A call that was admitted: when, what it reserved, and the bucket's mark.
#[derive(Clone, Copy, Debug)]
struct Taken {
    at_us: u64,
    amount: u64,
    mark: Mark,
}

proptest! {
    #[test]
    fn it_holds_what_a_list_of_events_says(
        burst in 1_u64..40, refill in 1_u64..30, every_ms in 1_u32..5_000, steps in steps(),
    ) {
        let unit = i128::from(every_ms) * 1_000;
        let mut bucket = bucket(refill, every_ms);
        let (mut events, mut open, mut now, mut latest): (Vec<(u64, i128)>, Vec<Taken>, u64, u64) = Default::default();
        for step in steps {
            now = now.saturating_add_signed(step.moves_us);
            latest = latest.max(now);
            if let Some((index, used)) = step.settles.filter(|_| !open.is_empty()) {
                let Taken { at_us, amount, mark } = open.swap_remove(index.index(open.len()));
                bucket.settle(at(now), mark, amount, used);
                let left = (i128::from(amount) * unit - i128::from(latest - at_us) * i128::from(refill)).max(0);
                let more = (i128::from(used) - i128::from(amount)) * unit;
                events.push((latest, more.max(-left)));
            }
            let held = level(&events, refill, latest);
            let fits = held + i128::from(step.amount) * unit <= i128::from(burst) * unit;
            let answer = take(&mut bucket, now, burst, step.amount);
            prop_assert_eq!(answer.is_ok(), fits);
            match answer {
                Ok(mark) => {
                    events.push((latest, i128::from(step.amount) * unit));
                    open.push(Taken { at_us: latest, amount: step.amount, mark });
                }
                Err(Wait::Micros(wait)) => {
                    prop_assert!(take(&mut bucket.clone(), now + wait, burst, step.amount).is_ok());
                    let still = take(&mut bucket.clone(), now + wait - 1, burst, step.amount);
                    prop_assert_eq!(still, Err(Wait::Micros(1)));
                }
                Err(wait) => prop_assert!(wait == Wait::Forever && step.amount > burst),
            }
            let held = level(&events, refill, latest);
            prop_assert_eq!(i128::from(bucket.used()), (held + unit - 1) / unit);
            let reset = bucket.reset_after_us(at(now)).expect("a bucket can tell");
            let leaves = |wait: u64| {
                let mut bucket = bucket.clone();
                bucket.advance(at(now + wait));
                bucket.level
            };
            prop_assert_eq!(leaves(reset), 0);
            prop_assert!(held == 0 || leaves(reset - 1) > 0);
        }
    }

    #[test]
    fn no_stretch_admits_more_use_than_the_burst_and_what_came_back(
        burst in 1_u64..40, refill in 1_u64..30, every_ms in 1_u32..5_000, steps in steps(),
    ) {
        let mut bucket = bucket(refill, every_ms);
        let (mut now, mut latest) = (0_u64, 0_u64);
        let mut admitted: Vec<(u64, u64)> = Vec::new();
        let mut open: Vec<(usize, Mark)> = Vec::new();
        for step in steps {
            now = now.saturating_add_signed(step.moves_us);
            latest = latest.max(now);
            if let Some((index, used)) = step.settles.filter(|_| !open.is_empty()) {
                // Calls that use no more than they reserved, which is then all that counts of them.
                let (place, mark) = open.swap_remove(index.index(open.len()));
                let reserved = admitted[place].1;
                admitted[place].1 = used.min(reserved);
                bucket.settle(at(now), mark, reserved, used.min(reserved));
            }
            if let Ok(mark) = take(&mut bucket, now, burst, step.amount) {
                open.push((admitted.len(), mark));
                admitted.push((latest, step.amount));
            }
        }
        for (n, (from, _)) in admitted.iter().enumerate() {
            let mut sum = 0;
            for (until, amount) in &admitted[n..] {
                sum += amount;
                let came_back = u128::from(until - from) * u128::from(refill);
                let most = u128::from(burst) * u128::from(every_ms) * 1_000 + came_back;
                prop_assert!(u128::from(sum) * u128::from(every_ms) * 1_000 <= most);
            }
        }
    }

    #[test]
    fn a_debt_is_paid_to_the_last_unit(burst in 2_u64..40, debt in 0_u64..200, refill in 1_u64..9) {
        let mut honest = bucket(refill, 10);
        let mark = take(&mut honest, 0, burst, burst).expect("an empty bucket admits");
        let mut owing = honest.clone();
        owing.settle(at(0), mark, burst, burst + debt);
        // Asked so often, a bucket never runs empty, and nothing that could have come back is lost.
        let (mut admitted, mut admitted_owing) = (0_u64, 0_u64);
        for now in (0..4_000_000).step_by(1_000) {
            while take(&mut honest, now, burst, 1).is_ok() {
                admitted += 1;
            }
            while take(&mut owing, now, burst, 1).is_ok() {
                admitted_owing += 1;
            }
        }
        prop_assert_eq!(admitted - admitted_owing, debt);
    }
}

#[test]
fn rate_and_burst_are_apart() {
    let mut bucket = bucket(2, 1_000);
    for _ in 0..5 {
        assert!(take(&mut bucket, 0, 5, 1).is_ok());
    }
    assert_eq!(take(&mut bucket, 0, 5, 1), Err(Wait::Micros(500_000)));
    assert_eq!(take(&mut bucket, 0, 5, 5), Err(Wait::Micros(2_500_000)));
    assert_eq!(take(&mut bucket, 0, 5, 6), Err(Wait::Forever));
    assert!(take(&mut bucket, 500_000, 5, 1).is_ok());
    assert_eq!((bucket.used(), bucket.window_us(5)), (5, Some(2_500_000)));
    assert!(take(&mut bucket, 60_000_000, 5, 5).is_ok(), "a long rest brings back the burst and no more");
    assert!(take(&mut bucket, 60_000_000, 5, 1).is_err());
    assert!(take(&mut bucket, 60_000_000, 7, 2).is_ok(), "a changed burst keeps what is in it");
}

#[test]
fn credit_never_makes_it_emptier_than_empty() {
    let mut bucket = bucket(1, 1_000);
    let mark = take(&mut bucket, 0, 5, 5).expect("an empty bucket admits");
    bucket.settle(at(3_000_000), mark, 5, 0);
    assert_eq!(bucket.used(), 0);
    assert!(take(&mut bucket, 3_000_000, 5, 5).is_ok());
    assert!(take(&mut bucket, 3_000_000, 5, 1).is_err());
}

#[test]
fn what_has_drained_is_not_given_back_out_of_what_others_poured_in() {
    let mut bucket = bucket(10, 1_000);
    let mark = take(&mut bucket, 0, 10, 10).expect("an empty bucket admits");
    take(&mut bucket, 1_000_000, 10, 10).expect("a second has drained it");
    bucket.settle(at(1_000_000), mark, 10, 0);
    assert_eq!(bucket.used(), 10);
    assert!(take(&mut bucket, 1_000_000, 10, 1).is_err());
}

#[test]
fn a_clock_that_goes_back_drains_nothing() {
    let mut bucket = bucket(1, 1_000);
    take(&mut bucket, 10_000_000, 1, 1).expect("an empty bucket admits");
    for now in [10_000_000, 9_000_000, 0] {
        assert_eq!(take(&mut bucket, now, 1, 1), Err(Wait::Micros(11_000_000 - now)));
    }
    assert!(take(&mut bucket, 11_000_000, 1, 1).is_ok());
}

#[test]
fn the_ends_of_the_number_range_are_harmless() {
    for (refill, every_ms) in [(1, u32::MAX), (MOST_UNITS, 1), (u64::MAX, u32::MAX), (1, 1)] {
        let mut bucket = bucket(refill, every_ms);
        bucket.settle(at(u64::MAX), Mark(0), 0, u64::MAX);
        bucket.settle(at(0), Mark(0), 0, u64::MAX);
        assert_eq!(bucket.level, MOST_UNITS);
        assert!(bucket.check(at(u64::MAX), 1, 1).is_err() || bucket.pace.shares(1) == MOST_UNITS);
        assert!(bucket.clears_at_us(at(0)) == u64::MAX && bucket.reset_after_us(at(0)) == Some(u64::MAX));
    }
}
