//! The handle by which a running gate's policies are listed and reloaded. Who follows the folder holds the other end.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::{
    mpsc::{Receiver, Sender, channel, error::TrySendError},
    oneshot,
};

use crate::ports::control::{
    Change, PolicyChange, PolicyComplaint, PolicyControl, PolicyList, ReloadError, Reloaded, Reloading,
};

/// Most who wait for a look at the folder: as many as the admin listener has connections, and a few signals.
const MOST_WAITING: usize = 70;

/// Who waits for the outcome of a look.
pub(super) type Waiting = oneshot::Sender<Reloaded>;

/// Lists the policies, and asks for a look at the folder.
#[derive(Debug)]
pub(super) struct Steering {
    listed: ArcSwap<PolicyList>,
    asking: Sender<Waiting>,
}

impl Steering {
    /// The handle, and where its requests come out.
    pub(super) fn new(list: PolicyList) -> (Arc<Self>, Receiver<Waiting>) {
        let (asking, asked) = channel(MOST_WAITING);
        (Arc::new(Self { listed: ArcSwap::from_pointee(list), asking }), asked)
    }

    /// Takes the list after a look, and answers what the look came to. Of the `unsettled` policies, whose files changed as they were
    /// read, it can't say that they are in force.
    pub(super) fn publish(&self, list: PolicyList, unsettled: &[String]) -> Reloaded {
        let before = self.listed.load();
        let complaints =
            list.policies.iter().filter_map(|policy| Some((Some(&policy.name), policy.complaint.as_ref()?)));
        let of_folder = list.complaint.iter().map(|complaint| (None, complaint));
        let changing = unsettled.iter().map(|policy| PolicyComplaint {
            policy: Some(policy.clone()),
            complaint: format!(
                "the files of policy '{policy}' change while they are read: they are looked at again when that is over; reload \
                 once they are written"
            ),
        });
        let reloaded = Reloaded {
            generation: list.generation,
            changes: changes(&before, &list),
            complaints: of_folder
                .chain(complaints)
                .map(|(policy, complaint)| PolicyComplaint { policy: policy.cloned(), complaint: complaint.clone() })
                .chain(changing)
                .collect(),
        };
        self.listed.store(Arc::new(list));
        reloaded
    }

    async fn ask(&self) -> Result<Reloaded, ReloadError> {
        if self.listed.load().folder.is_none() {
            return Err(ReloadError::NoFolder);
        }
        let (waiting, outcome) = oneshot::channel();
        self.asking.try_send(waiting).map_err(|error| match error {
            TrySendError::Full(_) => ReloadError::Busy,
            TrySendError::Closed(_) => ReloadError::Ended,
        })?;
        outcome.await.map_err(|_| ReloadError::Ended)
    }
}

impl PolicyControl for Steering {
    fn list(&self) -> Arc<PolicyList> {
        self.listed.load_full()
    }

    fn reload(&self) -> Reloading<'_> {
        Box::pin(self.ask())
    }
}

/// What is in force in one list and not, or in another version, in the other; by name.
fn changes(before: &PolicyList, after: &PolicyList) -> Vec<PolicyChange> {
    let versions = |list: &PolicyList| -> BTreeMap<String, String> {
        list.policies.iter().filter_map(|policy| Some((policy.name.clone(), policy.version.clone()?))).collect()
    };
    let (mut old, new) = (versions(before), versions(after));
    let mut changes = Vec::new();
    for (policy, version) in new {
        let change = match old.remove(&policy) {
            None => Change::Added,
            Some(known) if known != version => Change::Replaced,
            Some(_) => continue,
        };
        changes.push(PolicyChange { policy, change });
    }
    changes.extend(old.into_keys().map(|policy| PolicyChange { policy, change: Change::Removed }));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::control::{PolicySource, PolicyState, PolicyStatus};

    fn list(generation: u64, policies: &[(&str, Option<&str>, Option<&str>)]) -> PolicyList {
        let status = |(name, version, complaint): &(&str, Option<&str>, Option<&str>)| PolicyStatus {
            name: (*name).to_owned(),
            source: PolicySource::File,
            state: if version.is_some() { PolicyState::InForce } else { PolicyState::Refused },
            hooks: Vec::new(),
            capabilities: Vec::new(),
            version: version.map(str::to_owned),
            generation: Some(generation),
            since: None,
            breaker: None,
            complaint: complaint.map(str::to_owned),
            last_failure: None,
        };
        let policies = policies.iter().map(status).collect();
        PolicyList { generation, folder: Some("policies.d".to_owned()), complaint: None, policies }
    }

    #[tokio::test]
    async fn a_look_tells_what_came_changed_and_went_and_all_that_is_wrong() {
        let before = list(1, &[("same", Some("1"), None), ("other", Some("1"), None), ("gone", Some("1"), None)]);
        let (steering, mut asked) = Steering::new(before);
        let after = [
            ("bad", None, Some("it is broken")),
            ("new", Some("1"), None),
            ("other", Some("2"), None),
            ("same", Some("1"), Some("it is old")),
        ];
        let look = async {
            asked.recv().await.unwrap().send(steering.publish(list(2, &after), &["same".to_owned()])).unwrap()
        };
        let (reloaded, ()) = tokio::join!(steering.reload(), look);
        let reloaded = reloaded.unwrap();
        let changes: Vec<(&str, Change)> =
            reloaded.changes.iter().map(|change| (change.policy.as_str(), change.change)).collect();
        assert_eq!(changes, [("new", Change::Added), ("other", Change::Replaced), ("gone", Change::Removed)]);
        let complaints: Vec<Option<&str>> = reloaded.complaints.iter().map(|one| one.policy.as_deref()).collect();
        assert_eq!((reloaded.generation, complaints), (2, vec![Some("bad"), Some("same"), Some("same")]));
        assert!(reloaded.complaints[2].complaint.contains("change while they are read"), "{reloaded:?}");
        assert_eq!(steering.list().generation, 2);
    }

    #[tokio::test]
    async fn a_reload_that_nobody_can_do_says_so_at_once() {
        let (steering, asked) = Steering::new(PolicyList { folder: None, ..list(1, &[]) });
        assert_eq!(steering.reload().await, Err(ReloadError::NoFolder));
        drop(asked);
        let (steering, asked) = Steering::new(list(1, &[]));
        // Nobody takes the requests: they wait, up to the bound.
        let mut waiting: Vec<Reloading<'_>> = (0..=MOST_WAITING).map(|_| steering.reload()).collect();
        let mut outcomes = Vec::new();
        for request in &mut waiting {
            outcomes.push(std::future::poll_fn(|context| std::task::Poll::Ready(request.as_mut().poll(context))).await);
        }
        let busy = outcomes.iter().filter(|outcome| matches!(outcome, std::task::Poll::Ready(Err(ReloadError::Busy))));
        assert_eq!(busy.count(), 1);
        drop(asked);
        assert_eq!(waiting.remove(0).await, Err(ReloadError::Ended));
        assert_eq!(steering.reload().await, Err(ReloadError::Ended));
    }
}
