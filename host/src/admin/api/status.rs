//! `GET /api/v1/status`: which gate this is, and how it is.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use jiff::Timestamp;
use serde::Serialize;

use super::super::{Shared, health::Readiness};

#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    /// RFC 3339; none when the system's clock is beyond reason.
    started_at: Option<String>,
    uptime_seconds: u64,
    policy_generation: u64,
    draining: bool,
    readiness: Readiness,
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/status", get(show))
}

async fn show(State(shared): State<Arc<Shared>>) -> Json<Status> {
    let operations = &shared.operations;
    let started = i64::try_from(shared.started.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        started_at: started.map(|moment| moment.to_string()),
        uptime_seconds: operations.clock.monotonic().saturating_sub(shared.started.monotonic).as_secs(),
        policy_generation: operations.policies.list().generation,
        draining: operations.stop.is_cancelled(),
        readiness: Readiness::of(operations),
    })
}
