//! What happened to policies since the start, for the metrics: read when somebody asks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::slot::Loaded;
use crate::{
    policy::{BreakerState, Decisions, Guard, Origin, Policy},
    ports::control::LoadStep,
    usage::policy_numbers::PolicyNumbers,
    wasm::Tally,
};

#[derive(Debug, Default)]
struct Entry {
    passed: u64,
    failed: BTreeMap<LoadStep, u64>,
    steps_back: u64,
    openings: Arc<AtomicU64>,
    decisions: Arc<Decisions>,
    serving: Option<Serving>,
}

/// The version in force.
#[derive(Debug)]
struct Serving {
    guard: Arc<Guard>,
    tally: Arc<Tally>,
    origin: Arc<Origin>,
    /// What it can do.
    capabilities: Vec<&'static str>,
}

/// Numbers by the policy's name. A name stays when its policy goes: its counters must not fall.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<BTreeMap<String, Entry>>);

impl Book {
    /// The counter of openings of a policy's breakers.
    pub(super) fn openings(&self, policy: &str) -> Arc<AtomicU64> {
        Arc::clone(&self.entries().entry(policy.to_owned()).or_default().openings)
    }

    /// The counters of what a policy decides.
    pub(super) fn decisions(&self, policy: &str) -> Arc<Decisions> {
        Arc::clone(&self.entries().entry(policy.to_owned()).or_default().decisions)
    }

    /// A version is in force.
    pub(super) fn passed(&self, policy: &str) {
        self.entries().entry(policy.to_owned()).or_default().passed += 1;
    }

    /// A version came to nothing at this step.
    pub(super) fn failed(&self, policy: &str, step: LoadStep) {
        *self.entries().entry(policy.to_owned()).or_default().failed.entry(step).or_default() += 1;
    }

    /// The version before serves again.
    pub(super) fn stepped_back(&self, policy: &str) {
        self.entries().entry(policy.to_owned()).or_default().steps_back += 1;
    }

    /// These serve, and no others.
    pub(super) fn serving<'a>(&self, versions: impl Iterator<Item = &'a Loaded>) {
        let serving = |version: &'a Loaded| {
            let (guard, tally) = (Arc::clone(&version.guard), Arc::clone(version.policy.tally()));
            let capabilities = version.policy.inspection().capabilities.iter().map(|known| known.word()).collect();
            let serving = Serving { guard, tally, origin: Arc::clone(&version.origin), capabilities };
            (version.policy.name().to_string(), serving)
        };
        let serving: Vec<(String, Serving)> = versions.map(serving).collect();
        let mut entries = self.entries();
        entries.values_mut().for_each(|entry| entry.serving = None);
        for (name, serving) in serving {
            entries.entry(name).or_default().serving = Some(serving);
        }
    }

    /// All numbers now.
    pub(super) fn numbers(&self) -> Vec<PolicyNumbers> {
        let numbers = |(policy, entry): (&String, &Entry)| PolicyNumbers {
            policy: policy.clone(),
            is_stopped: entry.serving.as_ref().map(|of| of.guard.state() != BreakerState::Closed),
            openings: entry.openings.load(Ordering::Relaxed),
            steps_back: entry.steps_back,
            passed: entry.passed,
            failed: entry.failed.iter().map(|(step, count)| (step.as_str(), *count)).collect(),
            log_lines_dropped: entry.serving.as_ref().map_or(0, |of| of.tally.log_lines_dropped()),
            retired: entry.serving.as_ref().map(|of| of.tally.instances_retired()),
            rechecked: entry.serving.as_ref().map(|of| of.tally.decisions_rechecked()),
            version: entry.serving.as_ref().and_then(|of| of.origin.version().map(str::to_owned)),
            capabilities: entry.serving.as_ref().map(|of| of.capabilities.clone()).unwrap_or_default(),
            decisions: entry.decisions.counts(),
        };
        self.entries().iter().map(numbers).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
