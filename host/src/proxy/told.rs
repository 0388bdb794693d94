//! What a call's settlement is told of the decisions on it: kept for the log, and of a call that is only tried in its account.

use std::sync::Arc;

use http::HeaderMap;

use super::{read::Read, settle::Settlement};
use crate::{
    llm::model_name::ModelName,
    policy::{Edited, Hook, Origin, Step, Trail},
    ports::keys::Proof,
    upstream::fleet::Candidate,
};

impl Trail for Settlement {
    fn decided(&mut self, by: &Arc<Origin>, hook: Hook, step: Step<'_>) {
        self.provenance.note(by, hook, step);
        if let Some(account) = self.account() {
            account.decided(by, hook, step);
        }
    }

    fn edited(&mut self, _: &Arc<Origin>, call: &Edited) {
        if let Some(account) = self.account() {
            account.edited(call);
        }
    }
}

impl Settlement {
    /// The set of policies that the call uses.
    pub(super) fn uses(&mut self, generation: u64) {
        self.provenance.generation = Some(generation);
    }

    /// A charge of this policy stands in the way.
    pub(super) fn blames(&mut self, policy: &str) {
        self.provenance.blame(policy);
    }

    /// Says in an answer's head who decided, where that is wanted.
    pub(super) fn stamp_decisions(&self, headers: &mut HeaderMap) {
        if self.tells_decisions() {
            self.provenance.stamp(headers);
        }
    }

    /// What became of the credential; `is_taken_for`: there is none, an operator names the key.
    pub(super) fn is_identified(&mut self, proof: &Proof, is_taken_for: bool) {
        if let Some(account) = self.account() {
            account.is_identified(proof, is_taken_for);
        }
    }

    /// The call is about to be shown to the policies that admit.
    pub(super) fn begins_admit(&mut self, read: &Read) {
        if let Some(account) = self.account() {
            account.begins_admit(&read.call.model, read.exchange.body().cloned().unwrap_or_default());
        }
    }

    /// Whether the model is the caller's to use.
    pub(super) fn is_scoped(&mut self, model: &ModelName, is_allowed: bool) {
        if let Some(account) = self.account() {
            account.is_scoped(model, is_allowed);
        }
    }

    /// These backends may serve the call.
    pub(super) fn offers(&mut self, candidates: &[Candidate]) {
        if let Some(account) = self.account() {
            account.offers(candidates);
        }
    }
}
