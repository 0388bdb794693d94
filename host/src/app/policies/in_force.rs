//! The set in force: what changes in it, the swap, and the step back to what served before.

use std::sync::Arc;

use super::{
    Complaint, Policies,
    slot::{InForce, Key, Loaded, Slot},
};
use crate::{
    config::PolicyFile,
    policy::{Chains, Policy},
};

/// What the next set has otherwise than the one in force.
#[derive(Debug)]
pub(super) enum Change {
    Comes(Box<Loaded>),
    /// This version of the policy of this name is no longer asked.
    Goes(String, Key),
}

impl Policies {
    /// Steps back from what keeps failing: loads nothing, and waits for no load.
    pub(super) fn recover(&mut self) {
        let given_up = self.step_back();
        if given_up.is_empty() {
            return;
        }
        self.swap();
        for (name, key) in given_up {
            self.book.stepped_back(&name);
            tracing::error!(policy = name, "the policy keeps failing: the version before it serves again");
            // A look that is under way may have compared the two already.
            let complaint = Complaint::of_given_up(&name, key);
            self.complain(name, complaint);
        }
    }

    /// Every policy that keeps failing goes back to its version before, if that may serve: which, and from which version.
    fn step_back(&mut self) -> Vec<(String, Key)> {
        let mut given_up = Vec::new();
        for (name, slot) in &mut self.slots {
            if let Some(failing) = slot.step_back(|before| self.loader.is_approved(name, before)) {
                self.leaving.push(failing);
                given_up.extend(slot.given_up.map(|key| (name.clone(), key)));
                let (generation, since_ms) = (self.generation + 1, self.clock.unix_ms());
                slot.serving.in_force = Some(InForce { generation, since_ms });
            }
        }
        given_up
    }

    /// Policies that are not asked any more are tried with the next call.
    pub(super) fn lift_quarantines(&self) {
        for (policy, slot) in &self.slots {
            if slot.serving.guard.lift_quarantine() {
                tracing::info!(policy, "a reload was asked for: the policy is tried again");
            }
        }
    }

    /// Has it in the next set.
    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Comes(loaded) => {
                let name = loaded.policy.name().to_string();
                // One about a version that was stepped back from meanwhile as well.
                self.complaints.remove(&name);
                match self.slots.get_mut(&name) {
                    Some(slot) => self.leaving.push(slot.replace(*loaded)),
                    None => {
                        self.slots.insert(name, Slot::new(*loaded));
                    }
                }
            }
            // A version that it was stepped back to meanwhile may be one that is kept: the next look asks.
            Change::Goes(name, key) => {
                if self.slots.get(&name).is_some_and(|slot| slot.serving.key == key) {
                    self.leaving.extend(self.slots.remove(&name).map(|slot| slot.serving.policy));
                }
            }
        }
    }

    /// Puts a new set in force.
    pub(super) fn swap(&mut self) {
        let links = self.order().map(|slot| slot.serving.link()).collect();
        self.generation += 1;
        let chains = Chains::new(self.generation, links, self.clock.clone(), Arc::clone(&self.observer));
        self.chains.store(Arc::new(chains));
        // Not before: until now calls have found their instances there.
        self.leaving.drain(..).for_each(|policy| policy.rest());
        let now = InForce { generation: self.generation, since_ms: self.clock.unix_ms() };
        for (name, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.serving.in_force.is_none()) {
            slot.serving.in_force = Some(now);
            self.book.passed(name);
        }
        self.book.serving(self.order().map(|slot| &slot.serving));
        let is_new = |serving: &&Loaded| serving.in_force.is_some_and(|of| of.generation == self.generation);
        self.order().map(|slot| &slot.serving).filter(is_new).for_each(|serving| serving.announce(self.generation));
    }

    /// The folder's own policies by their order and name, then the built-in ones or what replaces them.
    pub(super) fn order(&self) -> impl Iterator<Item = &Slot> {
        let is_built_in = |name: &str| self.loader.built_in_code(name).is_some();
        let mut joining: Vec<(&String, &Slot)> = self.slots.iter().filter(|(name, _)| !is_built_in(name)).collect();
        joining.sort_by_key(|(_, slot)| slot.serving.file.order.unwrap_or(PolicyFile::ORDER));
        let rest = self.loader.built_in().iter().filter_map(|built_in| self.slots.get(built_in.name));
        joining.into_iter().map(|(_, slot)| slot).chain(rest)
    }
}
