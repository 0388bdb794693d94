//! A thread for what no caller should wait for: dropping stores, which takes longer than asking them, and making spare ones.

use std::{
    sync::{
        Arc, Weak,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use super::{instance::Instance, nursery::Nursery};

/// Jobs that may wait; with more, the thread that brings a store drops it itself.
const WAITING: usize = 64;

enum Job {
    Bury(Box<Instance>),
    Raise(Weak<Nursery>),
}

/// Where stores go that are not used again. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Janitor(SyncSender<Job>);

impl Janitor {
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Job>(WAITING);
        thread::Builder::new().name("policy-janitor".to_owned()).spawn(move || {
            for job in receiver {
                match job {
                    Job::Bury(instance) => drop(instance),
                    Job::Raise(nursery) => {
                        if let Some(nursery) = nursery.upgrade() {
                            nursery.raise();
                        }
                    }
                }
            }
        })?;
        Ok(Self(sender))
    }

    pub(super) fn bury(&self, instance: Instance) {
        // Full or gone: the instance comes back in the error, and is dropped here.
        drop(self.0.try_send(Job::Bury(Box::new(instance))));
    }

    /// Has a spare instance made, if there is time for it.
    pub(super) fn raise(&self, nursery: &Arc<Nursery>) {
        if self.0.try_send(Job::Raise(Arc::downgrade(nursery))).is_err() {
            nursery.give_up_spare();
        }
    }
}
