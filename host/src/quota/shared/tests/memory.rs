//! The script against this process's own counters: the same list of calls gets the same answers from both, to the
//! microsecond, so one arithmetic drives both.
//!
//! Time only goes forward here: what both do when it goes back stands in the tests of each.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::arithmetic::{at, outcome, rules, tokens};
use super::server::Server;
use super::*;
use crate::quota::shared::counter::counters;
use crate::quota::{self, Moment, Quota, QuotaBounds};

#[derive(Clone, Debug)]
enum Event {
    /// Time moves by so many µs.
    Moves(u64),
    /// A call is charged these of the rules.
    Reserves { charged: Vec<bool>, expected: u64 },
    /// One of the open calls ends.
    Ends { call: prop::sample::Index, outcome: Option<Outcome> },
}

fn event() -> impl Strategy<Value = Event> {
    let moves = prop_oneof![
        8 => 0_u64..30_000,
        4 => 0_u64..200_000,
        1 => 0_u64..9_000_000_000,
        1 => 0_u64..3_000_000_000_000,
    ];
    let charged = proptest::collection::vec(proptest::bool::weighted(0.7), 4);
    prop_oneof![
        4 => moves.prop_map(Event::Moves),
        6 => (charged, tokens()).prop_map(|(charged, expected)| Event::Reserves { charged, expected }),
        3 => (any::<prop::sample::Index>(), outcome()).prop_map(|(call, outcome)| Event::Ends { call, outcome }),
    ]
}

type Answered = Result<Vec<Standing>, Refused>;

/// A call that was asked of both.
struct Asked {
    id: String,
    charged: Vec<usize>,
    expected: Tokens,
    /// Where in the pipeline it stands, at which time, and what memory answered.
    place: usize,
    now: u64,
    answered: Answered,
}

/// One list of events, run through memory, with the script's calls beside.
struct History<'a> {
    limits: Limits,
    rules: &'a [Rule],
    names: Vec<String>,
    memory: Arc<Quota>,
    now: u64,
    asked: Vec<Asked>,
    open: Vec<(usize, quota::Reservation)>,
    script: Vec<redis::Cmd>,
}

fn terms(id: &str) -> Terms<'_> {
    Terms { lease_us: 1_000_000_000_000_000, open_ms: 600_000, ..Terms::of(id) }
}

impl History<'_> {
    fn moment(&self) -> Moment {
        Moment { monotonic_us: self.now, unix_us: self.now }
    }

    fn charges(&self, charged: &[usize]) -> Vec<Charge<'_>> {
        let charge = |place: &usize| Charge {
            policy: "p",
            limit: &self.names[*place],
            partition: "x",
            rule: self.rules[*place],
        };
        charged.iter().map(charge).collect()
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Moves(by) => self.now += by,
            Event::Reserves { charged, expected } => {
                let charged: Vec<_> = (0..self.rules.len()).filter(|place| charged[*place]).collect();
                let expected = Tokens { input: expected, output: 0 };
                let charges = self.charges(&charged);
                let id = self.asked.len().to_string();
                let call = self.limits.reserve(terms(&id), &counters(&charges, expected).unwrap());
                let reserved = self.memory.reserve(self.moment(), "ann", &charges, expected);
                let answered = match reserved {
                    Ok(mut reservation) => {
                        let standings = reservation.tells_standings();
                        self.open.push((self.asked.len(), reservation));
                        Ok(standings)
                    }
                    Err(refused) => Err(refused),
                };
                let (place, now) = (self.script.len(), self.now);
                self.asked.push(Asked { id, charged, expected, place, now, answered });
                self.script.push(at(&call, now));
            }
            Event::Ends { call, outcome } => {
                if self.open.is_empty() {
                    return;
                }
                let (asked, reservation) = self.open.swap_remove(call.index(self.open.len()));
                let asked = &self.asked[asked];
                let counters = counters(&self.charges(&asked.charged), asked.expected).unwrap();
                let call = match outcome {
                    Some(outcome) => self.limits.settle(terms(&asked.id), &counters, outcome),
                    None => self.limits.cancel(terms(&asked.id), &counters),
                };
                reservation.settle(self.moment(), outcome.unwrap_or(Outcome::Refund));
                self.script.push(at(&call, self.now));
            }
        }
    }

    /// What the script's numbers say, in memory's words.
    fn read(&self, asked: &Asked, numbers: &[i64]) -> Answered {
        let charges = self.charges(&asked.charged);
        let counters = counters(&charges, asked.expected).unwrap();
        match script::answer(numbers, counters.len()).unwrap() {
            Answer::Admitted(told) => {
                assert_eq!((told.at_us, told.overshoot_units), (asked.now, 0));
                Ok(standing::standings(&charges, &counters, &told))
            }
            Answer::Refused(told) => Err(standing::exceeded(&charges, &counters, &told).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

/// Of what running calls hold, Redis keeps no sum.
fn without_held(answered: &Answered) -> Answered {
    let blind = |standings: &[Standing]| {
        standings.iter().cloned().map(|standing| Standing { reserved: 0, ..standing }).collect::<Vec<_>>()
    };
    match answered {
        Ok(standings) => Ok(blind(standings)),
        Err(Refused::Exceeded(exceeded)) => {
            let standings = blind(&exceeded.standings);
            Err(Refused::Exceeded(Box::new(Exceeded { standings, ..(**exceeded).clone() })))
        }
        Err(other) => Err(other.clone()),
    }
}

#[test]
fn script_and_memory_give_the_same_answers_to_a_thousand_lists_of_events() {
    let server = Server::start();
    let connection = RefCell::new(server.look());
    let tags = RefCell::new(0..);
    let counted = RefCell::new([0_usize; 2]);
    let start = 40_000_000_000_000_u64..4_100_000_000_000_000;
    let lists = (start, rules(), proptest::collection::vec(event(), 1..40));
    let config = Config { cases: 1_000, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&lists, |(now, rules, events)| {
        let tag = tags.borrow_mut().next().unwrap();
        let mut history = History {
            limits: Limits::new(&format!("{tag}")),
            names: (0..rules.len()).map(|place| format!("limit-{place}")).collect(),
            rules: &rules,
            memory: Arc::new(Quota::new(QuotaBounds::default())),
            now,
            asked: Vec::new(),
            open: Vec::new(),
            script: Vec::new(),
        };
        events.into_iter().for_each(|event| history.happens(event));
        if history.asked.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for command in &history.script {
            pipeline.add_command(command.clone());
        }
        let answers: Vec<Vec<i64>> = pipeline.query(&mut *connection.borrow_mut()).unwrap();
        for asked in &history.asked {
            counted.borrow_mut()[usize::from(asked.answered.is_ok())] += 1;
            let by_script = history.read(asked, &answers[asked.place]);
            prop_assert_eq!(
                without_held(&by_script),
                without_held(&asked.answered),
                "call {} at {}",
                asked.id,
                asked.now
            );
        }
        Ok(())
    });
    let [refused, admitted] = counted.into_inner();
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(admitted > 3_000 && refused > 1_000, "{admitted} admitted, {refused} refused");
}
