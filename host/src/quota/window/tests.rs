//! The window against brute force over everything that was admitted.

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;

fn window(length_ms: u32, now_ms: u64) -> Window {
    Window::new(NonZeroU32::new(length_ms).expect("a length"), now_ms)
}

fn take(window: &mut Window, now_ms: u64, capacity: u64, amount: u64) -> Result<Slice, NoRoom> {
    window.check(now_ms, capacity, amount)?;
    Ok(window.commit(amount))
}

/// One event of a history: how far the clock moves, what is asked, and whether an earlier event is given back first.
#[derive(Clone, Debug)]
struct Step {
    /// Thousandths of the length; may be negative.
    permille: i64,
    jitter_ms: i64,
    amount: u64,
    gives_back: Option<prop::sample::Index>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let permille = prop_oneof![4 => 0_i64..3, 6 => 0_i64..40, 2 => 0_i64..1_300, 1 => -600_i64..0];
    let step = (permille, -1_i64..=2, 1_u64..=8, prop::option::weighted(0.1, any::<prop::sample::Index>()));
    let step =
        step.prop_map(|(permille, jitter_ms, amount, gives_back)| Step { permille, jitter_ms, amount, gives_back });
    prop::collection::vec(step, 1..250)
}

#[derive(Clone, Copy, Debug)]
struct Admitted {
    at_ms: u64,
    amount: u64,
    slice: Slice,
}

fn sum_within(history: &[Admitted], end_ms: u64, reach_ms: u64) -> u64 {
    let inside = |event: &&Admitted| event.at_ms <= end_ms && end_ms - event.at_ms < reach_ms;
    history.iter().filter(inside).map(|event| event.amount).sum()
}

fn lengths() -> impl Strategy<Value = u32> {
    prop_oneof![60_u32..400, 60_u32..=600_000, (1_u32..=10_000).prop_map(|width_ms| width_ms * 60), 1_u32..60]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_stretch_holds_more_and_at_most_one_slice_is_lost(
        capacity in 1_u64..50, length_ms in lengths(), start_ms in 0_u64..2_000_000, steps in steps(),
    ) {
        let length = u64::from(length_ms);
        let width = length.div_ceil(60);
        let mut window = window(length_ms, 0);
        let mut history: Vec<Admitted> = Vec::new();
        let (mut now, mut latest) = (start_ms, 0);
        for step in steps {
            now = now.saturating_add_signed(step.permille * i64::from(length_ms) / 1_000 + step.jitter_ms);
            latest = now.max(latest);
            if let Some(index) = step.gives_back.filter(|_| !history.is_empty()) {
                let event = history.swap_remove(index.index(history.len()));
                window.give_back(event.slice, event.amount);
            }
            let asked = step.amount;
            match take(&mut window, now, capacity, asked) {
                Ok(slice) => {
                    history.push(Admitted { at_ms: latest, amount: asked, slice });
                    prop_assert!(sum_within(&history, latest, length) <= capacity, "overshoot at {latest}");
                }
                Err(NoRoom { retry_after_ms: None }) => prop_assert!(asked > capacity),
                Err(NoRoom { retry_after_ms: Some(wait) }) => {
                    let counted = sum_within(&history, latest, length + width);
                    prop_assert!(counted + asked > capacity, "lost more than a slice");
                    prop_assert!(wait > latest - now);
                    prop_assert!(take(&mut window.clone(), now + wait, capacity, asked).is_ok());
                    let still = take(&mut window.clone(), now + wait - 1, capacity, asked);
                    prop_assert_eq!(still, Err(NoRoom { retry_after_ms: Some(1) }));
                }
            }
        }
        for event in &history {
            prop_assert!(sum_within(&history, event.at_ms, length) <= capacity);
        }
    }

    #[test]
    fn remaining_and_reset_say_what_is_admitted(
        capacity in 1_u64..50, length_ms in lengths(), steps in steps(),
    ) {
        let mut window = window(length_ms, 0);
        let mut now = 0_u64;
        for step in steps {
            now = now.saturating_add_signed(step.permille * i64::from(length_ms) / 1_000 + step.jitter_ms);
            take(&mut window, now, capacity, step.amount).ok();
            let free = window.remaining(now, capacity);
            prop_assert_eq!(window.check(now, capacity, free), Ok(()));
            prop_assert!(window.check(now, capacity, free + 1).is_err());
            let reset = window.reset_after_ms(now);
            prop_assert_eq!(reset == 0, free == capacity);
            prop_assert_eq!(window.clone().remaining(now + reset, capacity), capacity);
            if reset > 0 {
                prop_assert!(window.clone().remaining(now + reset - 1, capacity) < capacity);
            }
        }
    }

    #[test]
    fn giving_back_restores_exactly(
        length_ms in lengths(), amounts in prop::collection::vec((0_u64..20, 0_u64..2_000), 1..40),
    ) {
        let mut used = window(length_ms, 0);
        let mut now = 0;
        for (amount, wait) in amounts {
            now += wait;
            let free = used.remaining(now, 1_000_000);
            let before = used.clone();
            let slice = used.commit(amount);
            prop_assert_eq!(used.remaining(now, 1_000_000), free - amount);
            let mut restored = used.clone();
            restored.give_back(slice, amount);
            prop_assert_eq!(restored.counts, before.counts);
            prop_assert_eq!(restored.total, before.total);
        }
    }
}

#[test]
fn a_counter_is_half_a_kibibyte() {
    assert!(size_of::<Window>() <= 512, "{}", size_of::<Window>());
}

#[test]
fn one_event_counts_for_the_length_and_less_than_a_slice_more() {
    for length_ms in 1_u32..=185 {
        let (length, width) = (u64::from(length_ms), u64::from(length_ms.div_ceil(60)));
        for at in 0..200_u64 {
            let mut window = window(length_ms, 0);
            take(&mut window, at, 1, 1).expect("an empty window admits");
            let wait = take(&mut window, at, 1, 1).expect_err("it is full").retry_after_ms.expect("not for good");
            assert!((length..length + width).contains(&wait), "length {length}, at {at}, wait {wait}");
            for now in at..at + wait {
                assert!(window.check(now, 1, 1).is_err(), "length {length}, at {at}, now {now}");
            }
            assert!(window.check(at + wait, 1, 1).is_ok(), "length {length}, at {at}");
        }
    }
}

#[test]
fn a_minute_of_a_hundred_is_full_for_a_minute_and_free_within_one_second_more() {
    let mut window = window(60_000, 0);
    for n in 0..100 {
        assert!(take(&mut window, 5_300 + n, 100, 1).is_ok());
    }
    assert_eq!(take(&mut window, 5_400, 100, 1), Err(NoRoom { retry_after_ms: Some(65_999 - 5_400) }));
    assert!(window.check(65_998, 100, 1).is_err());
    assert!(window.check(65_999, 100, 100).is_ok());
}

#[test]
fn more_than_the_capacity_is_refused_for_good() {
    let mut window = window(60_000, 0);
    assert_eq!(window.check(0, 5, 6), Err(NoRoom { retry_after_ms: None }));
    assert_eq!(window.check(0, 0, 1), Err(NoRoom { retry_after_ms: None }));
    assert_eq!(window.check(0, 5, 5), Ok(()));
}

#[test]
fn zero_always_passes() {
    let mut window = window(60_000, 0);
    assert_eq!(window.check(0, 0, 0), Ok(()));
    take(&mut window, 0, 5, 5).expect("an empty window admits");
    assert_eq!(window.check(0, 2, 0), Ok(()));
}

#[test]
fn a_clock_that_goes_back_frees_nothing() {
    let mut window = window(60_000, 0);
    take(&mut window, 100_000, 1, 1).expect("an empty window admits");
    for now in [100_000, 99_999, 40_000, 0] {
        let refused = take(&mut window, now, 1, 1).expect_err("full");
        assert_eq!(refused.retry_after_ms, Some(160_999 - now - 1 + 1), "now {now}");
    }
}

#[test]
fn a_refused_check_moves_the_clock_too() {
    let mut window = window(60_000, 0);
    take(&mut window, 0, 1, 1).expect("an empty window admits");
    assert!(window.check(70_000, 1, 2).is_err());
    let slice = take(&mut window, 0, 1, 1).expect("the first has left");
    assert_eq!(slice, Slice(70), "counted at the latest time seen");
}

#[test]
fn a_changed_capacity_keeps_the_history() {
    let mut window = window(60_000, 0);
    take(&mut window, 0, 10, 10).expect("an empty window admits");
    assert!(window.check(0, 10, 1).is_err());
    assert!(window.check(0, 11, 1).is_ok());
    assert_eq!(window.remaining(0, 4), 0);
    assert_eq!(window.check(0, 4, 1), Err(NoRoom { retry_after_ms: Some(60_999) }));
}

#[test]
fn what_has_left_the_window_is_not_given_back_to_its_successor() {
    let mut window = window(60_000, 0);
    let old = take(&mut window, 0, 3, 3).expect("an empty window admits");
    take(&mut window, 61_000, 3, 3).expect("the first have left");
    window.give_back(old, 3);
    assert_eq!(window.remaining(61_000, 3), 0);
}

#[test]
fn giving_back_twice_never_falls_below_zero() {
    let mut window = window(60_000, 0);
    let one = take(&mut window, 0, 10, 1).expect("room");
    take(&mut window, 5_000, 10, 4).expect("room");
    window.give_back(one, 1);
    window.give_back(one, 1);
    window.give_back(Slice(3), 9);
    window.give_back(Slice(6), 9);
    assert_eq!(window.remaining(5_000, 10), 6);
}

#[test]
fn the_ends_of_the_number_range_are_harmless() {
    for length_ms in [1, 59, 61, u32::MAX] {
        let mut window = window(length_ms, 0);
        take(&mut window, u64::MAX - 1, u64::MAX, u64::MAX).expect("an empty window admits");
        assert!(take(&mut window, u64::MAX, u64::MAX, 1).is_err() || length_ms == 1, "length {length_ms}");
        assert_eq!(window.remaining(u64::MAX, u64::MAX) == 0, length_ms != 1, "length {length_ms}");
    }
}
