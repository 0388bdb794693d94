//! The window against brute force over everything that was counted.

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;
use crate::policy::MOST_UNITS;

const MS: u64 = 1_000;

fn at(monotonic_us: u64) -> Moment {
    Moment { monotonic_us, unix_us: 0 }
}

fn window(length_ms: u32, now_us: u64) -> Window {
    Window::new(NonZeroU32::new(length_ms).expect("a length"), now_us)
}

fn take(window: &mut Window, now_us: u64, capacity: u64, amount: u64) -> Result<Mark, Wait> {
    window.check(at(now_us), capacity, amount)?;
    Ok(window.take(amount))
}

/// One event of a history: how far the clock moves, what is asked, and whether an earlier event is settled first.
#[derive(Clone, Debug)]
struct Step {
    /// Thousandths of the length; may be negative.
    permille: i64,
    jitter_us: i64,
    amount: u64,
    settles: Option<(prop::sample::Index, u64)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let permille = prop_oneof![4 => 0_i64..3, 6 => 0_i64..40, 2 => 0_i64..1_300, 1 => -600_i64..0];
    let settles = prop::option::weighted(0.2, (any::<prop::sample::Index>(), 0_u64..14));
    let step = (permille, -1_i64..=2, 1_u64..=8, settles);
    let step = step.prop_map(|(permille, jitter_us, amount, settles)| Step { permille, jitter_us, amount, settles });
    prop::collection::vec(step, 1..250)
}

fn moved(now: u64, step: &Step, length_ms: u32) -> u64 {
    now.saturating_add_signed(step.permille * i64::from(length_ms) + step.jitter_us)
}

/// Units that came at a time, and what they count for now.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at_us: u64,
    amount: u64,
    mark: Mark,
    is_open: bool,
}

fn sum_within(history: &[Counted], end_us: u64, reach_us: u64) -> u64 {
    let inside = |event: &&Counted| event.at_us <= end_us && end_us - event.at_us < reach_us;
    history.iter().filter(inside).map(|event| event.amount).sum()
}

fn lengths() -> impl Strategy<Value = u32> {
    prop_oneof![60_u32..400, 60_u32..=600_000, (1_u32..=10_000).prop_map(|width_ms| width_ms * 60), 1_u32..60]
}

/// Settles one open event at this time. What it used beyond its reservation is an event of its own.
fn settle(window: &mut Window, history: &mut Vec<Counted>, index: prop::sample::Index, (now, used): (u64, u64)) {
    let open: Vec<usize> = (0..history.len()).filter(|n| history[*n].is_open).collect();
    if open.is_empty() {
        return;
    }
    let event = &mut history[open[index.index(open.len())]];
    window.settle(at(now), event.mark, event.amount, used);
    event.is_open = false;
    let owed = used.saturating_sub(event.amount);
    event.amount = event.amount.min(used);
    let owed = Counted { at_us: window.seen_us, amount: owed, mark: Mark(window.newest()), is_open: false };
    history.push(owed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_stretch_holds_more_and_at_most_one_slice_is_lost(
        capacity in 1_u64..50, length_ms in lengths(), start_us in 0_u64..2_000_000_000, steps in steps(),
    ) {
        let length = u64::from(length_ms) * MS;
        let width = length.div_ceil(60);
        let mut window = window(length_ms, 0);
        let mut history: Vec<Counted> = Vec::new();
        let (mut now, mut latest) = (start_us, 0);
        for step in steps {
            now = moved(now, &step, length_ms);
            latest = now.max(latest);
            if let Some((index, used)) = step.settles {
                settle(&mut window, &mut history, index, (now, used));
            }
            let asked = step.amount;
            match take(&mut window, now, capacity, asked) {
                Ok(mark) => {
                    history.push(Counted { at_us: latest, amount: asked, mark, is_open: true });
                    prop_assert!(sum_within(&history, latest, length) <= capacity, "overshoot at {latest}");
                }
                Err(Wait::Forever) => prop_assert!(asked > capacity),
                Err(Wait::UntilACallEnds) => prop_assert!(false, "a window can tell"),
                Err(Wait::Micros(wait)) => {
                    let counted = sum_within(&history, latest, length + width);
                    prop_assert!(counted + asked > capacity, "lost more than a slice");
                    prop_assert!(wait > latest - now);
                    prop_assert!(take(&mut window.clone(), now + wait, capacity, asked).is_ok());
                    let still = take(&mut window.clone(), now + wait - 1, capacity, asked);
                    prop_assert_eq!(still, Err(Wait::Micros(1)));
                }
            }
        }
    }

    #[test]
    fn it_counts_what_a_list_of_events_says(capacity in 1_u64..50, length_ms in lengths(), steps in steps()) {
        let length = u64::from(length_ms) * MS;
        let width = length.div_ceil(60);
        let mut window = window(length_ms, 0);
        let mut history: Vec<Counted> = Vec::new();
        let (mut now, mut latest) = (0, 0);
        for step in steps {
            now = moved(now, &step, length_ms);
            latest = now.max(latest);
            if let Some((index, used)) = step.settles {
                settle(&mut window, &mut history, index, (now, used));
            }
            if let Ok(mark) = take(&mut window, now, capacity, step.amount) {
                history.push(Counted { at_us: latest, amount: step.amount, mark, is_open: true });
            }
            let counts = |event: &&Counted| latest < (event.mark.0 + 1) * width - 1 + length;
            let expected: u64 = history.iter().filter(counts).map(|event| event.amount).sum();
            prop_assert_eq!(window.used(), expected);
        }
    }

    #[test]
    fn standing_says_what_is_admitted(capacity in 1_u64..50, length_ms in lengths(), steps in steps()) {
        let mut window = window(length_ms, 0);
        let mut now = 0_u64;
        for step in steps {
            now = moved(now, &step, length_ms);
            take(&mut window, now, capacity, step.amount).ok();
            let free = capacity - window.used();
            prop_assert_eq!(window.check(at(now), capacity, free), Ok(()));
            prop_assert!(window.check(at(now), capacity, free + 1).is_err());
            let reset = window.reset_after_us(at(now)).expect("a window can tell");
            prop_assert_eq!(reset == 0, free == capacity);
            let used_at = |us: u64| {
                let mut window = window.clone();
                window.advance(at(us));
                window.used()
            };
            prop_assert_eq!(used_at(now + reset), 0);
            prop_assert!(reset == 0 || used_at(now + reset - 1) > 0);
        }
    }

    #[test]
    fn giving_back_restores_exactly(
        length_ms in lengths(), amounts in prop::collection::vec((0_u64..20, 0_u64..2_000_000), 1..40),
    ) {
        let mut used = window(length_ms, 0);
        let mut now = 0;
        for (amount, wait) in amounts {
            now += wait;
            used.advance(at(now));
            let before = used.clone();
            let mark = used.take(amount);
            prop_assert_eq!(used.used(), before.used() + amount);
            let mut restored = used.clone();
            restored.settle(at(now), mark, amount, 0);
            prop_assert_eq!(format!("{restored:?}"), format!("{before:?}"));
        }
    }

}

proptest! {
    #[test]
    fn a_debt_is_paid_to_the_last_unit(
        capacity in 1_u64..60, debt_permille in 0_u64..=1_000, before in 0_u64..60, waits in prop::collection::vec(0_u64..300, 200),
    ) {
        let (before, length_ms) = (before.min(capacity), 600);
        let mut honest = window(length_ms, 0);
        let mark = take(&mut honest, 0, capacity, before).expect("an empty window admits");
        let debt = (capacity - before) * debt_permille / 1_000;
        let mut owing = honest.clone();
        owing.settle(at(50 * MS), mark, before, before + debt);
        honest.settle(at(50 * MS), mark, before, before);
        let (mut now, mut admitted, mut admitted_owing) = (50 * MS, 0, 0);
        // Whoever takes all that is free whenever a slice may have left gets exactly that much less, for good.
        for (n, wait) in waits.into_iter().enumerate() {
            now = if n == 0 { now } else { now + 10 * MS + wait };
            for _ in 0..capacity {
                admitted += u64::from(take(&mut honest, now, capacity, 1).is_ok());
                admitted_owing += u64::from(take(&mut owing, now, capacity, 1).is_ok());
            }
            prop_assert_eq!(admitted - admitted_owing, debt, "at {}", now);
        }
    }
}

#[test]
fn a_debt_beyond_the_capacity_blocks_for_one_length() {
    let mut window = window(60_000, 0);
    let mark = take(&mut window, 0, 10, 4).expect("an empty window admits");
    window.settle(at(5_500 * MS), mark, 4, 25);
    assert_eq!(window.used(), 25);
    // The slice of the settling moment, 5, leaves with the stretch that begins in it.
    assert_eq!(window.check(at(5_500 * MS), 10, 1), Err(Wait::Micros(66_000_000 - 1 - 5_500 * MS)));
    assert_eq!(window.check(at(65_999_998), 10, 1), Err(Wait::Micros(1)));
    assert_eq!(window.check(at(65_999_999), 10, 10), Ok(()));
}

#[test]
fn a_window_becomes_wide_for_a_slice_of_more_than_four_billion() {
    let mut window = window(60_000, 0);
    let much = u64::from(u32::MAX);
    let first = take(&mut window, 0, MOST_UNITS, much).expect("an empty window admits");
    assert!(matches!(window.counts, Ring::Narrow(_)));
    let second = take(&mut window, 2_000 * MS, MOST_UNITS, much + 1).expect("room");
    assert!(matches!(window.counts, Ring::Wide(_)));
    assert_eq!(window.used(), 2 * much + 1);
    window.settle(at(2_000 * MS), first, much, 1);
    window.settle(at(2_000 * MS), second, much + 1, 5);
    assert_eq!(window.used(), 6);
    window.settle(at(2_000 * MS), second, 0, u64::MAX);
    window.settle(at(2_000 * MS), second, 0, u64::MAX);
    assert_eq!(window.used(), MOST_UNITS, "all slices together count up to 2⁵³ - 1");
}

#[test]
fn one_event_counts_for_the_length_and_less_than_a_slice_more() {
    for length_ms in (1_u32..=185).step_by(3) {
        let (length, width) = (u64::from(length_ms) * MS, (u64::from(length_ms) * MS).div_ceil(60));
        for start in (0..400_u64 * MS).step_by(7_919) {
            let mut window = window(length_ms, 0);
            take(&mut window, start, 1, 1).expect("an empty window admits");
            let Err(Wait::Micros(wait)) = take(&mut window, start, 1, 1) else { panic!("it is full") };
            assert!((length..length + width).contains(&wait), "length {length}, at {start}, wait {wait}");
            for now in (start..start + wait).step_by(11_003).chain([start + wait - 1]) {
                assert!(window.check(at(now), 1, 1).is_err(), "length {length}, at {start}, now {now}");
            }
            assert!(window.check(at(start + wait), 1, 1).is_ok(), "length {length}, at {start}");
        }
    }
}

#[test]
fn a_minute_of_a_hundred_is_full_for_a_minute_and_free_within_one_second_more() {
    let mut window = window(60_000, 0);
    for n in 0..100 {
        assert!(take(&mut window, 5_300 * MS + n, 100, 1).is_ok());
    }
    assert_eq!(take(&mut window, 5_400 * MS, 100, 1), Err(Wait::Micros(65_999_999 - 5_400 * MS)));
    assert!(window.check(at(65_999_998), 100, 1).is_err());
    assert!(window.check(at(65_999_999), 100, 100).is_ok());
}

#[test]
fn more_than_the_capacity_is_refused_for_good_and_nothing_always_passes() {
    let mut window = window(60_000, 0);
    assert_eq!(window.check(at(0), 5, 6), Err(Wait::Forever));
    assert_eq!(window.check(at(0), 0, 1), Err(Wait::Forever));
    assert_eq!(window.check(at(0), 0, 0), Ok(()));
    take(&mut window, 0, 5, 5).expect("an empty window admits");
    assert_eq!(window.check(at(0), 2, 0), Ok(()));
}

#[test]
fn a_clock_that_goes_back_frees_nothing() {
    let mut window = window(60_000, 0);
    take(&mut window, 100_000 * MS, 1, 1).expect("an empty window admits");
    for now in [100_000 * MS, 99_999 * MS, 40_000 * MS, 0] {
        assert_eq!(take(&mut window, now, 1, 1), Err(Wait::Micros(160_999_999 - now)), "now {now}");
    }
}

#[test]
fn a_refused_check_moves_the_clock_too() {
    let mut window = window(60_000, 0);
    take(&mut window, 0, 1, 1).expect("an empty window admits");
    assert!(window.check(at(70_000 * MS), 1, 2).is_err());
    assert_eq!(take(&mut window, 0, 1, 1), Ok(Mark(70)), "counted at the latest time seen");
}

#[test]
fn a_changed_capacity_keeps_the_history() {
    let mut window = window(60_000, 0);
    take(&mut window, 0, 10, 10).expect("an empty window admits");
    assert!(window.check(at(0), 10, 1).is_err());
    assert!(window.check(at(0), 11, 1).is_ok());
    assert_eq!(window.check(at(0), 4, 1), Err(Wait::Micros(60_999_999)));
}

#[test]
fn what_has_left_the_window_is_not_given_back_to_its_successor() {
    let mut window = window(60_000, 0);
    let old = take(&mut window, 0, 3, 3).expect("an empty window admits");
    take(&mut window, 61_000 * MS, 3, 3).expect("the first have left");
    window.settle(at(61_000 * MS), old, 3, 0);
    assert_eq!(window.used(), 3);
}

#[test]
fn giving_back_twice_never_falls_below_zero() {
    let mut window = window(60_000, 0);
    let one = take(&mut window, 0, 10, 1).expect("room");
    take(&mut window, 5_000 * MS, 10, 4).expect("room");
    for (mark, amount) in [(one, 1), (one, 1), (Mark(3), 9), (Mark(6), 9)] {
        window.settle(at(5_000 * MS), mark, amount, 0);
    }
    assert_eq!(window.used(), 4);
}

#[test]
fn the_ends_of_the_number_range_are_harmless() {
    for length_ms in [1, 59, 61, u32::MAX] {
        let mut window = window(length_ms, 0);
        take(&mut window, u64::MAX - 1, MOST_UNITS, MOST_UNITS).expect("an empty window admits");
        assert!(take(&mut window, u64::MAX, MOST_UNITS, 1).is_err(), "length {length_ms}");
        window.settle(at(u64::MAX), Mark(u64::MAX), 0, u64::MAX);
        assert!(window.used() >= MOST_UNITS && window.reset_after_us(at(0)) == Some(u64::MAX), "length {length_ms}");
    }
}
