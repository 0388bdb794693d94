//! A small shard against counters that are never dropped.

use std::{collections::HashMap, iter};

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::super::{Charge, key::KeySeeds};
use super::*;
use crate::policy::{Amount, Period, Rule, Shape};

const MAX_COUNTERS: usize = 4;
const CAPACITY: u64 = 5;
const MS: u64 = 1_000;

fn at(monotonic_us: u64) -> Moment {
    Moment { monotonic_us, unix_us: 0 }
}

fn metered(shape: Shape) -> Rule {
    Rule::Metered { amount: Amount::Requests(1), shape }
}

fn calendar(period: Period) -> Rule {
    metered(Shape::Calendar { capacity: CAPACITY, period })
}

/// Ten names; each has one of four rules.
fn rule(name: u8) -> Rule {
    match name % 4 {
        0 => metered(Shape::Window { capacity: CAPACITY, length_ms: 60 }),
        1 => metered(Shape::Window { capacity: CAPACITY, length_ms: 7_000 }),
        2 => metered(Shape::Bucket { burst: CAPACITY, refill: 3, every_ms: 1_000 }),
        _ => Rule::Concurrent(5),
    }
}

fn named(seeds: &KeySeeds, name: u8, rule: Rule) -> (CounterKey, Terms) {
    let terms = Terms::of(&rule).expect("a rule that makes sense");
    let partition = name.to_string();
    (seeds.naming().key(&Charge { policy: "policy", limit: "limit", partition: &partition, rule }, &terms), terms)
}

fn shard(max_counters: usize) -> Shard {
    Shard::new(max_counters, Arc::new(Owners::new(1_000)))
}

const OWNER: Owner = Owner(7);
const UNNAMED: Charge<'_> = Charge { policy: "", limit: "", partition: "", rule: Rule::Concurrent(1) };

/// Takes one unit, if there is room for it and for its counter.
fn take(shard: &mut Shard, (key, terms): (CounterKey, Terms), at: Moment) -> Option<(Mark, Figures)> {
    shard.advance(at, 1);
    shard.check(key, at, terms.capacity, 1).ok()?;
    (shard.make_room(&iter::once(key)) && (shard.holds(key) || shard.owners.enter(OWNER)))
        .then(|| shard.commit(key, at, (&terms, OWNER, &UNNAMED), 1))
}

fn counter(terms: &Terms, now_us: u64) -> Box<dyn Counter> {
    match terms.span {
        Span::Window { length_ms } => Box::new(Window::new(length_ms, now_us)),
        Span::Bucket { pace, .. } => Box::new(Bucket::new(pace, now_us)),
        Span::Calendar(period) => Box::new(Calendar::new(period, 0)),
        Span::Concurrent => Box::new(Concurrent::default()),
    }
}

#[derive(Debug)]
struct Modelled {
    counter: Box<dyn Counter>,
    open: u32,
}

#[derive(Clone, Debug)]
struct Step {
    name: u8,
    wait_ms: i64,
    amount: u64,
    settles: Option<(prop::sample::Index, u64, bool)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait_ms = prop_oneof![6 => 0_i64..30, 3 => 0_i64..900, 1 => 0_i64..9_000, 1 => -3_000_i64..0];
    let settles = prop::option::weighted(0.7, (any::<prop::sample::Index>(), 0_u64..5, any::<bool>()));
    let step = (0_u8..10, wait_ms, 1_u64..=3, settles);
    let step = step.prop_map(|(name, wait_ms, amount, settles)| Step { name, wait_ms, amount, settles });
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_live_counter_is_dropped_and_the_bound_holds(steps in steps()) {
        let seeds = KeySeeds::default();
        let mut shard = shard(MAX_COUNTERS);
        let mut model: HashMap<u8, Modelled> = HashMap::new();
        let mut taken: Vec<(u8, Mark, u64)> = Vec::new();
        let (mut now, mut latest) = (0_u64, 0_u64);
        for Step { name, wait_ms, amount, settles } in steps {
            if let Some((index, used, is_timed)) = settles.filter(|_| !taken.is_empty()) {
                let (name, mark, amount) = taken.swap_remove(index.index(taken.len()));
                let (key, terms) = named(&seeds, name, rule(name));
                let used = if terms.span == Span::Concurrent { 0 } else { used };
                shard.settle(key, is_timed.then_some(at(now)), (mark, terms.capacity), (amount, used));
                let modelled = model.get_mut(&name).expect("it was taken");
                modelled.counter.settle(at(latest), mark, amount, used);
                modelled.open -= 1;
            }
            now = now.saturating_add_signed(wait_ms * 1_000);
            latest = latest.max(now);
            shard.advance(at(now), 1);
            let (key, terms) = named(&seeds, name, rule(name));
            let modelled = model.entry(name).or_insert_with(|| Modelled { counter: counter(&terms, latest), open: 0 });
            modelled.counter.advance(at(latest));
            let answer = shard.check(key, at(now), CAPACITY, amount).map(drop);
            prop_assert_eq!(answer, modelled.counter.check(at(now), CAPACITY, amount));
            if answer.is_err() {
                continue;
            }
            if shard.make_room(&iter::once(key)) {
                prop_assert!(shard.holds(key) || shard.owners.enter(OWNER));
                let (mark, figures) = shard.commit(key, at(now), (&terms, OWNER, &UNNAMED), amount);
                prop_assert_eq!(mark, modelled.counter.take(amount));
                modelled.open += 1;
                taken.push((name, mark, amount));
                prop_assert_eq!(figures.used, modelled.counter.used());
                prop_assert_eq!(figures.reset_after_us, modelled.counter.reset_after_us(at(now)));
                let held = taken.iter().filter(|(taken, ..)| *taken == name).map(|(.., amount)| amount).sum::<u64>();
                prop_assert_eq!(figures.reserved, held);
            } else {
                let is_alive = |modelled: &&Modelled| {
                    modelled.open > 0 || modelled.counter.clears_at_us(at(latest)) > latest
                };
                prop_assert!(!is_alive(&&*modelled), "a counter in use was refused a place");
                prop_assert_eq!(model.values().filter(is_alive).count(), MAX_COUNTERS, "refused while one was empty");
            }
            prop_assert!(shard.len() <= MAX_COUNTERS);
            prop_assert_eq!(shard.owners.total(), u64::try_from(shard.len()).expect("few"));
        }
    }

    #[test]
    fn no_period_gives_its_capacity_twice_though_counters_go_and_clocks_step(
        steps in prop::collection::vec((0_u8..4, -40_i64..50, any::<bool>()), 1..300),
    ) {
        const PERIODS: [Period; 4] = [Period::Hour, Period::Day, Period::Week, Period::Month];
        let seeds = KeySeeds::default();
        // Room for one: each use of another counter drops the one before it, if it may go.
        let mut shard = shard(2);
        let mut used: HashMap<(u8, Mark), u64> = HashMap::new();
        let mut ends: HashMap<u8, u64> = HashMap::new();
        let (mut monotonic_us, mut unix_us) = (0_u64, 1_781_092_800_000_000_u64);
        for (name, tenths_of_a_day, refunds) in steps {
            monotonic_us += tenths_of_a_day.unsigned_abs() * 8_640_000_000;
            unix_us = unix_us.saturating_add_signed(tenths_of_a_day * 8_640_000_000);
            let (key, terms) = named(&seeds, name, calendar(PERIODS[usize::from(name)]));
            let now = Moment { monotonic_us, unix_us };
            let Some((mark, _)) = take(&mut shard, (key, terms), now) else { continue };
            prop_assert!(mark.0 > unix_us && mark.0 >= *ends.get(&name).unwrap_or(&0), "periods go forward");
            ends.insert(name, mark.0);
            let uses = u64::from(!refunds);
            shard.settle(key, Some(now), (mark, CAPACITY), (1, uses));
            *used.entry((name, mark)).or_default() += uses;
        }
        prop_assert!(used.values().all(|used| *used <= CAPACITY), "{:?}", used);
    }
}

#[test]
fn a_counter_that_was_given_back_makes_room_at_once() {
    let seeds = KeySeeds::default();
    for rule in [rule(0), rule(2), rule(3), calendar(Period::Month)] {
        let mut shard = shard(1);
        let one = named(&seeds, 1, rule);
        let (mark, _) = take(&mut shard, one, at(0)).expect("an empty shard admits");
        assert!(take(&mut shard, named(&seeds, 2, rule), at(0)).is_none(), "{rule:?}");
        shard.settle(one.0, None, (mark, CAPACITY), (1, 0));
        assert!(take(&mut shard, named(&seeds, 2, rule), at(0)).is_some(), "{rule:?}");
    }
}

#[test]
fn an_open_reservation_keeps_its_counter_for_the_debt_that_may_come() {
    let seeds = KeySeeds::default();
    let mut shard = shard(1);
    let (one, late) = (named(&seeds, 1, rule(0)), at(3_600_000 * MS));
    let (mark, _) = take(&mut shard, one, at(0)).expect("an empty shard admits");
    assert!(take(&mut shard, named(&seeds, 2, rule(0)), late).is_none(), "the window is empty, the reservation open");
    assert_eq!(shard.settle(one.0, Some(late), (mark, CAPACITY), (1, 9)), 3, "8 units are owed, of which 5 fit");
    assert!(shard.check(one.0, late, CAPACITY, 1).is_err());
    assert!(take(&mut shard, named(&seeds, 2, rule(0)), late).is_none(), "what is owed keeps it as well");
    let paid = at(3_600_000 * MS + 61 * MS);
    assert!(take(&mut shard, named(&seeds, 2, rule(0)), paid).is_some());
}

#[test]
fn idle_counters_go_as_others_are_used() {
    let seeds = KeySeeds::default();
    let mut shard = shard(1_000);
    for name in 0..250 {
        for rule in [rule(0), rule(2)] {
            let idle = named(&seeds, name, rule);
            let (mark, _) = take(&mut shard, idle, at(0)).expect("room");
            shard.settle(idle.0, Some(at(0)), (mark, CAPACITY), (1, 1));
        }
    }
    assert_eq!(shard.len(), 500);
    let busy = named(&seeds, 1, rule(1));
    for n in 0..260 {
        let now = at((1_000 + n * 8_000) * MS);
        let (mark, _) = take(&mut shard, busy, now).expect("room");
        shard.settle(busy.0, Some(now), (mark, CAPACITY), (1, 1));
    }
    assert_eq!(shard.len(), 1);
}

#[test]
fn a_clock_that_goes_back_finds_a_dropped_counter_no_earlier() {
    let seeds = KeySeeds::default();
    let mut shard = shard(10);
    let one = named(&seeds, 1, rule(0));
    let spend = |shard: &mut Shard| {
        for _ in 0..CAPACITY {
            let (mark, _) = take(shard, one, at(0)).expect("room");
            shard.settle(one.0, None, (mark, CAPACITY), (1, 1));
        }
    };
    spend(&mut shard);
    shard.advance(at(2_000 * MS), 1);
    assert_eq!(shard.len(), 0);
    spend(&mut shard);
    assert!(take(&mut shard, one, at(2_050 * MS)).is_none(), "the five count from 2000 on");
}

#[test]
fn figures_of_a_counter_that_is_not_there_make_none() {
    let seeds = KeySeeds::default();
    let mut shard = shard(10);
    let (key, terms) = named(&seeds, 0, calendar(Period::Day));
    let figures = shard.figures(key, at(0), &terms);
    let day_us = 86_400_000_000;
    let expected = Figures { used: 0, reserved: 0, reset_after_us: Some(day_us), window_us: Some(day_us) };
    assert_eq!((figures, shard.len()), (expected, 0));
}

/// What one window takes, with its principal's count. Maps are at most 7/8 full and grow by doubling: an entry takes up to
/// 16/7 of its size. Nodes of the notes have eleven places, and are at least half full in the long run.
#[test]
fn a_window_takes_at_most_512_bytes() {
    let entry = |bytes: usize| ((bytes + 1) * 16).div_ceil(7);
    let counter = entry(size_of::<(CounterKey, Box<Live>)>()) + size_of::<Live<Window>>().next_multiple_of(64);
    let note = 2 * size_of::<(u64, CounterKey)>();
    let owner = entry(size_of::<(Owner, u32)>());
    assert!(counter + note + owner <= 512, "{counter} + {note} + {owner}");
}
