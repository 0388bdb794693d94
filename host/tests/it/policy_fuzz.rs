//! What authors hand in may be anything: seeded changes of seeds, the same each time. `scripts/fuzz` looks for new ones.

use std::fs;

use crate::support::guest;

#[path = "../../fuzz/src/chance.rs"]
mod chance;
#[path = "../../fuzz/src/policies.rs"]
mod policies;

use self::{
    chance::Chance,
    policies::{Bench, TARGETS},
};

const MOST_BYTES: usize = 8192;

/// Tries a target with its seeds, these ones and so many changes of them.
#[track_caller]
fn check(name: &str, more: impl FnOnce(&Bench) -> Vec<Vec<u8>>, runs: usize) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let bench = Bench::new(guest::component);
    let folder = guest::root().join("host/fuzz/seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut seeds: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    seeds.extend(more(&bench));
    let mut chance = Chance::new(MOST_BYTES);
    for seed in &seeds {
        target(&bench, seed);
    }
    for _ in 0..runs {
        target(&bench, &chance.input(&seeds));
    }
}

#[test]
fn a_file_that_is_nearly_a_policy_is_refused_or_serves() {
    check("component", |bench| bench.components().to_vec(), 2_000);
}

#[test]
fn whatever_stands_in_a_policys_terms_is_refused_or_within_the_gates_bounds() {
    check("policy_terms", |_| Vec::new(), 20_000);
}

#[test]
fn whatever_stands_in_a_policys_cases_is_refused_or_reported_on() {
    check("policy_cases", |_| Vec::new(), 10_000);
}

#[test]
fn whatever_a_guest_answers_spoils_nothing_for_the_next_call() {
    check("answer", |_| Vec::new(), 3_000);
}
