//! A small shard against counters that are never dropped.

use std::collections::HashMap;
use std::iter;

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::super::key::KeySeeds;
use super::*;

const MAX_COUNTERS: usize = 4;
const CAPACITY: u64 = 5;

/// Ten names; each has one of three lengths.
fn length(name: u8) -> NonZeroU32 {
    let lengths = [NonZeroU32::new(60), NonZeroU32::new(1_000), NonZeroU32::new(7_000)];
    lengths.get(usize::from(name % 3)).copied().flatten().expect("one of three lengths")
}

fn key(seeds: &KeySeeds, name: u8) -> CounterKey {
    seeds.key("policy", "limit", &name.to_string(), length(name))
}

fn take(shard: &mut Shard, key: CounterKey, name: u8, now_ms: u64) -> Option<Slice> {
    shard.advance(now_ms);
    shard.check(key, now_ms, CAPACITY, 1).ok()?;
    shard.make_room(&iter::once(key)).then(|| shard.commit(key, length(name), 1))
}

#[derive(Clone, Debug)]
struct Step {
    name: u8,
    wait_ms: i64,
    amount: u64,
    gives_back: Option<prop::sample::Index>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait_ms = prop_oneof![6 => 0_i64..30, 3 => 0_i64..900, 1 => 0_i64..9_000, 1 => -3_000_i64..0];
    let step = (0_u8..10, wait_ms, 1_u64..=3, prop::option::weighted(0.2, any::<prop::sample::Index>()));
    let step = step.prop_map(|(name, wait_ms, amount, gives_back)| Step { name, wait_ms, amount, gives_back });
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_live_counter_is_dropped_and_the_bound_holds(steps in steps()) {
        let seeds = KeySeeds::default();
        let mut shard = Shard::new(MAX_COUNTERS);
        let mut model: HashMap<u8, Window> = HashMap::new();
        let mut taken: Vec<(u8, Slice, u64)> = Vec::new();
        let (mut now, mut latest) = (0_u64, 0_u64);
        for Step { name, wait_ms, amount, gives_back } in steps {
            now = now.saturating_add_signed(wait_ms);
            latest = latest.max(now);
            if let Some(index) = gives_back.filter(|_| !taken.is_empty()) {
                let (name, slice, amount) = taken.swap_remove(index.index(taken.len()));
                shard.give_back(key(&seeds, name), slice, amount);
                if let Some(window) = model.get_mut(&name) {
                    window.give_back(slice, amount);
                }
            }
            shard.advance(now);
            for window in model.values_mut() {
                window.advance(latest);
            }
            let modelled = model.entry(name).or_insert_with(|| Window::new(length(name), latest));
            let answer = shard.check(key(&seeds, name), now, CAPACITY, amount);
            prop_assert_eq!(answer, modelled.check(now, CAPACITY, amount));
            if answer.is_err() {
                continue;
            }
            if shard.make_room(&iter::once(key(&seeds, name))) {
                let slice = shard.commit(key(&seeds, name), length(name), amount);
                prop_assert_eq!(slice, modelled.commit(amount));
                taken.push((name, slice, amount));
            } else {
                let alive = |window: &&Window| window.clears_at_ms() > latest;
                prop_assert!(!alive(&&*modelled), "a counter in use was refused a place");
                prop_assert_eq!(model.values().filter(alive).count(), MAX_COUNTERS, "refused while one was empty");
            }
            prop_assert!(shard.len() <= MAX_COUNTERS);
        }
    }
}

#[test]
fn a_counter_that_was_given_back_makes_room_at_once() {
    let seeds = KeySeeds::default();
    let mut shard = Shard::new(1);
    let slice = take(&mut shard, key(&seeds, 1), 1, 0).expect("an empty shard admits");
    assert!(take(&mut shard, key(&seeds, 2), 2, 0).is_none());
    shard.give_back(key(&seeds, 1), slice, 1);
    assert_eq!(shard.len(), 0);
    assert!(take(&mut shard, key(&seeds, 2), 2, 0).is_some());
}

#[test]
fn idle_counters_go_as_others_are_used() {
    let seeds = KeySeeds::default();
    let mut shard = Shard::new(1_000);
    for n in 0..500 {
        let key = seeds.key("policy", "limit", &format!("idle {n}"), length(0));
        assert!(take(&mut shard, key, 0, 0).is_some());
    }
    assert_eq!(shard.len(), 500);
    for n in 0..250 {
        assert!(take(&mut shard, key(&seeds, 1), 1, 1_000 + n * 1_100).is_some());
    }
    assert_eq!(shard.len(), 1);
}

#[test]
fn a_clock_that_goes_back_finds_a_dropped_counter_no_earlier() {
    let seeds = KeySeeds::default();
    let mut shard = Shard::new(10);
    for _ in 0..CAPACITY {
        assert!(take(&mut shard, key(&seeds, 1), 1, 0).is_some());
    }
    shard.advance(2_000);
    assert_eq!(shard.len(), 0);
    for _ in 0..CAPACITY {
        assert!(take(&mut shard, key(&seeds, 1), 1, 0).is_some());
    }
    assert!(take(&mut shard, key(&seeds, 1), 1, 2_500).is_none(), "the five count from 2000 on");
}
