//! Work that asks policies for an operator: it makes instances of all of them, so it is done off the workers that serve calls,
//! and one piece after the other.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::{runtime::Handle, task::spawn_blocking};

use super::super::{Shared, problem::Problem};
use crate::proxy::Parts;

/// Does it, once it is its turn. Whoever leaves meanwhile changes nothing: it is done to its end, and what comes of it is
/// dropped.
pub(super) async fn tried<T, F>(
    shared: &Shared,
    work: impl FnOnce(Arc<Parts>) -> F + Send + 'static,
) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let failed = |()| {
        let detail = "the gate failed over this: its log says why";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
    };
    let turn = Arc::clone(&shared.trying).acquire_owned().await.map_err(|_| failed(()))?;
    let (parts, workers) = (Arc::clone(&shared.operations.parts), Handle::current());
    let done = spawn_blocking(move || {
        let done = workers.block_on(work(parts));
        drop(turn);
        done
    });
    done.await.map_err(|_| failed(()))
}
