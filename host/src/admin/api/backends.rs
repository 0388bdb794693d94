//! `GET /api/v1/backends`: what is known of each backend now.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;

use super::super::Shared;
use crate::upstream::backend::Backend;

#[derive(Debug, Serialize)]
struct Backends {
    backends: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    url: String,
    kind: &'static str,
    weight: u32,
    /// Whether an `openai` backend answers in Anthropic's API too, as was declared; an `ollama` backend tells by its version.
    anthropic: bool,
    /// Who wants it: `config` or `store`.
    source: &'static str,
    up: bool,
    drained: bool,
    in_flight: u32,
    version: Option<String>,
    /// Names of its models, as it spells them, in order.
    models: Vec<String>,
    /// Those of them that are loaded.
    running: Vec<String>,
}

impl Shown {
    fn of(backend: &Backend) -> Self {
        let mut models: Vec<String> = backend.models().values().map(|model| model.entry.name.clone()).collect();
        models.sort();
        let status = backend.status();
        Self {
            name: status.name.to_string(),
            url: status.url.to_string(),
            kind: status.kind.as_str(),
            weight: status.weight,
            anthropic: status.speaks_anthropic,
            source: status.origin.as_str(),
            up: status.is_up,
            drained: status.is_drained,
            in_flight: status.in_flight,
            version: status.version,
            models,
            running: backend.running().iter().map(|entry| entry.name.clone()).collect(),
        }
    }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/backends", get(list))
}

async fn list(State(shared): State<Arc<Shared>>) -> Json<Backends> {
    Json(Backends { backends: shared.operations.fleet.backends().iter().map(|backend| Shown::of(backend)).collect() })
}
