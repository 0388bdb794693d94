//! `/api/v1/policies`: what decides, and looking at the folder now.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::time::timeout;

use super::super::{Shared, problem::Problem};
use crate::ports::control::ReloadError;

/// Who asks for a look waits no longer than this: many large policies take long to compile. The look goes on.
const PATIENCE: Duration = Duration::from_secs(110);

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/policies", get(list)).route("/policies/reload", post(reload))
}

async fn list(State(shared): State<Arc<Shared>>) -> Response {
    Json(&*shared.operations.policies.list()).into_response()
}

async fn reload(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(outcome) = timeout(PATIENCE, shared.operations.policies.reload()).await else {
        let detail = "the policies still compile: GET /api/v1/policies shows them when they are in force";
        return Problem::new(StatusCode::GATEWAY_TIMEOUT, "still_compiling", detail).into_response();
    };
    match outcome {
        Ok(reloaded) if reloaded.complaints.is_empty() => Json(reloaded).into_response(),
        Ok(reloaded) => {
            let detail =
                "not all policies are as the folder has them; `complaints` says why, and what is in force serves on";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "policies_refused", detail).with(&reloaded).into_response()
        }
        Err(error) => {
            let (status, code) = match error {
                ReloadError::NoFolder => (StatusCode::CONFLICT, "no_policy_folder"),
                ReloadError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
                ReloadError::Ended => (StatusCode::SERVICE_UNAVAILABLE, "not_followed"),
            };
            Problem::new(status, code, error.to_string()).into_response()
        }
    }
}
