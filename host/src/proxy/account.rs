//! The account of a call that is only tried: every decision on it, in order, and where its limits stand.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::{Parts, admit, edit_story::EditStory, limits::status, refusal::Refusal};
use crate::{
    llm::{Surface, model_name::ModelName},
    policy::{Amount, Charge, Edited, Hook, Origin, Period, Rule, Shape, Step, TokenKind},
    ports::{
        explanation::{ExplainedRefusal, ExplainedStep, Explanation},
        keys::Proof,
    },
    quota::{self, Expected, Foresight, Moment},
    upstream::fleet::Candidate,
};

/// The request id of a call that is only tried, as its answer would have one.
pub(super) const REHEARSED: &str = "dry-run";

/// What is known of the call so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    told: Explanation,
    /// Where the call is.
    stage: &'static str,
    edits: EditStory,
    /// What the policy that is asked now has changed.
    edited: Vec<String>,
    /// The backends that were offered, by id.
    offered: Vec<(u32, String)>,
    /// The policy that a refusal comes from.
    refused_by: Option<String>,
}

impl Account {
    /// The call comes to this stage, and what the stage is about is done by the gate itself until a policy is asked.
    pub(super) fn enters(&mut self, stage: &'static str) {
        self.stage = stage;
    }

    /// What is asked for.
    pub(super) fn asks(&mut self, operation: String) {
        self.told.operation = Some(operation);
    }

    /// What became of the credential; `is_taken_for`: there is none, an operator names the key.
    pub(super) fn is_identified(&mut self, proof: &Proof, is_taken_for: bool) {
        let detail = match proof {
            Proof::Proven(key) if is_taken_for => format!("key {} ({}) is taken for proven", key.id, key.name),
            Proof::Proven(key) => format!("key {} ({}) is proven", key.id, key.name),
            Proof::NotAKey => "no key of this gate is presented".to_owned(),
            Proof::Unproven => "the key is not known, or its secret is wrong".to_owned(),
            Proof::Stale => "the key table is too old to prove anybody".to_owned(),
        };
        self.gate("found", None, detail);
    }

    /// The call as policies are to see it.
    pub(super) fn begins_admit(&mut self, model: &str, body: Bytes) {
        self.enters(Hook::Admit.as_str());
        self.edits = EditStory::of(model, body);
    }

    /// The policy has made this of the call.
    pub(super) fn edited(&mut self, call: &Edited) {
        self.edited = self.edits.tell(call);
    }

    /// A policy has answered.
    pub(super) fn decided(&mut self, by: &Origin, hook: Hook, step: Step<'_>) {
        let mut explained = ExplainedStep {
            stage: hook.as_str().to_owned(),
            policy: Some(by.policy().to_owned()),
            version: by.version().map(str::to_owned),
            edits: std::mem::take(&mut self.edited),
            ..ExplainedStep::default()
        };
        let (decision, detail) = match step {
            Step::Abstained => ("abstain", String::new()),
            Step::Allowed(subject) => ("allow", format!("as {subject}")),
            Step::Admitted(charges) => {
                explained.charges = charges.iter().map(charge).collect();
                ("admit", String::new())
            }
            Step::Ranked(ids) => ("rank", ids.iter().map(|id| self.backend(*id)).collect::<Vec<_>>().join(", ")),
            Step::Rejected(rejection) => {
                explained.code = Some(rejection.code.clone());
                ("reject", rejection.message.clone())
            }
            Step::Failed { fault, is_passed_over } => {
                explained.code = Some(fault.kind.as_str().to_owned());
                (if is_passed_over { "passed-over" } else { "fault" }, fault.detail.clone())
            }
        };
        if matches!(step, Step::Rejected(_) | Step::Failed { is_passed_over: false, .. }) {
            self.refused_by = Some(by.policy().to_owned());
        }
        (explained.decision, explained.detail) = (decision.to_owned(), detail);
        self.told.steps.push(explained);
    }

    /// Whether the model is the caller's to use.
    pub(super) fn is_scoped(&mut self, model: &ModelName, is_allowed: bool) {
        let name = model.canonical();
        if is_allowed {
            self.gate("holds", None, format!("model {name} is in the caller's scope"));
        } else {
            let detail =
                format!("model {name} is not in the key's scope; the caller reads that there is no such model");
            self.gate("refuse", Some("out_of_scope"), detail);
        }
    }

    /// These backends may serve the call.
    pub(super) fn offers(&mut self, candidates: &[Candidate]) {
        let named = |candidate: &Candidate| (candidate.facts.id, candidate.backend.name().to_string());
        self.offered = candidates.iter().map(named).collect();
        let names: Vec<&str> = self.offered.iter().map(|(_, name)| name.as_str()).collect();
        self.gate("found", None, format!("backends that can serve the call: {}", names.join(", ")));
    }

    /// The backends to which the call would go, in order.
    pub(super) fn goes(&mut self, order: Vec<String>) {
        self.told.backends = order;
    }

    /// The call's model by canonical name.
    pub(super) fn names_model(&mut self, model: &str) {
        self.told.model = Some(model.to_owned()).filter(|model| !model.is_empty());
    }

    /// What the gate itself does, or answers.
    pub(super) fn gate(&mut self, decision: &str, code: Option<&str>, detail: String) {
        self.told.steps.push(ExplainedStep {
            stage: self.stage.to_owned(),
            decision: decision.to_owned(),
            code: code.map(str::to_owned),
            detail,
            ..ExplainedStep::default()
        });
    }

    /// Says whether these charges could be reserved, and where their counters stand. Nothing is reserved.
    ///
    /// # Errors
    /// What the caller would read.
    pub(super) async fn foresee(
        &mut self,
        parts: &Parts,
        charges: &[(Arc<str>, Charge)],
        expected: Expected,
    ) -> Result<(), Refusal> {
        let wanted: SmallVec<[quota::Charge<'_>; 4]> = charges.iter().map(admit::wanted).collect();
        let at = Moment::now(&parts.clock);
        let Foresight { sharing, standings, verdict } = parts.limits.foresee(at, &wanted, expected).await;
        self.told.limits_source = Some(sharing.source().to_owned());
        let status = |((policy, _), standing): (&(Arc<str>, Charge), _)| status(policy, standing, at.unix_us);
        self.told.limits = charges.iter().zip(standings).map(status).collect();
        let Err(not_held) = verdict else {
            self.gate("holds", None, "there is room for all charges".to_owned());
            return Ok(());
        };
        let (refusal, blamed) = admit::refusal(&not_held);
        self.refused_by = blamed.map(str::to_owned);
        self.gate("refuse", Some(refusal.code()), not_held.to_string());
        Err(refusal)
    }

    /// All that is known, and the refusal with which the call ends, if it ends so; its answer is what a caller of this
    /// surface would read.
    pub(super) fn close(self, generation: u64, refusal: Option<(Refusal, Surface)>) -> Explanation {
        let refusal = refusal.map(|(refusal, surface)| self.refused(&refusal, surface));
        Explanation { generation, refusal, ..self.told }
    }

    fn refused(&self, refusal: &Refusal, surface: Surface) -> ExplainedRefusal {
        let answer = refusal.answer(surface, REHEARSED);
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        ExplainedRefusal {
            stage: self.stage.to_owned(),
            policy: self.refused_by.clone(),
            blame: refusal.blame().to_owned(),
            status: answer.status().as_u16(),
            code: refusal.code().to_owned(),
            headers: answer.headers().iter().map(text).collect(),
            body: String::from_utf8_lossy(answer.body()).into_owned(),
            private: refusal.private().map(str::to_owned),
        }
    }

    fn backend(&self, id: u32) -> String {
        let known = self.offered.iter().find(|(known, _)| *known == id);
        known.map_or_else(|| format!("backend {id}"), |(_, name)| name.clone())
    }
}

/// A charge in words.
fn charge(charge: &Charge) -> String {
    let Charge { limit, rule, .. } = charge;
    let (amount, shape) = match *rule {
        Rule::Concurrent(most) => return format!("{limit}: 1 of {most} calls at a time"),
        Rule::Metered { amount, shape } => (amount, shape),
    };
    let amount = match amount {
        Amount::Requests(count) => format!("requests {count}"),
        Amount::Tokens { kind, weight_permille } => {
            let kind = match kind {
                TokenKind::Input => "input tokens",
                TokenKind::Output => "output tokens",
                TokenKind::All => "tokens",
            };
            format!("{kind} x {}", f64::from(weight_permille) / 1000.0)
        }
    };
    match shape {
        Shape::Window { capacity, length_ms } => {
            format!("{limit}: {amount} of {capacity} in {} s", f64::from(length_ms) / 1000.0)
        }
        Shape::Bucket { burst, refill, every_ms } => {
            format!("{limit}: {amount} of {burst} at once, {refill} more every {} s", f64::from(every_ms) / 1000.0)
        }
        Shape::Calendar { capacity, period } => format!("{limit}: {amount} of {capacity} a {}", word(period)),
    }
}

fn word(period: Period) -> &'static str {
    match period {
        Period::Hour => "hour",
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
    }
}
