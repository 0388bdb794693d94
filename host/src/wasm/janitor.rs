//! A thread that drops stores. Dropping one takes longer than asking it: no caller should wait for that.

use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use super::instance::Instance;

/// Stores that may wait; with more, the thread that brings one drops it itself.
const WAITING: usize = 64;

/// Where stores go that are not used again. The thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Janitor(SyncSender<Instance>);

impl Janitor {
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Instance>(WAITING);
        thread::Builder::new().name("policy-janitor".to_owned()).spawn(move || receiver.into_iter().for_each(drop))?;
        Ok(Self(sender))
    }

    pub(super) fn bury(&self, instance: Instance) {
        // Full or gone: the instance comes back in the error, and is dropped here.
        drop(self.0.try_send(instance));
    }
}
