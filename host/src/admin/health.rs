//! Alive, ready, and the numbers: for probes and scrapers, without a token. Says nothing that a local user may not know.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{Operations, Shared};
use crate::quota::Sharing;

/// Keys that were not read for this long are `degraded`: they serve, but a change would not be seen.
const DEGRADED_AFTER: Duration = Duration::from_secs(5);

/// What `/readyz` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether calls should come here.
    pub ready: bool,
    /// `fresh`, `degraded` (they serve, but changes are not seen) or `stale` (nobody is let in).
    pub keys: String,
    /// `memory` (this process's alone), `shared`, or `degraded` (they should be shared, but Redis can't be asked).
    pub limits: String,
    /// Backends that answer and aren't drained.
    pub backends_up: usize,
    /// All backends.
    pub backends: usize,
    /// Whether the gate is stopping.
    pub draining: bool,
}

impl Readiness {
    pub(super) fn of(operations: &Operations) -> Self {
        let backends = operations.fleet.backends();
        let backends_up = backends.iter().filter(|backend| backend.takes_calls()).count();
        let (keys, is_trusted) = match operations.keys.age() {
            Some(age) if age < DEGRADED_AFTER => ("fresh", true),
            _ if operations.keys.is_fresh() => ("degraded", true),
            _ => ("stale", false),
        };
        let draining = operations.stop.is_cancelled();
        let ready = is_trusted && backends_up > 0 && !draining;
        let limits = match operations.limits.sharing() {
            Sharing::Memory => "memory",
            Sharing::Shared => "shared",
            Sharing::Degraded => "degraded",
        };
        Self {
            ready,
            keys: keys.to_owned(),
            limits: limits.to_owned(),
            backends_up,
            backends: backends.len(),
            draining,
        }
    }

    /// Why calls should not come here; none when they should.
    pub fn reason(&self) -> Option<String> {
        if self.ready {
            return None;
        }
        Some(match self {
            Self { draining: true, .. } => "it is stopping, and lets running calls finish".to_owned(),
            Self { backends_up: 0, backends: 0, .. } => "no backends are configured: add [[backends]]".to_owned(),
            Self { backends_up: 0, backends, .. } => {
                format!(
                    "no backend answers that takes calls (0 of {backends} are up and not drained): look at them with `tollgate \
                     backends list`, and at `url` in [[backends]]"
                )
            }
            Self { .. } => format!("its keys are {}: the store can't be read, and the log says why", self.keys),
        })
    }
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let readiness = Readiness::of(&shared.operations);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, OPEN_METRICS)], shared.operations.metrics.render()).into_response()
}
