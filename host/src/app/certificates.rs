//! Following the certificate's files: what a renewal writes is in use without a restart.

use std::{path::Path, sync::Arc};

use tokio::{sync::mpsc::channel, task::spawn_blocking};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::watch::{quiet, watch};
use crate::{clock::Clock, server::Certificates, usage::metrics::Metrics, wire::causes::causes};

/// Follows both files until `stop`: their folders for events, and a slow look as a belt, because a renewal may replace a
/// link to a file elsewhere.
pub(super) fn follow_certificates(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    certificates: Option<Arc<Certificates>>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) {
    let Some(certificates) = certificates else { return };
    metrics.edges().certificate_ends(certificates.ends_unix_s());
    let (stop, clock, metrics) = (stop.clone(), clock.clone(), Arc::clone(metrics));
    tasks.spawn(async move {
        let (changed, mut changes) = channel(1);
        // What came after the start had read the files, and before they are watched, sends no event.
        let (Ok(()) | Err(_)) = changed.try_send(());
        let watchers = certificates.files().map(|file| {
            let changed = changed.clone();
            let folder = file.parent().unwrap_or(Path::new("."));
            // Full: a look is due already. Closed: nobody follows any more.
            watch(folder, move || {
                let (Ok(()) | Err(_)) = changed.try_send(());
            })
        });
        if watchers.iter().any(Result::is_err) {
            tracing::warn!("the certificate's folder can't be watched; it is looked at every few seconds");
        }
        while stop.run_until_cancelled(quiet(&mut changes)).await.is_some() {
            let (reloading, now_ms) = (Arc::clone(&certificates), clock.unix_ms());
            match spawn_blocking(move || reloading.reload(now_ms)).await {
                Ok(Ok(true)) => {
                    metrics.edges().certificate_ends(certificates.ends_unix_s());
                    tracing::info!("a new certificate is in use");
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    metrics.edges().certificate_refused();
                    let problem = causes(&error);
                    tracing::error!(problem, "the changed certificate is not used; the one before it stays");
                }
                Err(error) => tracing::error!(%error, "the certificate's files could not be looked at"),
            }
        }
        drop(watchers);
    });
}
