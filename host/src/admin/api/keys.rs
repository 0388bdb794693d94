//! `/api/v1/keys`: keys of callers. What is changed here is in force within two seconds, as with `tollgate keys`; a secret
//! stands in the answer that made it, and nowhere else.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{Shared, problem::Problem},
    asked::{self, Attributes, Limits},
};
use crate::{
    clock::moment,
    identity::{
        issue::{self, KeyOrder},
        shown,
    },
    ports::keys::KeyState,
};

/// How long the former secret works where nothing is said, as on the command line.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

/// What `POST /keys` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    user: Option<String>,
    #[serde(default)]
    limits: Limits,
    models: Option<Vec<String>>,
    expires: Option<String>,
    #[serde(default)]
    may_manage: bool,
    #[serde(default)]
    attributes: Attributes,
}

const WANTED: &str = "`name`, a text, and if need be `user`, `limits` ({\"requests_per_minute\": 60}), `models` (a list of \
                      names), `expires` (30d), `may_manage` (true) and `attributes` ({\"groups\": [\"staff\"]})";

/// What `PATCH /keys/KEY` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    limits: Limits,
}

const CHANGES: &str = "`limits`: each one's new value, where null takes it away";

/// What `POST /keys/KEY/rotate` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    overlap: Option<String>,
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/keys", get(list).post(create))
        .route("/keys/{key}", get(show).patch(change))
        .route("/keys/{key}/disable", post(disable))
        .route("/keys/{key}/enable", post(enable))
        .route("/keys/{key}/revoke", post(revoke))
        .route("/keys/{key}/rotate", post(rotate))
}

async fn list(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let operations = &shared.operations;
    let keys = operations.store.keys().await.map_err(|error| asked::refused(&error))?;
    let now_ms = operations.clock.unix_ms();
    let keys: Vec<_> = keys.iter().map(|key| shown::key(key, now_ms)).collect();
    Ok(Json(json!({ "keys": keys })).into_response())
}

async fn show(State(shared): State<Arc<Shared>>, Path(key): Path<String>) -> Result<Response, Problem> {
    let key = shared.operations.store.key(&key).await.map_err(|error| asked::refused(&error))?;
    Ok(Json(shown::key(&key, shared.operations.clock.unix_ms())).into_response())
}

async fn create(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Response, Problem> {
    let operations = &shared.operations;
    let wanted: Wanted = asked::read(&body, WANTED)?;
    let order = KeyOrder {
        name: wanted.name,
        user: wanted.user,
        limits: asked::limits(wanted.limits)?,
        models: wanted.models,
        expires: wanted.expires.map(|text| asked::time("expires", &text)).transpose()?,
        may_manage: wanted.may_manage,
        attributes: asked::attributes(wanted.attributes),
    };
    let issued = issue::issue(operations.store.as_ref(), &operations.pepper, order, operations.clock.unix_ms()).await;
    let key = issued.map_err(|error| asked::not_issued(&error))?;
    tracing::info!(key = key.id(), "a key was created through the admin API");
    Ok((StatusCode::CREATED, Json(json!({ "id": key.id(), "key": key.text() }))).into_response())
}

async fn change(State(shared): State<Arc<Shared>>, Path(key): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let operations = &shared.operations;
    let Changes { limits } = asked::read(&body, CHANGES)?;
    let changed = operations.store.change_key_limits(&key, asked::limits(limits)?).await;
    let id = changed.map_err(|error| asked::refused(&error))?;
    tracing::info!(key = id, "the limits of a key were changed through the admin API");
    let key = operations.store.key(&id).await.map_err(|error| asked::refused(&error))?;
    Ok(Json(shown::key(&key, operations.clock.unix_ms())).into_response())
}

async fn rotate(State(shared): State<Arc<Shared>>, Path(key): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let operations = &shared.operations;
    let asked: Rotation = asked::read(&body, "`overlap`, such as 24h, or no body at all")?;
    let overlap = asked.overlap.map_or(Ok(OVERLAP), |text| asked::time("overlap", &text))?;
    let (store, now_ms) = (operations.store.as_ref(), operations.clock.unix_ms());
    let renewed = issue::renew(store, &operations.pepper, &key, overlap, now_ms).await;
    let renewed = renewed.map_err(|error| asked::not_issued(&error))?;
    tracing::info!(key = renewed.key.id(), "a key got a new secret through the admin API");
    let answer = json!({
        "id": renewed.key.id(),
        "key": renewed.key.text(),
        "former_secret_until": renewed.former_until_ms.map(moment),
        "ended_earlier_secret": renewed.has_ended_former,
    });
    Ok(Json(answer).into_response())
}

async fn disable(State(shared): State<Arc<Shared>>, Path(key): Path<String>) -> Result<Response, Problem> {
    set(&shared, &key, KeyState::Disabled).await
}

async fn enable(State(shared): State<Arc<Shared>>, Path(key): Path<String>) -> Result<Response, Problem> {
    set(&shared, &key, KeyState::Active).await
}

async fn revoke(State(shared): State<Arc<Shared>>, Path(key): Path<String>) -> Result<Response, Problem> {
    set(&shared, &key, KeyState::Revoked).await
}

async fn set(shared: &Shared, key: &str, state: KeyState) -> Result<Response, Problem> {
    let operations = &shared.operations;
    let id = operations.store.set_key_state(key, state).await.map_err(|error| asked::refused(&error))?;
    tracing::info!(key = id, state = state.as_str(), "a key was changed through the admin API");
    let key = operations.store.key(&id).await.map_err(|error| asked::refused(&error))?;
    Ok(Json(shown::key(&key, operations.clock.unix_ms())).into_response())
}
