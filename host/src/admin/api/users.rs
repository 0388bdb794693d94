//! `/api/v1/users`: who owns keys. What is changed here is in force within two seconds, as with `tollgate users`.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    super::{Shared, problem::Problem},
    asked::{self, Attributes, Limits},
};
use crate::{
    identity::{issue, shown},
    ports::{
        keys::UserState,
        store::{NewUser, StoredUser, UserChanges},
    },
};

/// What `POST /users` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    limits: Limits,
}

const WANTED: &str = "`name`, a text, and if need be `attributes` ({\"groups\": [\"staff\"]}) and `limits` \
                      ({\"tokens_per_day\": 1000000})";

/// What `PATCH /users/USER` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    attributes: Option<Attributes>,
    limits: Option<Limits>,
}

const CHANGES: &str = "`attributes`: each name's new values, where an empty list takes the name away, and `limits`: each \
                       one's new value, where null takes it away";

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{user}", delete(remove).patch(change))
        .route("/users/{user}/disable", post(disable))
        .route("/users/{user}/enable", post(enable))
}

async fn list(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let users = stored(&shared).await?;
    let users: Vec<_> = users.iter().map(shown::user).collect();
    Ok(Json(json!({ "users": users })).into_response())
}

async fn create(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Response, Problem> {
    let Wanted { name, attributes, limits } = asked::read(&body, WANTED)?;
    issue::check_name("name", &name).map_err(|error| asked::not_issued(&error))?;
    let (attributes, limits) = (asked::attributes(attributes), asked::limits(limits)?);
    let new = NewUser { name: name.clone(), attributes, limits, created_at_ms: shared.operations.clock.unix_ms() };
    shared.operations.store.create_user(new).await.map_err(|error| asked::refused(&error))?;
    tracing::info!(user = name, "a user was created through the admin API");
    Ok((StatusCode::CREATED, answer(&shared, &name).await?).into_response())
}

async fn change(State(shared): State<Arc<Shared>>, Path(user): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let Changes { attributes, limits } = asked::read(&body, CHANGES)?;
    if attributes.is_none() && limits.is_none() {
        let detail = format!("nothing is to be changed: send one JSON object with {CHANGES}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_body", detail));
    }
    let attributes = asked::attributes(attributes.unwrap_or_default());
    let changes = UserChanges { attributes, limits: asked::limits(limits.unwrap_or_default())? };
    let changed = shared.operations.store.change_user(&user, changes).await;
    changed.map_err(|error| asked::refused(&error))?;
    tracing::info!(user, "a user was changed through the admin API");
    answer(&shared, &user).await
}

async fn disable(State(shared): State<Arc<Shared>>, Path(user): Path<String>) -> Result<Response, Problem> {
    set(&shared, &user, UserState::Disabled).await
}

async fn enable(State(shared): State<Arc<Shared>>, Path(user): Path<String>) -> Result<Response, Problem> {
    set(&shared, &user, UserState::Active).await
}

async fn set(shared: &Shared, user: &str, state: UserState) -> Result<Response, Problem> {
    shared.operations.store.set_user_state(user, state).await.map_err(|error| asked::refused(&error))?;
    tracing::info!(user, state = state.as_str(), "a user was changed through the admin API");
    answer(shared, user).await
}

async fn remove(State(shared): State<Arc<Shared>>, Path(user): Path<String>) -> Result<Response, Problem> {
    shared.operations.store.remove_user(&user).await.map_err(|error| asked::refused(&error))?;
    tracing::info!(user, "a user was removed through the admin API");
    Ok(Json(json!({ "name": user, "removed": true })).into_response())
}

async fn answer(shared: &Shared, name: &str) -> Result<Response, Problem> {
    let users = stored(shared).await?;
    let found = users.iter().find(|stored| *stored.user.name == *name);
    let gone = || {
        let detail = "the change was made, and somebody else has removed this user meanwhile";
        Problem::new(StatusCode::CONFLICT, "removed_meanwhile", detail)
    };
    Ok(Json(shown::user(found.ok_or_else(gone)?)).into_response())
}

async fn stored(shared: &Shared) -> Result<Vec<StoredUser>, Problem> {
    shared.operations.store.users().await.map_err(|error| asked::refused(&error))
}
