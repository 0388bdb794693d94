//! What happened to the instances of one policy, counted over all of its versions.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Why an instance was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retired {
    Calls,
    Age,
    Growth,
}

/// What became of a decision that was made a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recheck {
    Same,
    Different,
    Failed,
}

/// Counters of one policy.
#[derive(Debug, Default)]
pub struct Tally {
    log_lines_dropped: AtomicU64,
    retired: [AtomicU64; 3],
    rechecked: [AtomicU64; 3],
}

impl Tally {
    pub(super) fn log_line_dropped(&self) {
        self.log_lines_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retired(&self, why: Retired) {
        let [calls, age, growth] = &self.retired;
        let counter = match why {
            Retired::Calls => calls,
            Retired::Age => age,
            Retired::Growth => growth,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rechecked(&self, outcome: Recheck) {
        let [same, different, failed] = &self.rechecked;
        let counter = match outcome {
            Recheck::Same => same,
            Recheck::Different => different,
            Recheck::Failed => failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that the log didn't take.
    pub fn log_lines_dropped(&self) -> u64 {
        self.log_lines_dropped.load(Ordering::Relaxed)
    }

    /// Instances that were replaced, by reason.
    pub fn instances_retired(&self) -> [(&'static str, u64); 3] {
        named(["calls", "age", "growth"], &self.retired)
    }

    /// Decisions that were made a second time, by what came out.
    pub fn decisions_rechecked(&self) -> [(&'static str, u64); 3] {
        named(["same", "different", "failed"], &self.rechecked)
    }
}

fn named(names: [&'static str; 3], counters: &[AtomicU64; 3]) -> [(&'static str, u64); 3] {
    let [one, two, three] = names;
    let [first, second, third] = counters;
    [(one, first), (two, second), (three, third)].map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
}

/// The tally of every policy by name.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<HashMap<Arc<str>, Arc<Tally>>>);

impl Tallies {
    pub(super) fn of(&self, policy: &Arc<str>) -> Arc<Tally> {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tallies.entry(Arc::clone(policy)).or_default())
    }
}
