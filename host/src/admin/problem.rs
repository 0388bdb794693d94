//! "No" on the admin listener: problem details (RFC 9457), whose `detail` says what to do. Never repeats what was sent.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// Why a request was not done.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    title: &'static str,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    code: &'static str,
    detail: String,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Problem {
    /// A problem; `code` is for programs, `detail` for people.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Refused");
        Self { title, status, code, detail: detail.into(), more: Map::new() }
    }

    /// The same with all fields of a value that is an object.
    pub(super) fn with(mut self, more: &impl Serialize) -> Self {
        if let Ok(Value::Object(more)) = serde_json::to_value(more) {
            self.more = more;
        }
        self
    }
}

fn number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
        // Plain data: writing it can't fail.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (self.status, [(header::CONTENT_TYPE, PROBLEM)], body).into_response()
    }
}

/// What nothing answers to.
pub(super) async fn no_such_path() -> Problem {
    let detail = "there is nothing at this path: /healthz, /readyz and /metrics are there, and /api/v1/status, \
                  /api/v1/policies, /api/v1/policies/reload, /api/v1/explain, /api/v1/backends, /api/v1/keys (KEY, and KEY/limits, disable, \
                  enable, revoke, rotate) and /api/v1/users (USER, and USER/disable, enable)";
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", detail)
}

/// What is there, but is asked otherwise.
pub(super) async fn wrong_method() -> Problem {
    let detail = "this path doesn't take this method: use one that the header `allow` names";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail)
}
