//! The script against a reference of few lines: the same answers to a thousand lists of events, at times of our own.

use std::cell::RefCell;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::reference::{Reference, period_end};
use super::server::Server;
use super::*;
use crate::policy::MOST_UNITS;
use crate::quota::shared::counter::{Counter, Kind, counters};
use crate::quota::shared::script::{Call, Reading};

const LEASE_US: u64 = 20_000;

#[derive(Clone, Debug)]
enum Event {
    /// Time moves by so many µs.
    Moves(i64),
    /// A call is charged these of the rules.
    Reserves { charged: Vec<bool>, expected: u64 },
    /// A call, counted back from the last, ends.
    Ends { call: usize, outcome: Option<Outcome> },
    /// A call is renewed.
    Renews { call: usize },
    /// A call is reserved a second time.
    Repeats { call: usize },
}

pub(super) fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let capacity = || prop_oneof![8 => 0_u64..20, 1 => Just(MOST_UNITS), 1 => MOST_UNITS - 3..=MOST_UNITS];
    let window = (capacity(), 1_u32..150).prop_map(|(capacity, length_ms)| Shape::Window { capacity, length_ms });
    let bucket = (0_u64..20, prop_oneof![1_u64..9, 1_u64..5_000], 1_u32..40)
        .prop_map(|(burst, refill, every_ms)| Shape::Bucket { burst, refill, every_ms });
    let period = prop_oneof![Just(Period::Hour), Just(Period::Day), Just(Period::Week), Just(Period::Month)];
    let calendar = (capacity(), period).prop_map(|(capacity, period)| Shape::Calendar { capacity, period });
    let amount = prop_oneof![
        (0_u32..4).prop_map(Amount::Requests),
        (1_u32..3_000).prop_map(|weight_permille| Amount::Tokens { kind: TokenKind::All, weight_permille }),
    ];
    let metered =
        (amount, prop_oneof![window, bucket, calendar]).prop_map(|(amount, shape)| Rule::Metered { amount, shape });
    proptest::collection::vec(prop_oneof![4 => metered, 1 => (0_u32..4).prop_map(Rule::Concurrent)], 1..5)
}

pub(super) fn tokens() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0_u64..9, 1 => MOST_UNITS - 2..=MOST_UNITS]
}

/// None: the call is cancelled.
pub(super) fn outcome() -> impl Strategy<Value = Option<Outcome>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Outcome::Refund)),
        1 => Just(Some(Outcome::RequestOnly)),
        4 => tokens().prop_map(|input| Some(Outcome::Used(Tokens { input, output: 0 }))),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let moves = prop_oneof![
        12 => 0_i64..30_000,
        2 => Just(LEASE_US.cast_signed()),
        4 => 0_i64..200_000,
        1 => 0_i64..9_000_000_000,
        1 => 0_i64..3_000_000_000_000,
        2 => -100_000_i64..0,
        1 => -5_000_000_000_i64..0,
    ];
    let charged = proptest::collection::vec(proptest::bool::weighted(0.7), 4);
    prop_oneof![
        4 => moves.prop_map(Event::Moves),
        6 => (charged, tokens()).prop_map(|(charged, expected)| Event::Reserves { charged, expected }),
        3 => (0_usize..5, outcome()).prop_map(|(call, outcome)| Event::Ends { call, outcome }),
        1 => (0_usize..5).prop_map(|call| Event::Renews { call }),
        1 => (0_usize..5).prop_map(|call| Event::Repeats { call }),
    ]
}

/// A call of the reference.
#[derive(Debug)]
struct Reserved {
    charged: Vec<usize>,
    counters: SmallCounters,
    /// Its answer and marks, while it is open.
    open: Option<(Vec<i64>, Vec<u64>)>,
    closed: bool,
}

type SmallCounters = SmallVec<[Counter; 4]>;

/// Runs events through the reference, and writes the script's calls with the answers that they have to give.
struct History {
    limits: Limits,
    now: u64,
    rules: Vec<Rule>,
    names: Vec<String>,
    references: Vec<Reference>,
    calls: Vec<Reserved>,
    script: Vec<(redis::Cmd, Vec<i64>)>,
}

impl History {
    fn new(tag: &str, now: u64, rules: Vec<Rule>) -> Self {
        let names = (0..rules.len()).map(|place| format!("limit-{place}")).collect();
        let references = vec![Reference::default(); rules.len()];
        Self { limits: Limits::new(tag), now, rules, names, references, calls: Vec::new(), script: Vec::new() }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Moves(by) => self.now = self.now.saturating_add_signed(by),
            Event::Reserves { charged, expected } => self.reserves(&charged, expected),
            Event::Ends { call, outcome } => self.ends(call, outcome),
            Event::Renews { call } => self.renews(call),
            Event::Repeats { call } => self.repeats(call),
        }
    }

    fn expect(&mut self, call: &Call, answer: Vec<i64>) {
        self.script.push((at(call, self.now), answer));
    }

    fn back(&self, call: usize) -> Option<usize> {
        self.calls.len().checked_sub(call + 1)
    }

    fn reserves(&mut self, charged: &[bool], expected: u64) {
        let charged: Vec<_> = (0..self.rules.len()).filter(|place| charged[*place]).collect();
        let charges: Vec<_> = charged
            .iter()
            .map(|place| Charge { policy: "p", limit: &self.names[*place], partition: "x", rule: self.rules[*place] })
            .collect();
        let counters = counters(&charges, Tokens { input: expected, output: 0 }).unwrap();
        let id = self.calls.len();
        let call = self.limits.reserve(terms(&id.to_string()), &counters);
        let now = self.now;
        let fits: Vec<_> =
            charged.iter().zip(&counters).map(|(place, counter)| self.references[*place].fits(counter, now)).collect();
        let admitted = fits.iter().all(|fits| *fits);
        let mut marks = Vec::new();
        if admitted {
            for (place, counter) in charged.iter().zip(&counters) {
                let reference = &mut self.references[*place];
                marks.push(reference.add(counter, now, counter.amount, None));
                if counter.numbers.kind == Kind::Leases {
                    reference.ends.retain(|_, end| *end > now);
                    reference.ends.insert(id, now + LEASE_US);
                }
            }
        }
        let readings = charged
            .iter()
            .zip(&counters)
            .zip(&fits)
            .map(|((place, counter), fits)| self.references[*place].reading(counter, now, *fits));
        let answer = numbers(admitted, now, readings);
        self.expect(&call, answer.clone());
        self.calls.push(Reserved { charged, counters, open: admitted.then_some((answer, marks)), closed: false });
    }

    /// Without an outcome it is cancelled.
    fn ends(&mut self, call: usize, outcome: Option<Outcome>) {
        let Some(id) = self.back(call) else { return };
        let (now, name) = (self.now, id.to_string());
        let reserved = &mut self.calls[id];
        let call = match outcome {
            Some(outcome) => self.limits.settle(terms(&name), &reserved.counters, outcome),
            None => self.limits.cancel(terms(&name), &reserved.counters),
        };
        let open = reserved.open.take();
        let mut debts = [0, 0];
        for (index, place) in reserved.charged.iter().enumerate() {
            let (reference, counter) = (&mut self.references[*place], &reserved.counters[index]);
            let Some((_, marks)) = &open else { continue };
            reference.ends.remove(&id);
            let over = reference.over(counter, now);
            let settled = counter.settled(outcome.unwrap_or(Outcome::Refund));
            if settled > counter.amount {
                reference.add(counter, now, settled - counter.amount, Some(marks[index]));
            } else if settled < counter.amount {
                reference.give_back(counter, now, counter.amount - settled, marks[index]);
            }
            let owed = reference.over(counter, now).saturating_sub(over);
            let units = debts[1] + i64::try_from(owed).unwrap();
            debts = [debts[0] + i64::from(owed > 0), units.min(MOST_UNITS.cast_signed())];
        }
        let answer = match (&open, reserved.closed) {
            (Some(_), _) => [&[1][..], &debts].concat(),
            (None, true) => vec![4],
            (None, false) => vec![2],
        };
        // Where there are leases even an end that finds nothing is remembered, for a renewal may come later.
        let leased = reserved.counters.iter().any(|counter| counter.numbers.kind == Kind::Leases);
        reserved.closed |= open.is_some() || outcome.is_none() || leased;
        self.expect(&call, answer);
    }

    fn renews(&mut self, call: usize) {
        let Some(id) = self.back(call) else { return };
        let reserved = &self.calls[id];
        let call = self.limits.renew(terms(&id.to_string()), &reserved.counters);
        if reserved.closed {
            return self.expect(&call, vec![4]);
        }
        if reserved.open.is_none() {
            return;
        }
        for (place, counter) in reserved.charged.iter().zip(&reserved.counters) {
            if counter.numbers.kind == Kind::Leases {
                let ends = &mut self.references[*place].ends;
                ends.retain(|_, end| *end > self.now);
                ends.insert(id, self.now + LEASE_US);
            }
        }
        self.expect(&call, vec![1]);
    }

    fn repeats(&mut self, call: usize) {
        let Some(id) = self.back(call) else { return };
        let reserved = &self.calls[id];
        let answer = match (&reserved.open, reserved.closed) {
            (Some((answer, _)), _) => answer.clone(),
            (None, true) => vec![2],
            // Refused: it would be asked anew.
            (None, false) => return,
        };
        let call = self.limits.reserve(terms(&id.to_string()), &reserved.counters);
        self.expect(&call, answer);
    }
}

fn terms(id: &str) -> Terms<'_> {
    Terms { lease_us: LEASE_US, open_ms: 600_000, ..Terms::of(id) }
}

/// The answer in the script's numbers.
fn numbers(admitted: bool, now: u64, readings: impl Iterator<Item = Reading>) -> Vec<i64> {
    let number = |number: u64| i64::try_from(number).unwrap();
    let mut numbers = vec![i64::from(admitted), number(now), 0];
    for Reading { remaining, reset_after_us, wait } in readings {
        let wait_us = match wait {
            None => 0,
            Some(Wait::Forever) => -1,
            Some(Wait::UntilACallEnds) => -2,
            Some(Wait::Micros(wait)) => number(wait),
        };
        numbers.extend([i64::from(wait.is_none()), number(remaining), number(reset_after_us), wait_us]);
    }
    numbers
}

/// The same call, in full, at a time of our own.
pub(super) fn at(call: &Call, now: u64) -> redis::Cmd {
    let full = call.in_full();
    let words: Vec<_> = full
        .args_iter()
        .map(|word| match word {
            redis::Arg::Simple(bytes) => bytes.to_vec(),
            _ => panic!("a cursor"),
        })
        .collect();
    let keys: usize = std::str::from_utf8(&words[2]).unwrap().parse().unwrap();
    let mut command = redis::Cmd::new();
    for (place, word) in words.iter().enumerate() {
        // EVAL, script, number of keys, keys, operation, time.
        if place == 3 + keys + 1 {
            command.arg(now)
        } else {
            command.arg(word.as_slice())
        };
    }
    command
}

#[test]
fn script_and_reference_give_the_same_answers_to_a_thousand_lists_of_events() {
    let server = Server::start();
    let connection = RefCell::new(server.look());
    let tags = RefCell::new(0..);
    // From 1971 to 2100, and near the ends of months.
    let start = prop_oneof![
        40_000_000_000_000_u64..4_100_000_000_000_000,
        (1_u64..12, 1_972_u64..2_100).prop_map(|(month, year)| {
            let text = format!("{year}-{:02}-01T00:00:00Z", month + 1);
            u64::try_from(text.parse::<Timestamp>().unwrap().as_microsecond()).unwrap() - 50_000
        })
    ];
    let lists = (start, rules(), proptest::collection::vec(event(), 1..40));
    let counted = RefCell::new([0_usize; 3]);
    let config = Config { cases: 1_500, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&lists, |(start, rules, events)| {
        let tag = tags.borrow_mut().next().unwrap();
        let mut history = History::new(&format!("{tag}"), start, rules);
        events.into_iter().for_each(|event| history.happens(event));
        let mut pipeline = redis::pipe();
        for (command, _) in &history.script {
            pipeline.add_command(command.clone());
        }
        let expected: Vec<_> = history.script.iter().map(|(_, answer)| answer.clone()).collect();
        if pipeline.is_empty() {
            return Ok(());
        }
        let answers: Vec<Vec<i64>> = pipeline.query(&mut *connection.borrow_mut()).unwrap();
        let mut counted = counted.borrow_mut();
        counted[0] += answers.len();
        counted[1] += answers.iter().filter(|answer| answer[0] == 1).count();
        counted[2] += answers.iter().filter(|answer| answer[0] == 0).count();
        prop_assert_eq!(answers, expected);
        Ok(())
    });
    let [calls, admitted, refused] = counted.into_inner();
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(admitted > 5_000 && refused > 1_000, "{calls} calls, {admitted} admitted or settled, {refused} refused");
}

#[test]
fn an_id_is_reserved_settled_and_cancelled_at_most_once() {
    let server = Server::start();
    let mut redis = server.look();
    let limits = Limits::new("limits");
    let counters = counters(&[tokens_per_minute(100)], Tokens { input: 10, output: 0 }).unwrap();
    let used = Outcome::Used(Tokens { input: 30, output: 0 });
    let mut run = |call: &Call| -> Vec<i64> { at(call, 1_000_000_000).query(&mut redis).unwrap() };
    let (one, two) = (terms("one"), terms("two"));
    let first = run(&limits.reserve(one, &counters));
    assert_eq!(first[..5], [1, 1_000_000_000, 0, 1, 90]);
    assert_eq!(run(&limits.reserve(one, &counters)), first);
    assert_eq!(run(&limits.settle(one, &counters, used)), [1, 0, 0]);
    assert_eq!(run(&limits.settle(one, &counters, used)), [4]);
    assert_eq!(run(&limits.cancel(one, &counters)), [4]);
    assert_eq!(run(&limits.reserve(one, &counters)), [2]);
    // Cancelled before it comes, and after.
    assert_eq!(run(&limits.cancel(two, &counters)), [2]);
    assert_eq!(run(&limits.reserve(two, &counters)), [2]);
    assert_eq!(run(&limits.settle(two, &counters, used)), [4]);
    let three = terms("three");
    assert_eq!(run(&limits.reserve(three, &counters))[3..5], [1, 60]);
    assert_eq!(run(&limits.cancel(three, &counters)), [1, 0, 0]);
    assert_eq!(run(&limits.reserve(three, &counters)), [2]);
    // Settling what nobody reserved does nothing.
    assert_eq!(run(&limits.settle(terms("four"), &counters, used)), [2]);
    assert_eq!(run(&limits.reserve(terms("five"), &counters))[3..5], [1, 60]);
}

#[test]
fn debts_are_added_once_and_those_of_an_ended_period_are_not() {
    let server = Server::start();
    let mut redis = server.look();
    let limits = Limits::new("limits");
    let counters = counters(&[per_month(5), tokens_per_minute(5)], Tokens::default()).unwrap();
    let now = 1_000_000_000_000;
    let age_us = std::cell::Cell::new(0);
    let owed = |id| {
        limits.owe(
            terms(id),
            counters.iter().map(|counter| {
                let mut numbers = counter.numbers;
                if numbers.kind == Kind::Calendar {
                    numbers.second = age_us.get();
                }
                (counter.name, numbers, 9)
            }),
        )
    };
    let mut run = |call: &Call, now| -> Vec<i64> { at(call, now).query(&mut redis).unwrap() };
    assert_eq!(run(&owed("d1"), now), [1]);
    assert_eq!(run(&owed("d1"), now), [4]);
    let refused = run(&limits.reserve(terms("r"), &counters), now);
    assert_eq!((refused[0], &refused[3..5]), (0, &[0, 0][..]));
    let next = period_end(4, now);
    age_us.set(next - now);
    assert_eq!(run(&owed("d2"), next), [1]);
    assert_eq!(run(&limits.reserve(terms("s"), &counters), next)[3..5], [1, 4]);
}
