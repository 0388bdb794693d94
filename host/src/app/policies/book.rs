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
    policy::{BreakerState, Guard},
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
    serving: Option<(Arc<Guard>, Arc<Tally>)>,
    /// What the version that serves can do.
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
        let mut entries = self.entries();
        for entry in entries.values_mut() {
            entry.serving = None;
            entry.capabilities.clear();
        }
        for version in versions {
            let entry = entries.entry(crate::policy::Policy::name(&*version.policy).to_string()).or_default();
            entry.serving = Some((Arc::clone(&version.guard), Arc::clone(version.policy.tally())));
            let capabilities = &version.policy.inspection().capabilities;
            entry.capabilities.extend(capabilities.iter().map(|capability| capability.as_str()));
        }
    }

    /// All numbers now.
    pub(super) fn numbers(&self) -> Vec<PolicyNumbers> {
        let numbers = |(policy, entry): (&String, &Entry)| PolicyNumbers {
            policy: policy.clone(),
            is_stopped: entry.serving.as_ref().map(|(guard, _)| guard.state() != BreakerState::Closed),
            capabilities: entry.capabilities.clone(),
            openings: entry.openings.load(Ordering::Relaxed),
            steps_back: entry.steps_back,
            passed: entry.passed,
            failed: entry.failed.iter().map(|(step, count)| (step.as_str(), *count)).collect(),
            log_lines_dropped: entry.serving.as_ref().map_or(0, |(_, tally)| tally.log_lines_dropped()),
            retired: entry.serving.as_ref().map(|(_, tally)| tally.instances_retired()),
            rechecked: entry.serving.as_ref().map(|(_, tally)| tally.decisions_rechecked()),
        };
        self.entries().iter().map(numbers).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
