//! Cases: what a policy must answer, written down beside it as `NAME.cases.json`.
//!
//! A case holds the facts of one call, the time, what the imports answer, and the decision that is expected; names are those
//! of `wit/`. It runs on an instance of its own, through the same code as real calls: only what the ports answer comes from the
//! case. Nothing of a case reaches the policy's real state, the log or another case. `wit/README.md` describes the format.

mod decision;
mod format;
mod surroundings;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use self::{format::Case, surroundings::Surroundings};
use super::{GuestPolicy, LoadError, Meter, Runtime};
use crate::{
    clock::thread_cpu,
    policy::{Admission, AdmitDecision, Edited, Fault, FaultKind, Hook, Policy, RouteDecision, edits_fault, offered},
};

/// Largest file of cases, in bytes.
pub const MAX_CASES_BYTES: usize = 1 << 20;

/// Most cases of one policy.
pub const MAX_CASES: usize = 200;

/// CPU time in which all cases of a policy must be through. Each is bounded by the policy's own budgets; this bounds their sum.
const ALL_CASES_WITHIN: Duration = Duration::from_secs(20);

/// A file of cases that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// It is larger than what is read.
    #[error("the cases have more than {MAX_CASES_BYTES} bytes")]
    TooLarge,
    /// There are more than run in a reasonable time.
    #[error("there are {0} cases, at most {MAX_CASES} are run")]
    TooMany(usize),
    /// It is no list of cases.
    #[error("at {place}: {problem}")]
    Malformed {
        /// Which value, as a path into the JSON: `[2].call.operation`.
        place: String,
        /// What is wrong with it, and what is expected.
        problem: String,
    },
}

/// The cases of one policy.
#[derive(Debug)]
pub struct Cases(Vec<Case>);

/// What came of one case.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// The case's name.
    pub name: String,
    /// The hook that was asked.
    pub hook: Hook,
    /// What was expected.
    pub expected: Value,
    /// What the policy answered.
    pub got: Value,
    /// Each place at which the answer isn't what was expected: its JSON pointer, what was expected and what came. Empty when
    /// the case holds.
    pub differences: Vec<String>,
}

impl CaseReport {
    /// Whether the policy answered what was expected.
    pub fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

impl Cases {
    /// Reads a list of cases.
    ///
    /// # Errors
    /// Where it is wrong, and what is expected there.
    pub fn parse(json: &[u8]) -> Result<Self, CasesError> {
        if json.len() > MAX_CASES_BYTES {
            return Err(CasesError::TooLarge);
        }
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let cases: Vec<Case> = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let place = error.path().to_string();
            CasesError::Malformed { place: top_or(&place), problem: error.into_inner().to_string() }
        })?;
        deserializer.end().map_err(|error| CasesError::Malformed { place: top_or("."), problem: error.to_string() })?;
        if cases.len() > MAX_CASES {
            return Err(CasesError::TooMany(cases.len()));
        }
        for (at, case) in cases.iter().enumerate() {
            case.check().map_err(|(field, problem)| {
                let place = format!("[{at}].{field}");
                CasesError::Malformed { place, problem: format!("{problem} (case '{}')", case.name) }
            })?;
        }
        Ok(Self(cases))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A call for each of these hooks, with default facts: for who has no cases.
    pub fn defaults(hooks: &[Hook]) -> Self {
        Self(hooks.iter().map(|hook| Case::default_at(*hook)).collect())
    }
}

fn top_or(place: &str) -> String {
    if place == "." { "the top".to_owned() } else { place.to_owned() }
}

impl Runtime {
    /// Runs cases on a policy, each on an instance of its own. Takes long: never on a request's path.
    pub fn run_cases(&self, policy: &GuestPolicy, cases: &Cases) -> Vec<CaseReport> {
        let start = thread_cpu();
        let run = |case: &Case| {
            let is_late = thread_cpu().saturating_sub(start) > ALL_CASES_WITHIN;
            let Answered { decision: got, edited, log } = if is_late { too_late() } else { answer(policy, case) };
            let mut differences = decision::differences(&case.expect, &got);
            if let Some(expected) = &case.edits {
                differences.extend(decision::edit_differences(expected, &decision::edited(edited.as_deref())));
            }
            if let Some(expected) = &case.log {
                differences.extend(decision::log_difference(expected, &log));
            }
            CaseReport { name: case.name.clone(), hook: case.hook, expected: case.expect.clone(), got, differences }
        };
        cases.0.iter().map(run).collect()
    }

    /// Makes cases ready to be asked again and again: for who measures. Those that expect their settings to be refused are left
    /// out: nobody is there to be asked.
    ///
    /// # Errors
    /// When the policy refuses a case's settings, or can't be started.
    pub fn rehearse(&self, policy: &GuestPolicy, cases: &Cases) -> Result<Vec<Rehearsal>, LoadError> {
        let ready = |case: &Case| {
            let surroundings = Surroundings::of(case);
            let policy = policy.in_surroundings(surroundings.shared(policy))?;
            Ok(Rehearsal { name: case.name.clone(), hook: case.hook, policy, surroundings })
        };
        let is_refused =
            |case: &&Case| case.expect.get("fault").is_some_and(|kind| kind == FaultKind::Instantiate.as_str());
        let starts = |case: &&Case| !is_refused(case);
        cases.0.iter().filter(starts).map(ready).collect()
    }
}

/// One case on a warm instance.
#[derive(Debug)]
pub struct Rehearsal {
    /// The case's name.
    pub name: String,
    /// The hook that is asked.
    pub hook: Hook,
    policy: GuestPolicy,
    surroundings: Surroundings,
}

impl Rehearsal {
    /// Asks the policy once.
    ///
    /// # Errors
    /// How it failed to answer.
    pub fn ask(&self) -> Result<(), Fault> {
        self.surroundings.ask(&self.policy, self.hook).map(drop)
    }

    /// What the policy's warm instance has used so far.
    pub fn meter(&self) -> Option<Meter> {
        self.policy.meter()
    }
}

/// What came of asking a policy.
struct Answered {
    decision: Value,
    /// The call, if the policy changed it.
    edited: Option<Box<Edited>>,
    /// The lines that it wrote.
    log: Vec<String>,
}

fn too_late() -> Answered {
    let why = format!("the cases before it took more than {} s of CPU time", ALL_CASES_WITHIN.as_secs());
    Answered { decision: json!({ "not-run": why }), edited: None, log: Vec::new() }
}

/// What the policy answers in this case.
fn answer(policy: &GuestPolicy, case: &Case) -> Answered {
    let surroundings = Surroundings::of(case);
    let shared = surroundings.shared(policy);
    let (decision, edited) = match policy.in_surroundings(Arc::clone(&shared)) {
        Ok(own) => surroundings.ask(&own, case.hook).unwrap_or_else(|fault| (decision::fault(&fault), None)),
        Err(error) => (json!({ "fault": "instantiate", "detail": error.to_string() }), None),
    };
    Answered { decision, edited, log: shared.log.kept() }
}

impl Surroundings {
    /// Asks one hook, with the case's facts.
    fn ask(&self, policy: &GuestPolicy, hook: Hook) -> Result<(Value, Option<Box<Edited>>), Fault> {
        let exchange = self.exchange();
        let decision = match hook {
            Hook::Authenticate => {
                decision::authenticated(&policy.authenticate(&exchange, &self.head, self.presented.as_ref())?)
            }
            Hook::Admit => {
                let Admission { decision, draft } = policy.admit(&exchange, &self.call, &self.caller.principal)?;
                // As in a chain: what a policy that rejects has changed is dropped, and what makes no call is its fault.
                let draft = draft.filter(|_| !matches!(decision, AdmitDecision::Reject(_)));
                let edited = draft.map(|draft| draft.finish(None, &exchange, &self.call)).transpose();
                let edited = edited.map_err(|error| edits_fault(policy, &error))?;
                return Ok((decision::admitted(&decision), edited));
            }
            Hook::Route => {
                let decided = policy.route(&exchange, &self.call, &self.caller.principal, &self.backends)?;
                match &decided {
                    RouteDecision::Pick(id) => drop(offered(policy, vec![*id], &self.backends)?),
                    RouteDecision::Ranked(ids) => drop(offered(policy, ids.clone(), &self.backends)?),
                    RouteDecision::Reject(_) | RouteDecision::Abstain => {}
                }
                decision::routed(&decided)
            }
            Hook::Settle => {
                policy.settle(&Arc::new(exchange.after()), &self.call, &self.outcome)?;
                json!("done")
            }
        };
        Ok((decision, None))
    }
}
