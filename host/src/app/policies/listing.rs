//! What an operator sees of the policies.

use super::{Complaint, Policies, slot::Slot};
use crate::{
    app::folder,
    clock::moment,
    policy::{Capability, Hook, Policy},
    ports::control::{PolicyList, PolicySource, PolicyState, PolicyStatus},
};

impl Policies {
    /// The policies in the order in which they are asked, then those that are not in force.
    pub fn list(&self) -> PolicyList {
        let in_force = self.order().map(|slot| self.status(slot));
        let refused = self.complaints.iter().filter(|(name, _)| !name.is_empty() && !self.serves_file(name));
        let refused = refused.map(|(name, complaint)| self.refused(name, complaint));
        PolicyList {
            generation: self.generation,
            folder: self.folder.as_ref().map(|folder| folder.display().to_string()),
            complaint: self.complaints.get("").map(|complaint| complaint.text.clone()),
            policies: in_force.chain(refused).collect(),
        }
    }

    /// The policies whose files changed while the last look read them: whether they are in force isn't known.
    pub(in crate::app) fn unsettled(&self) -> &[String] {
        &self.unsettled
    }

    /// Whether what serves under this name is a file's version, or as a file says: a complaint is about that.
    fn serves_file(&self, name: &str) -> bool {
        self.slots.get(name).is_some_and(|slot| {
            let serving = &slot.serving;
            serving.source == PolicySource::File || serving.key.terms.is_some() || serving.key.cases.is_some()
        })
    }

    fn status(&self, slot: &Slot) -> PolicyStatus {
        let version = &slot.serving;
        let name = version.policy.name().to_string();
        // A file that was never used is listed on its own, beside the built-in that it would replace.
        let complaint = self.complaints.get(&name).filter(|_| self.serves_file(&name));
        PolicyStatus {
            source: version.source,
            state: if complaint.is_some() { PolicyState::Outdated } else { PolicyState::InForce },
            hooks: hooks(&version.policy.inspection().hooks),
            capabilities: capabilities(&version.policy.inspection().capabilities),
            version: Some(folder::version(&version.key.component)),
            generation: version.in_force.map(|now| now.generation),
            since: version.in_force.map(|now| moment(now.since_ms)),
            breaker: Some(version.guard.state().as_str().to_owned()),
            complaint: complaint.map(|complaint| complaint.text.clone()),
            last_failure: self.failures.get(&name).cloned(),
            name,
        }
    }

    fn refused(&self, name: &str, complaint: &Complaint) -> PolicyStatus {
        PolicyStatus {
            name: name.to_owned(),
            source: PolicySource::File,
            state: PolicyState::Refused,
            hooks: Vec::new(),
            capabilities: Vec::new(),
            version: None,
            generation: None,
            since: None,
            breaker: None,
            complaint: Some(complaint.text.clone()),
            last_failure: self.failures.get(name).cloned(),
        }
    }
}

fn capabilities(capabilities: &[Capability]) -> Vec<String> {
    capabilities.iter().map(|capability| capability.word().to_owned()).collect()
}

fn hooks(hooks: &[Hook]) -> Vec<String> {
    hooks.iter().map(|hook| hook.as_str().to_owned()).collect()
}
