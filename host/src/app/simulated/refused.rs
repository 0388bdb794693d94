//! A simulated server's errors, in the three shapes in which Ollama answers them.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// In whose words an error is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    Ollama,
    OpenAi,
    Anthropic,
}

/// A request that is not served.
#[derive(Debug)]
pub(super) struct Refused {
    dialect: Dialect,
    status: StatusCode,
    message: String,
}

impl Refused {
    pub(super) fn bad_request(dialect: Dialect, message: impl Into<String>) -> Self {
        Self { dialect, status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    pub(super) fn unknown_model(dialect: Dialect, model: &str) -> Self {
        Self { dialect, status: StatusCode::NOT_FOUND, message: format!("model '{model}' not found") }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let is_unknown = self.status == StatusCode::NOT_FOUND;
        let kind = if is_unknown { "not_found_error" } else { "invalid_request_error" };
        let body = match self.dialect {
            Dialect::Ollama => json!({ "error": self.message }),
            Dialect::OpenAi => {
                json!({ "error": { "message": self.message, "type": kind, "param": null, "code": null } })
            }
            Dialect::Anthropic => json!({
                "type": "error", "error": { "type": kind, "message": self.message }, "request_id": "req_simulated",
            }),
        };
        (self.status, Json(body)).into_response()
    }
}
