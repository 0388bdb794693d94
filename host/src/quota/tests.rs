//! Whole calls with charges of every unit and shape, against a list of everything that happened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;
use crate::policy::{Amount, Period, Rule, Shape, TokenKind};

/// Wednesday 2026-06-10, 12:00.
const NOON_US: u64 = 1_781_092_800_000_000;
const HOUR_US: u64 = 3_600_000_000;
const WINDOW_MS: u32 = 60_000;

fn quota() -> Arc<Quota> {
    Arc::new(Quota::new(QuotaBounds::default()))
}

fn at(us: u64) -> Moment {
    Moment { monotonic_us: us, unix_us: NOON_US + us }
}

fn tokens(kind: TokenKind, weight_permille: u32, shape: Shape) -> Rule {
    Rule::Metered { amount: Amount::Tokens { kind, weight_permille }, shape }
}

fn requests(shape: Shape) -> Rule {
    Rule::Metered { amount: Amount::Requests(1), shape }
}

/// One rule of each kind; `more` raises every capacity.
fn rules(more: u64) -> [Rule; 5] {
    let window = |capacity| Shape::Window { capacity, length_ms: WINDOW_MS };
    [
        requests(window(12 + more)),
        tokens(TokenKind::All, 1_500, window(90 + more)),
        tokens(TokenKind::Input, 1_000, Shape::Bucket { burst: 40 + more, refill: 3, every_ms: 2_000 }),
        tokens(TokenKind::Output, 500, Shape::Calendar { capacity: 60 + more, period: Period::Hour }),
        Rule::Concurrent(6 + u32::try_from(more).expect("little")),
    ]
}

fn charges(more: u64) -> Vec<Charge<'static>> {
    let limits = ["requests", "tokens", "input", "output", "running"];
    let charge = |(limit, rule)| Charge { policy: "p", limit, partition: "k", rule };
    limits.into_iter().zip(rules(more)).map(charge).collect()
}

/// What the five counters must hold: everything that was ever counted.
#[derive(Debug, Default)]
struct Model {
    /// Units of the two windows, by the slice of a second in which they count.
    windows: [Vec<(u64, i128)>; 2],
    /// Units of the bucket and when they were poured in or taken out.
    bucket: Vec<(u64, i128)>,
    /// Units of the calendar by the end of their hour.
    calendar: Vec<(u64, i128)>,
    running: i128,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    slice: u64,
    hour: u64,
    amounts: [i128; 5],
}

fn amounts(tokens: Tokens) -> [i128; 5] {
    let (input, output) = (i128::from(tokens.input), i128::from(tokens.output));
    [1, ((input + output) * 1_500 + 999) / 1_000, input, (output * 500 + 999) / 1_000, 1]
}

fn hour_end(now_us: u64) -> u64 {
    ((NOON_US + now_us) / HOUR_US + 1) * HOUR_US
}

impl Model {
    /// Units that count at this time. A bucket's are in fractions of a unit: 2,000,000 / 3 µs drain one.
    fn used(&self, now_us: u64) -> [i128; 5] {
        let window = |events: &[(u64, i128)]| -> i128 {
            let counts = |(slice, _): &&(u64, i128)| now_us < (slice + 1) * 1_000_000 - 1 + 60_000_000;
            events.iter().filter(counts).map(|(_, units)| units).sum()
        };
        let (mut level, mut seen) = (0, 0);
        for (then, units) in self.bucket.iter().copied().chain([(now_us, 0)]) {
            level = (level - i128::from(then - seen) * 3).max(0);
            level = (level + units * 2_000_000).max(0);
            seen = then;
        }
        let of_hour = |(end, _): &&(u64, i128)| *end == hour_end(now_us);
        let calendar = self.calendar.iter().filter(of_hour).map(|(_, units)| units).sum();
        let [requests, tokens] = &self.windows;
        [window(requests), window(tokens), (level + 1_999_999) / 2_000_000, calendar, self.running]
    }

    fn fits(&self, now_us: u64, capacities: [i128; 5], amounts: [i128; 5]) -> bool {
        let used = self.used(now_us);
        (0..5).all(|n| amounts[n] == 0 || used[n] + amounts[n] <= capacities[n])
    }

    fn count(&mut self, now_us: u64, amounts: [i128; 5]) -> Call {
        let call = Call { slice: now_us / 1_000_000, hour: hour_end(now_us), amounts };
        for (events, units) in self.windows.iter_mut().zip(amounts) {
            events.push((call.slice, units));
        }
        self.bucket.push((now_us, amounts[2]));
        self.calendar.push((call.hour, amounts[3]));
        self.running += 1;
        call
    }

    fn settle(&mut self, now_us: u64, call: Call, used: [i128; 5]) {
        let more = |n: usize| used[n] - call.amounts[n];
        for (n, events) in self.windows.iter_mut().enumerate() {
            events.push((if more(n) > 0 { now_us / 1_000_000 } else { call.slice }, more(n)));
        }
        self.bucket.push((now_us, more(2)));
        self.calendar.push((call.hour, more(3)));
        self.running -= 1;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(i64),
    Call { expected: Tokens, more: u64 },
    Settle { which: prop::sample::Index, outcome: Option<Outcome> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = || (0_u64..25, 0_u64..25).prop_map(|(input, output)| Tokens { input, output });
    let wait = prop_oneof![
        4 => 0_i64..3_000_000, 2 => 0_i64..50_000_000, 1 => 0_i64..4_000_000_000, 1 => -5_000_000_i64..0
    ];
    let outcome = prop_oneof![
        1 => (0..1).prop_map(|_| None),
        1 => (0..1).prop_map(|_| Some(Outcome::Refund)),
        1 => (0..1).prop_map(|_| Some(Outcome::RequestOnly)),
        4 => some().prop_map(|tokens| Some(Outcome::Used(tokens))),
    ];
    let step = prop_oneof![
        3 => wait.prop_map(Step::Wait),
        5 => (some(), 0_u64..4).prop_map(|(expected, more)| Step::Call { expected, more }),
        4 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Step::Settle { which, outcome }),
    ];
    prop::collection::vec(step, 1..200)
}

fn used_by(call: Call, outcome: Option<Outcome>) -> [i128; 5] {
    match outcome {
        None | Some(Outcome::Refund) => [0; 5],
        Some(Outcome::RequestOnly) => [call.amounts[0], 0, 0, 0, 0],
        Some(Outcome::Used(tokens)) => {
            let [_, all, input, output, _] = amounts(tokens);
            [call.amounts[0], all, input, output, 0]
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn calls_are_admitted_and_settled_as_a_list_of_events_says(steps in steps()) {
        let quota = quota();
        let mut model = Model::default();
        let mut open: Vec<(Reservation, Call)> = Vec::new();
        // The wall clock never goes back here: what it must do then is its own test.
        let (mut now, mut latest) = (0_u64, 0_u64);
        let moment = |now, latest| Moment { monotonic_us: now, unix_us: NOON_US + latest };
        for step in steps {
            match step {
                Step::Wait(us) => {
                    now = now.saturating_add_signed(us);
                    latest = latest.max(now);
                    // Every counter has seen it, as far as there is one.
                    quota.look(moment(now, latest), &charges(0)).expect("good charges");
                }
                Step::Call { expected, more } => {
                    let charges = charges(more);
                    let capacities = [12, 90, 40, 60, 6].map(|capacity| capacity + i128::from(more));
                    let before = quota.look(moment(now, latest), &charges).expect("good charges");
                    let reserved = quota.reserve(moment(now, latest), "ann", &charges, expected);
                    prop_assert_eq!(reserved.is_ok(), model.fits(latest, capacities, amounts(expected)));
                    let standings = match reserved {
                        Ok(reservation) => {
                            let standings = reservation.standings().to_vec();
                            open.push((reservation, model.count(latest, amounts(expected))));
                            standings
                        }
                        Err(Refused::Exceeded(exceeded)) => {
                            prop_assert_eq!(&exceeded.standings, &before, "a refusal charges nothing");
                            if let (true, Wait::Micros(wait)) = (now == latest, exceeded.wait) {
                                let fits_after = |wait| {
                                    let places = [capacities[0], capacities[1], capacities[2], capacities[3], i128::MAX];
                                    model.fits(now + wait, places, amounts(expected))
                                };
                                prop_assert!(fits_after(wait) && !fits_after(wait - 1), "{} is not exact", wait);
                            }
                            exceeded.standings
                        }
                        Err(other) => return Err(proptest::test_runner::TestCaseError::fail(other.to_string())),
                    };
                    let used = model.used(latest);
                    for (n, standing) in standings.iter().enumerate() {
                        let free = (capacities[n] - used[n]).max(0);
                        prop_assert_eq!(i128::from(standing.remaining), free, "{:?}", standing);
                        let held: i128 = open.iter().map(|(_, call)| call.amounts[n]).sum();
                        prop_assert_eq!(i128::from(standing.reserved), held);
                    }
                }
                Step::Settle { which, outcome } => {
                    if open.is_empty() {
                        continue;
                    }
                    let (reservation, call) = open.swap_remove(which.index(open.len()));
                    match outcome {
                        Some(outcome) => reservation.settle(moment(now, latest), outcome),
                        None => drop(reservation),
                    }
                    model.settle(latest, call, used_by(call, outcome));
                }
            }
        }
        prop_assert_eq!(quota.totals().overshoot_units(), 0);
    }
}

fn charge(limit: &str, rule: Rule) -> Charge<'_> {
    Charge { policy: "p", limit, partition: "k", rule }
}

#[test]
fn standings_say_what_headers_need_and_looking_charges_nothing() {
    const MINUTE_US: u64 = 60_000_000;
    let window = tokens(TokenKind::Input, 2_000, Shape::Window { capacity: 100, length_ms: 60_000 });
    let bucket = requests(Shape::Bucket { burst: 10, refill: 5, every_ms: 60_000 });
    let month = tokens(TokenKind::All, 1_000, Shape::Calendar { capacity: 1_000, period: Period::Month });
    let charges = [
        charge("tpm", window),
        charge("burst", bucket),
        charge("month", month),
        charge("running", Rule::Concurrent(3)),
    ];
    let quota = quota();
    let standing = |limit: &str, unit, capacity, (remaining, reserved), reset_after_us, window_us| Standing {
        limit: limit.into(),
        unit,
        capacity,
        remaining,
        reserved,
        reset_after_us,
        window_us,
    };
    let (june, rest_of_june) = (30 * 24 * HOUR_US, 20 * 24 * HOUR_US + 12 * HOUR_US);
    let all = |tpm: (_, _), burst: (_, _), month, running| {
        vec![
            standing("tpm", Unit::Tokens(TokenKind::Input), 100, tpm.0, tpm.1, Some(MINUTE_US)),
            standing("burst", Unit::Requests, 10, burst.0, burst.1, Some(2 * MINUTE_US)),
            standing("month", Unit::Tokens(TokenKind::All), 1_000, month, Some(rest_of_june), Some(june)),
            standing("running", Unit::Calls, 3, running, None, None),
        ]
    };
    let untouched = all(((100, 0), Some(0)), ((10, 0), Some(0)), (1_000, 0), (3, 0));
    assert_eq!(quota.look(at(0), &charges), Ok(untouched));

    let expected = Tokens { input: 20, output: 5 };
    let call = quota.reserve(at(0), "ann", &charges, expected).expect("room");
    let reserved = all(((60, 40), Some(MINUTE_US + 999_999)), ((9, 1), Some(12_000_000)), (975, 25), (2, 1));
    assert_eq!(call.standings(), reserved);
    assert_eq!(quota.look(at(0), &charges), Ok(reserved));

    call.settle(at(0), Outcome::Used(Tokens { input: 60, output: 7 }));
    let settled = all(((0, 0), Some(MINUTE_US + 999_999)), ((9, 0), Some(12_000_000)), (933, 0), (3, 0));
    assert_eq!(quota.look(at(0), &charges), Ok(settled.clone()));
    let Err(Refused::Exceeded(exceeded)) = quota.reserve(at(0), "ann", &charges, expected) else {
        panic!("the input is used up")
    };
    assert_eq!((&*exceeded.limit, exceeded.rule, exceeded.standings), ("tpm", window, settled));
    assert_eq!(exceeded.wait, Wait::Micros(MINUTE_US + 999_999));
    let totals = quota.totals();
    assert_eq!((totals.admitted(), totals.refused(), totals.overshoot_units()), (1, 1, 0));
    assert_eq!((totals.debts(), totals.debt_units()), (1, 20), "120 used of 100");
}

#[test]
fn each_outcome_gives_back_what_it_should_and_dropping_gives_back_all() {
    let window = Shape::Window { capacity: 100, length_ms: 60_000 };
    let charges = [
        charge("requests", requests(window)),
        charge("tokens", tokens(TokenKind::All, 1_000, window)),
        charge("running", Rule::Concurrent(3)),
    ];
    let used = |outcome: Option<Outcome>| {
        let quota = quota();
        let call = quota.reserve(at(0), "ann", &charges, Tokens { input: 10, output: 10 }).expect("room");
        match outcome {
            Some(outcome) => call.settle(at(5), outcome),
            None => drop(call),
        }
        let standings = quota.look(at(5), &charges).expect("good charges");
        standings.iter().map(|standing| standing.capacity - standing.remaining).collect::<Vec<_>>()
    };
    assert_eq!(used(None), [0, 0, 0]);
    assert_eq!(used(Some(Outcome::Refund)), [0, 0, 0]);
    assert_eq!(used(Some(Outcome::RequestOnly)), [1, 0, 0]);
    assert_eq!(used(Some(Outcome::Used(Tokens { input: 3, output: 4 }))), [1, 7, 0]);
    assert_eq!(used(Some(Outcome::Used(Tokens { input: 30, output: 4 }))), [1, 34, 0]);
}

#[test]
fn threads_get_exactly_what_each_shape_admits_and_leave_only_what_they_used() {
    let quota = quota();
    let window = Shape::Window { capacity: 1_000, length_ms: 60_000 };
    let charges = [
        charge("requests", requests(window)),
        charge("tokens", tokens(TokenKind::All, 1_000, Shape::Calendar { capacity: 4_000, period: Period::Day })),
        charge("burst", requests(Shape::Bucket { burst: 700, refill: 1, every_ms: 60_000 })),
        charge("running", Rule::Concurrent(3)),
    ];
    let (admitted, running) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..1_000_u64 {
                    let Ok(call) = quota.reserve(at(0), "ann", &charges, Tokens { input: 5, output: 5 }) else {
                        continue;
                    };
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 3, "three at a time");
                    running.fetch_sub(1, Ordering::SeqCst);
                    if n % 7 == 0 {
                        drop(call);
                    } else {
                        admitted.fetch_add(1, Ordering::SeqCst);
                        call.settle(at(0), Outcome::Used(Tokens { input: 5, output: 1 }));
                    }
                }
            });
        }
    });
    // Whoever was refused while others ran may try again, one at a time.
    while let Ok(call) = quota.reserve(at(0), "ann", &charges, Tokens { input: 5, output: 1 }) {
        admitted.fetch_add(1, Ordering::SeqCst);
        call.settle(at(0), Outcome::Used(Tokens { input: 5, output: 1 }));
    }
    let standings = quota.look(at(0), &charges).expect("good charges");
    let free: Vec<u64> = standings.iter().map(|standing| standing.remaining).collect();
    assert_eq!((admitted.into_inner(), free), (666, vec![334, 4, 34, 3]), "666 calls of six tokens each");
    assert_eq!((quota.totals().overshoot_units(), quota.totals().debt_units()), (0, 0));
}

#[test]
fn many_more_keys_than_places_leave_only_those_that_count() {
    let bounds = QuotaBounds { max_counters: 64_000, ..QuotaBounds::default() };
    let quota = Arc::new(Quota::new(bounds));
    let rule = requests(Shape::Window { capacity: 5, length_ms: 60 });
    let mut refused = 0;
    for n in 0..250_000_u64 {
        let partition = n.to_string();
        let charge = Charge { policy: "p", limit: "l", partition: &partition, rule };
        match quota.reserve(at(n * 2), &partition, &[charge], Tokens::default()) {
            Ok(call) => call.settle(at(n * 2), Outcome::RequestOnly),
            Err(_) => refused += 1,
        }
    }
    assert_eq!(refused, 0, "some 30,000 count at any time, and the others make room");
}
