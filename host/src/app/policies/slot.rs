//! Versions of a policy: the one that serves, and the one before it.

use std::sync::Arc;

use crate::{
    app::folder::{self, Digest},
    config::{OnRemove, PolicyFile},
    policy::{Guard, Hook, Link, Origin, Policy},
    ports::control::PolicySource,
    wasm::{Compiled, GuestPolicy},
};

/// What tells one version from another: the component, and its `.toml` and its cases if it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) component: Digest,
    pub(super) terms: Option<Digest>,
    pub(super) cases: Option<Digest>,
}

/// One version of a policy, ready to be asked.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) key: Key,
    pub(super) source: PolicySource,
    /// Which file it is, by device and number.
    pub(super) identity: Option<(u64, u64)>,
    pub(super) compiled: Compiled,
    /// Where that came from: `compiled` just now, `cached` on disk, or `known` already.
    pub(super) code_is: &'static str,
    pub(super) file: PolicyFile,
    pub(super) policy: Arc<GuestPolicy>,
    pub(super) guard: Arc<Guard>,
    pub(super) origin: Arc<Origin>,
    /// None: it never was.
    pub(super) in_force: Option<InForce>,
}

/// The last time that a version came into force.
#[derive(Clone, Copy, Debug)]
pub(super) struct InForce {
    /// The set with which it did.
    pub(super) generation: u64,
    pub(super) since_ms: u64,
}

impl Loaded {
    pub(super) fn link(&self) -> Link {
        Link::guarded(Arc::clone(&self.policy) as Arc<dyn Policy>, Arc::clone(&self.guard), Arc::clone(&self.origin))
    }

    /// Says that it is in force, and what it can do.
    pub(super) fn announce(&self, generation: u64) {
        let inspection = self.policy.inspection();
        let hooks: Vec<&str> = inspection.hooks.iter().map(|hook| hook.as_str()).collect();
        tracing::info!(
            policy = &**self.policy.name(),
            hooks = hooks.join(","),
            capabilities = inspection.capabilities_text(),
            grants = self.policy.grants().text(),
            version = folder::version(&self.key.component),
            code = self.code_is,
            generation,
            "the policy is in force"
        );
    }

    /// Whether it serves on when its file is gone. One that authenticates does unless it says otherwise: without it more
    /// callers might pass.
    pub(super) fn is_kept(&self) -> bool {
        match self.file.on_remove {
            Some(on_remove) => on_remove == OnRemove::Keep,
            None => self.policy.decides(Hook::Authenticate),
        }
    }
}

/// One name among the policies.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) serving: Loaded,
    /// What served before and never kept failing.
    pub(super) before: Option<Loaded>,
    /// The version that kept failing, where the one before it serves in its place.
    pub(super) given_up: Option<Key>,
}

impl Slot {
    pub(super) fn new(serving: Loaded) -> Self {
        Self { serving, before: None, given_up: None }
    }

    /// Puts a new version in the place of the one that serves, which comes back. What never was in force is not worth keeping.
    pub(super) fn replace(&mut self, next: Loaded) -> Arc<GuestPolicy> {
        let old = std::mem::replace(&mut self.serving, next);
        let replaced = Arc::clone(&old.policy);
        // Whose file was removed is not to come back.
        let is_removed = old.source == PolicySource::File && self.serving.source == PolicySource::BuiltIn;
        if is_removed {
            self.before = None;
        } else if old.guard.lets_decide() && old.in_force.is_some() {
            self.before = Some(old);
        }
        self.given_up = None;
        replaced
    }

    /// Goes back to the version before, if the one that serves keeps failing and the one before may serve: it is other code, from
    /// a file, with the same grants, decides at every hook at which this one does, and all that it does is approved. Else a fault, which callers may have a part in, could undo
    /// what an operator has changed. What served comes back.
    pub(super) fn step_back(&mut self, is_approved: impl FnOnce(&Compiled) -> bool) -> Option<Arc<GuestPolicy>> {
        if self.serving.guard.lets_decide() {
            return None;
        }
        let may_serve = |before: &mut Loaded| {
            before.key.component != self.serving.key.component
                && before.source == PolicySource::File
                && before.policy.grants() == self.serving.policy.grants()
                && Hook::ALL.into_iter().all(|hook| before.policy.decides(hook) || !self.serving.policy.decides(hook))
                && before.guard.lets_decide()
                && is_approved(&before.compiled)
        };
        let before = self.before.take_if(may_serve)?;
        self.given_up = Some(self.serving.key);
        Some(std::mem::replace(&mut self.serving, before).policy)
    }

    /// The code of this component, if a version here was made from it.
    pub(super) fn compiled(&self, component: &Digest) -> Option<&Compiled> {
        let versions = [Some(&self.serving), self.before.as_ref()];
        versions.into_iter().flatten().find(|known| known.key.component == *component).map(|known| &known.compiled)
    }
}
