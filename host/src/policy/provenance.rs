//! Provenance: which version of which policy decided what. A chain tells it as it goes along; whoever listens keeps as much
//! of it as it needs.
//!
//! Nothing is formatted or copied here while a call runs: a version's name is made once, when it comes into force.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Charge, Edited, Fault, Hook, Rejection};

/// Digits of a version's hash that tell versions apart at a glance.
const SHORT_HASH: usize = 12;

/// Reason codes of one policy that are counted by themselves. A policy chooses them, so there must be a bound.
const MOST_CODES: usize = 32;

/// The code under which all others are counted.
const OTHER_CODES: &str = "other";

/// One version of one policy, as decisions are traced back to it.
#[derive(Debug)]
pub struct Origin {
    policy: Arc<str>,
    version: Option<Box<str>>,
    label: Box<str>,
    decisions: Arc<Decisions>,
}

impl Origin {
    /// A version, given as `sha256:` and the component's hash in hex; its decisions are counted there, with those of the
    /// policy's other versions.
    pub fn new(policy: Arc<str>, version: String, decisions: Arc<Decisions>) -> Self {
        let short = version.get(..version.len().min("sha256:".len() + SHORT_HASH)).unwrap_or(&version);
        let label = format!("{policy}@{short}").into();
        Self { policy, version: Some(version.into()), label, decisions }
    }

    /// A policy that is no file's: it has no version.
    pub fn without_version(policy: Arc<str>) -> Self {
        Self { label: Box::from(&*policy), policy, version: None, decisions: Arc::default() }
    }

    /// The policy's name.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Its version, whole.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Name and version in one word, the version as long as tells it apart: `api-key@sha256:0123456789ab`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What it decided so far.
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }
}

/// What one policy answered, or that it failed to.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// No opinion.
    Abstained,
    /// This subject calls.
    Allowed(&'a str),
    /// Go on, at this price.
    Admitted(&'a [Charge]),
    /// These backends, in this order.
    Ranked(&'a [u32]),
    /// Stop.
    Rejected(&'a Rejection),
    /// It failed; the call goes on without it where `is_passed_over`.
    Failed {
        /// How.
        fault: &'a Fault,
        /// Whether that counts as no opinion.
        is_passed_over: bool,
    },
}

/// Listens to a chain.
pub trait Trail {
    /// This policy answered so at this hook.
    fn decided(&mut self, by: &Arc<Origin>, hook: Hook, step: Step<'_>);

    /// This policy has made this of the call; what it decided comes next.
    fn edited(&mut self, _by: &Arc<Origin>, _call: &Edited) {}
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Untold;

impl Trail for Untold {
    fn decided(&mut self, _: &Arc<Origin>, _: Hook, _: Step<'_>) {}
}

/// How often one policy decided what, over all of its versions.
#[derive(Debug, Default)]
pub struct Decisions {
    abstained: [AtomicU64; 3],
    /// Allowed, admitted or ranked: what is a yes at the hook.
    agreed: [AtomicU64; 3],
    /// By hook and code.
    rejected: Mutex<BTreeMap<(Hook, Box<str>), u64>>,
}

/// How often a policy answered so at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionCount {
    /// Where it was asked.
    pub hook: &'static str,
    /// `allow`, `admit`, `rank`, `abstain` or `reject`.
    pub decision: &'static str,
    /// Of a rejection.
    pub code: Option<Box<str>>,
    /// How often.
    pub count: u64,
}

impl Decisions {
    /// Counts an answer. Faults are counted by themselves, with what went wrong.
    pub(super) fn count(&self, hook: Hook, step: Step<'_>) {
        let counters = match step {
            Step::Abstained => &self.abstained,
            Step::Allowed(_) | Step::Admitted(_) | Step::Ranked(_) => &self.agreed,
            Step::Rejected(rejection) => return self.rejects(hook, &rejection.code),
            Step::Failed { .. } => return,
        };
        if let Some(counter) = counters.get(usize::from(hook.number())) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn rejects(&self, hook: Hook, code: &str) {
        let mut rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = rejected.len() >= MOST_CODES;
        let named = (hook, Box::from(code));
        let named = if is_full && !rejected.contains_key(&named) { (hook, OTHER_CODES.into()) } else { named };
        *rejected.entry(named).or_default() += 1;
    }

    /// All that was ever answered.
    pub fn counts(&self) -> Vec<DecisionCount> {
        let plain =
            Hook::WITH_REQUEST.into_iter().zip(["allow", "admit", "rank"]).zip(&self.agreed).zip(&self.abstained);
        let mut counts: Vec<DecisionCount> = plain
            .flat_map(|(((hook, word), agreed), abstained)| [(hook, word, agreed), (hook, "abstain", abstained)])
            .map(|(hook, decision, count)| {
                let count = count.load(Ordering::Relaxed);
                DecisionCount { hook: hook.as_str(), decision, code: None, count }
            })
            .filter(|known| known.count > 0)
            .collect();
        let rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        counts.extend(rejected.iter().map(|((hook, code), count)| DecisionCount {
            hook: hook.as_str(),
            decision: "reject",
            code: Some(code.clone()),
            count: *count,
        }));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Reason;

    fn rejection(code: String) -> Rejection {
        Rejection { reason: Reason::Forbidden, code, message: "no".to_owned(), retry_after_ms: None }
    }

    #[test]
    fn a_label_is_the_name_and_as_much_of_the_hash_as_tells_versions_apart() {
        let version = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let origin = Origin::new("api-key".into(), version.clone(), Arc::default());
        assert_eq!((origin.label(), origin.version()), ("api-key@sha256:0123456789ab", Some(version.as_str())));
        assert_eq!(Origin::without_version("mine".into()).label(), "mine");
    }

    #[test]
    fn decisions_are_counted_by_hook_and_word_and_rejections_by_code() {
        let decisions = Decisions::default();
        decisions.count(Hook::Authenticate, Step::Allowed("k1"));
        decisions.count(Hook::Admit, Step::Abstained);
        decisions.count(Hook::Admit, Step::Abstained);
        decisions.count(Hook::Route, Step::Rejected(&rejection("closed".to_owned())));
        let text: Vec<String> = decisions
            .counts()
            .iter()
            .map(|known| format!("{} {} {:?} {}", known.hook, known.decision, known.code, known.count))
            .collect();
        assert_eq!(
            text,
            ["authenticate allow None 1", "admit abstain None 2", "route reject Some(\"closed\") 1"].map(str::to_owned)
        );
    }

    #[test]
    fn codes_beyond_the_bound_are_counted_together() {
        let decisions = Decisions::default();
        for number in 0..MOST_CODES + 10 {
            decisions.count(Hook::Admit, Step::Rejected(&rejection(format!("code_{number}"))));
        }
        let counts = decisions.counts();
        assert_eq!(counts.len(), MOST_CODES + 1);
        let other = counts.iter().find(|known| known.code.as_deref() == Some(OTHER_CODES)).unwrap();
        assert_eq!(other.count, 10);
    }
}
