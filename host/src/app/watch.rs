//! Following the policy folder: events when they come, a slow look as a belt, and everything heavy on a thread of its own.

use std::{path::Path, time::Duration};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
    recommended_watcher,
};
use tokio::{
    sync::mpsc::{Receiver, channel},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::policies::Policies;

/// Changes are taken once the folder has been quiet this long, so that a file is read when it is whole.
const QUIET: Duration = Duration::from_millis(200);

/// A folder that is never quiet is looked at all the same after so many tries.
const AT_MOST_QUIETS: u32 = 5;

/// The folder is looked at this often without an event: some file systems send none.
const BELT: Duration = Duration::from_secs(10);

/// Follows the folder until `stop`. Without a folder it only keeps the runtime alive, which the policies need.
pub(super) fn follow_policies(tasks: &TaskTracker, stop: &CancellationToken, policies: Policies) {
    let stop = stop.clone();
    tasks.spawn(async move {
        let Some(folder) = policies.folder().map(Path::to_owned) else {
            stop.cancelled().await;
            drop(policies);
            return;
        };
        let (changed, mut changes) = channel(1);
        let mut watcher = watch(&folder, move || {
            // Full: a look is due already. Closed: nobody follows any more.
            let (Ok(()) | Err(_)) = changed.try_send(());
        });
        if let Err(error) = &watcher {
            let every = BELT.as_secs();
            tracing::warn!(%error, every, "the policy folder can't be watched; it is looked at every few seconds");
        }
        let mut policies = policies;
        while stop.run_until_cancelled(quiet(&mut changes)).await.is_some() {
            // Another folder may have this name now; it must be watched before it is read.
            if let Ok(watcher) = &mut watcher
                && let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive)
            {
                tracing::debug!(%error, "the policy folder can't be watched now");
            }
            // Compiling takes long: never on a worker.
            let followed = spawn_blocking(move || {
                policies.follow();
                policies
            });
            policies = match followed.await {
                Ok(policies) => policies,
                Err(error) => {
                    tracing::error!(%error, "following the policy folder has ended; the policies in force serve on");
                    stop.cancelled().await;
                    return;
                }
            };
        }
    });
}

/// The folder, and its parent: a folder may be swapped as a whole.
pub(super) fn watch(folder: &Path, on_change: impl Fn() + Send + 'static) -> notify::Result<RecommendedWatcher> {
    let mut watcher = recommended_watcher(move |event: notify::Result<Event>| {
        // To look at a file is an event too: following it would never end.
        let is_only_a_look = event.is_ok_and(
            |event| matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)),
        );
        if !is_only_a_look {
            on_change();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    if let Some(parent) = folder.parent() {
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Waits for a change and then for quiet, or for the belt.
pub(super) async fn quiet(changes: &mut Receiver<()>) {
    match timeout(BELT, changes.recv()).await {
        Ok(Some(())) => {}
        // The watcher is gone: only the belt is left.
        Ok(None) => sleep(BELT).await,
        Err(_) => return,
    }
    for _ in 0..AT_MOST_QUIETS {
        if !matches!(timeout(QUIET, changes.recv()).await, Ok(Some(()))) {
            return;
        }
    }
}
