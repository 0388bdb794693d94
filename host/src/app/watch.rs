//! Following the policy folder: events when they come, a slow look as a belt, and everything heavy on a thread of its own.

use std::{path::Path, sync::Arc, time::Duration};

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

use super::{
    policies::Policies,
    steering::{Steering, Waiting},
};

/// Changes are taken once the folder has been quiet this long, so that a file is read when it is whole.
const QUIET: Duration = Duration::from_millis(200);

/// A folder that is never quiet is looked at all the same after so many tries.
const AT_MOST_QUIETS: u32 = 5;

/// The folder is looked at this often without an event: some file systems send none.
const BELT: Duration = Duration::from_secs(10);

/// Follows the folder until `stop`; looks at it as well when somebody asks, or a breaker changed. Without a folder there are
/// only the breakers. The handle is how the policies are listed and a look is asked for.
pub(super) fn follow_policies(tasks: &TaskTracker, stop: &CancellationToken, policies: Policies) -> Arc<Steering> {
    let (steering, asked) = Steering::new(policies.list());
    let (stop, handle) = (stop.clone(), Arc::clone(&steering));
    tasks.spawn(async move {
        stop.run_until_cancelled(follow(policies, &steering, asked)).await;
    });
    handle
}

async fn follow(mut policies: Policies, steering: &Steering, mut asked: Receiver<Waiting>) {
    let folder = policies.folder().map(Path::to_owned);
    let (changed, mut changes) = channel(1);
    // What came after the start had read the folder, and before it is watched, sends no event.
    let (Ok(()) | Err(_)) = changed.try_send(());
    let breakers = policies.changed();
    let mut watcher = folder.as_ref().map(|folder| {
        watch(folder, move || {
            // Full: a look is due already. Closed: nobody follows any more.
            let (Ok(()) | Err(_)) = changed.try_send(());
        })
    });
    if let Some(Err(error)) = &watcher {
        let every = BELT.as_secs();
        tracing::warn!(%error, every, "the policy folder can't be watched; it is looked at every few seconds");
    }
    loop {
        let first = tokio::select! {
            () = quiet(&mut changes), if folder.is_some() => None,
            () = breakers.notified() => None,
            waiting = asked.recv() => waiting,
        };
        // All who have asked by now share this look; who asks later gets the next.
        let waiting: Vec<Waiting> = first.into_iter().chain(std::iter::from_fn(|| asked.try_recv().ok())).collect();
        // Another folder may have this name now; it must be watched before it is read.
        if let (Some(Ok(watcher)), Some(folder)) = (&mut watcher, &folder)
            && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
        {
            tracing::debug!(%error, "the policy folder can't be watched now");
        }
        let looked = if waiting.is_empty() { look(policies, false).await } else { look_for_sure(policies).await };
        policies = match looked {
            Ok(policies) => policies,
            Err(error) => {
                tracing::error!(error, "following the policy folder has ended; the policies in force serve on");
                // Who asks from now on is told at once.
                drop((waiting, asked));
                return std::future::pending().await;
            }
        };
        let reloaded = steering.publish(policies.list(), policies.unsettled());
        for waiting in waiting {
            // Who has left needs no answer.
            drop(waiting.send(reloaded.clone()));
        }
    }
}

/// A look that somebody waits for, and again while files change as they are read: an answer is to say what became of them.
async fn look_for_sure(policies: Policies) -> Result<Policies, String> {
    let mut policies = look(policies, true).await?;
    for _ in 0..AT_MOST_QUIETS {
        if policies.unsettled().is_empty() {
            break;
        }
        sleep(QUIET).await;
        policies = look(policies, false).await?;
    }
    Ok(policies)
}

/// One look at the folder. It reads files, and may take long: never on a worker.
async fn look(mut policies: Policies, is_asked: bool) -> Result<Policies, String> {
    let work = move || {
        if is_asked {
            policies.forgive();
        }
        policies.follow();
        policies
    };
    spawn_blocking(work).await.map_err(|error| error.to_string())
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
