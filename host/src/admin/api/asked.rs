//! What requests of the API that change the store have in common: their bodies, and what the store says no to.
//!
//! Nothing here repeats what was sent: it may be a secret in the wrong place.

use std::{collections::BTreeMap, time::Duration};

use axum::http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};

use super::super::problem::Problem;
use crate::{
    identity::issue::IssueError,
    llm::model_name::ModelName,
    ports::{
        limits::{LARGEST_LIMIT, LimitChange, LimitName},
        store::{NewAttributes, StoreError},
    },
    wire::causes::causes,
};

/// Attributes by name, each with its values.
pub(super) type Attributes = BTreeMap<String, Vec<String>>;

/// Limits by name, as lists show them; null takes one away.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Limits {
    #[serde(default)]
    models: BTreeMap<String, BTreeMap<String, Option<u64>>>,
    #[serde(flatten)]
    overall: BTreeMap<String, Option<u64>>,
}

/// Reads a body; an empty one is an object without fields. `fields` are the names that it may have, for who got it wrong.
pub(super) fn read<T: DeserializeOwned>(body: &[u8], fields: &str) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let detail =
            format!("the body can't be read at line {line}, column {column}: send one JSON object with {fields}");
        Problem::new(StatusCode::BAD_REQUEST, "bad_body", detail)
    })
}

/// A time such as `30d` or `12h`.
pub(super) fn time(field: &str, text: &str) -> Result<Duration, Problem> {
    // humantime wants a unit; no time needs none.
    let time = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) };
    time.map_err(|_| {
        let detail = format!("`{field}` is not a time: write it like 30d or 12h");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit", detail)
    })
}

/// As the store takes them.
pub(super) fn limits(limits: Limits) -> Result<Vec<LimitChange>, Problem> {
    let unfit = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit", detail);
    let mut changes = Vec::new();
    let models = limits.models.into_iter().map(|(model, own)| (Some(model), own));
    for (model, own) in std::iter::once((None, limits.overall)).chain(models) {
        let model = model.map(|model| ModelName::parse(&model).map(|model| model.canonical().to_owned())).transpose();
        let model = model.map_err(|error| unfit(format!("a model in `limits` can't be used: {error}")))?;
        for (name, limit) in own {
            let known = LimitName::ALL.into_iter().find(|known| known.key() == name);
            let name = known.ok_or_else(|| {
                let names = LimitName::ALL.map(LimitName::key).join(", ");
                unfit(format!("`limits` has a name that is none of {names}, and models"))
            })?;
            if limit.is_some_and(|limit| limit > LARGEST_LIMIT) {
                return Err(unfit(format!("a limit is a whole number from 0 to {LARGEST_LIMIT}, or null")));
            }
            changes.push(LimitChange { model: model.clone(), name, limit });
        }
    }
    Ok(changes)
}

/// As the store takes them.
pub(super) fn attributes(attributes: Attributes) -> NewAttributes {
    attributes.into_iter().collect()
}

/// Why no key was made or renewed.
pub(super) fn not_issued(error: &IssueError) -> Problem {
    match error {
        IssueError::Unfit { field, reason } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit", format!("`{field}` {reason}"))
        }
        IssueError::Id { .. } => {
            let detail = "the id of this key can't be part of a new secret: create a new key instead";
            Problem::new(StatusCode::CONFLICT, "unfit_id", detail)
        }
        IssueError::NoRandomness(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_randomness", error.to_string())
        }
        IssueError::Store(error) => refused(error),
    }
}

/// Why the store didn't do it.
pub(super) fn refused(error: &StoreError) -> Problem {
    let problem = |status, code, detail: &str| Problem::new(status, code, detail);
    match error {
        StoreError::Database(_) => {
            tracing::error!(error = causes(error), "the admin API could not use the store");
            problem(StatusCode::SERVICE_UNAVAILABLE, "store_failed", "the store failed: try again; the log says why")
        }
        StoreError::Unreadable { .. } => {
            tracing::error!(error = causes(error), "the admin API could not read the store");
            let detail = "the store holds something that this version can't read: the log says what";
            problem(StatusCode::INTERNAL_SERVER_ERROR, "store_unreadable", detail)
        }
        StoreError::Refused(reason) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit", reason.as_str()),
        StoreError::NameTaken { .. } => {
            let detail = "this user has a live key of this name already: choose another name, or revoke that key first";
            problem(StatusCode::CONFLICT, "name_taken", detail)
        }
        StoreError::NoSuchKey { .. } => {
            let detail = "there is no such key: write its id, or a name that only one has; GET /api/v1/keys lists them";
            problem(StatusCode::NOT_FOUND, "no_such_key", detail)
        }
        StoreError::Ambiguous { .. } => {
            let detail = "several keys have this name: write the id, which GET /api/v1/keys lists";
            problem(StatusCode::CONFLICT, "ambiguous", detail)
        }
        StoreError::Revoked { .. } => {
            problem(StatusCode::CONFLICT, "revoked", "this key is revoked for good: create a new one")
        }
        StoreError::UserTaken { .. } => {
            let detail = "there is a user of this name already: GET /api/v1/users lists them";
            problem(StatusCode::CONFLICT, "user_taken", detail)
        }
        StoreError::NoSuchUser { .. } => {
            let detail = "there is no such user: GET /api/v1/users lists them";
            problem(StatusCode::NOT_FOUND, "no_such_user", detail)
        }
        StoreError::UserDisabled { .. } => {
            let detail = "this user is disabled and gets no new keys: enable them first";
            problem(StatusCode::CONFLICT, "user_disabled", detail)
        }
        StoreError::UserHasKeys { live_keys, .. } => {
            let detail = format!("this user has keys that are not revoked ({live_keys}): revoke them first");
            Problem::new(StatusCode::CONFLICT, "user_has_keys", detail)
        }
        StoreError::NoSuchBackend { .. } | StoreError::BackendTaken { .. } => problem(
            StatusCode::CONFLICT,
            "backend",
            "the backends are not as this expects: GET /api/v1/backends lists them",
        ),
    }
}
