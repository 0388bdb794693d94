//! Operations that change a server. Here they change its list of models; blobs are counted and forgotten.

use aws_lc_rs::digest::{Context, SHA256};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{Asked, Refused, SIZE, Server, hexadecimal, paced::ndjson, refused::Dialect::Ollama, remember, sha256};

/// Any model can be had.
pub(super) async fn pull(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    let asked = named(&body)?;
    let progress = transfer("pulling", asked.model());
    remember(&mut server.models(), &full(asked.model()));
    let after = ["verifying sha256 digest", "writing manifest", "success"].map(status);
    Ok(report(&asked, [status("pulling manifest")].into_iter().chain(progress).chain(after)))
}

pub(super) async fn push(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    let asked = Asked::of_model(&server, &body, Ollama)?;
    let progress = transfer("pushing", asked.model());
    let after = ["pushing manifest", "success"].map(status);
    Ok(report(&asked, [status("retrieving manifest")].into_iter().chain(progress).chain(after)))
}

pub(super) async fn create(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    let asked = named(&body)?;
    remember(&mut server.models(), &full(asked.model()));
    Ok(report(&asked, ["reading model metadata", "writing manifest", "success"].map(status)))
}

pub(super) async fn copy(State(server): Server, body: Bytes) -> Result<StatusCode, Refused> {
    let asked = Asked::read(&body, Ollama)?;
    if !server.has(&asked.source) {
        return Err(Refused::unknown_model(Ollama, &asked.source));
    }
    if asked.destination.is_empty() {
        return Err(Refused::bad_request(Ollama, "destination is required"));
    }
    remember(&mut server.models(), &full(&asked.destination));
    Ok(StatusCode::OK)
}

pub(super) async fn delete(State(server): Server, body: Bytes) -> Result<StatusCode, Refused> {
    let asked = Asked::of_model(&server, &body, Ollama)?;
    server.forget(asked.model());
    Ok(StatusCode::OK)
}

pub(super) async fn has_blob(State(server): Server, Path(digest): Path<String>) -> StatusCode {
    if server.blobs().contains(&digest) { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

/// Takes a blob piece by piece, and keeps its name only.
pub(super) async fn take_blob(
    State(server): Server,
    Path(digest): Path<String>,
    mut body: Body,
) -> Result<StatusCode, Refused> {
    let mut context = Context::new(&SHA256);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refused::bad_request(Ollama, error.to_string()))?;
        if let Some(piece) = frame.data_ref() {
            context.update(piece);
        }
    }
    let found = format!("sha256:{}", hexadecimal(context.finish().as_ref()));
    if found != digest {
        return Err(Refused::bad_request(Ollama, format!("digest mismatch, expected \"{digest}\", got \"{found}\"")));
    }
    remember(&mut server.blobs(), &digest);
    Ok(StatusCode::CREATED)
}

fn named(body: &Bytes) -> Result<Asked, Refused> {
    let asked = Asked::read(body, Ollama)?;
    if asked.model().is_empty() { Err(Refused::bad_request(Ollama, "model is required")) } else { Ok(asked) }
}

/// A model's name with its tag, as a list shows it.
fn full(model: &str) -> String {
    let after_path = model.rsplit('/').next().unwrap_or(model);
    if after_path.contains(':') { model.to_owned() } else { format!("{model}:latest") }
}

fn status(text: &str) -> Value {
    json!({ "status": text })
}

/// The one layer of a model, in three steps.
fn transfer(verb: &'static str, model: &str) -> impl Iterator<Item = Value> {
    let digest = sha256(model);
    [0, SIZE / 2, SIZE].into_iter().map(move |completed| {
        let short: String = digest.chars().take(12).collect();
        json!({
            "status": format!("{verb} {short}"), "digest": format!("sha256:{digest}"), "total": SIZE,
            "completed": completed,
        })
    })
}

/// All of the progress as a stream, or its last line alone.
fn report(asked: &Asked, lines: impl IntoIterator<Item = Value>) -> Response {
    if asked.stream == Some(false) {
        return Json(lines.into_iter().last()).into_response();
    }
    ndjson(lines)
}
