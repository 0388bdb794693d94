//! `POST /api/v1/explain`: what would become of a call, without making it.
//!
//! A key in the question proves its caller as in a call, and is neither kept nor told again. Where only a key's name is
//! given the call is taken for that key's: the admin token allows to ask, and nothing is done in its name.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;

use super::{
    super::{Shared, problem::Problem},
    asked,
    trying::tried,
};
use crate::{
    llm::operations::{self, Match},
    policy::NotRehearsed,
    ports::keys::KeyRecord,
    proxy::Question,
};

/// Names of the fields, for who got them wrong.
const FIELDS: &str = "`key` or `key_id`, `method`, `path`, `headers`, `body` and `peer`";

/// A call to try. Without `Debug`: it may hold a key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    key: Option<String>,
    key_id: Option<String>,
    method: Option<String>,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    peer: Option<IpAddr>,
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/explain", post(explain))
}

async fn explain(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Response, Problem> {
    let question = question(&shared, asked::read(&body, FIELDS)?).await?;
    let explained = tried(&shared, async move |parts| parts.explain(question).await).await?;
    Ok(Json(explained.map_err(|error| not_tried(&error))?).into_response())
}

async fn question(shared: &Shared, asked: Asked) -> Result<Question, Problem> {
    let Asked { key, key_id, method, path, headers, body, peer } = asked;
    if key.is_some() && key_id.is_some() {
        return Err(unfit("write `key` or `key_id`, not both".to_owned()));
    }
    let path: Uri = path
        .parse()
        .ok()
        .filter(|_| path.starts_with('/'))
        .ok_or_else(|| unfit("`path` is no path of a request: write it like /api/chat".to_owned()))?;
    let mut headers = self::headers(headers)?;
    if let Some(key) = key {
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        let mut value =
            value.map_err(|_| unfit("`key` can't stand in a header: write it as it was shown".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    let key = match key_id {
        Some(key) => Some(Arc::new(stored(shared, &key).await?)),
        None => None,
    };
    let method = match method {
        Some(method) => method.parse().map_err(|_| unfit("`method` is none of HTTP: write it like POST".to_owned()))?,
        None => usual(path.path()),
    };
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok(Question { key, peer, method, path, headers, body: body.into() })
}

/// The key of this id, or name, as the store has it now: a call may find it so a second later.
async fn stored(shared: &Shared, key: &str) -> Result<KeyRecord, Problem> {
    let stored = shared.operations.store.key(key).await.map_err(|error| asked::refused(&error))?;
    Ok(stored.record)
}

fn headers(named: BTreeMap<String, String>) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        let pair = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        let (name, value) =
            pair.ok_or_else(|| unfit("`headers` has a name or a value that can't stand in a request".to_owned()))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The method of an operation that has only one, as most have.
fn usual(path: &str) -> Method {
    match operations::find(&Method::POST, path) {
        Match::WrongMethod { .. } => Method::GET,
        Match::Row(..) | Match::Unknown { .. } => Method::POST,
    }
}

fn unfit(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit", detail)
}

fn not_tried(error: &NotRehearsed) -> Problem {
    tracing::warn!(%error, "an operator's call could not be tried");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "policy_fault", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_the_method_that_its_path_takes() {
        for (path, method) in [
            ("/api/chat", Method::POST),
            ("/api/tags", Method::GET),
            ("/v1/models", Method::GET),
            ("/nowhere", Method::POST),
        ] {
            assert_eq!(usual(path), method, "{path}");
        }
    }
}
