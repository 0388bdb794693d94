//! Probing: is a backend up, what does it have, what has it loaded?

use std::{future::Future, sync::Arc};

use serde::Deserialize;
use tokio::task::JoinSet;

use super::{
    backend::Backend,
    control::{Control, ControlError},
};
use crate::{
    config::BackendKind,
    llm::listing::{self, ListingError},
};

/// What a backend's `/api/version` says.
#[derive(Deserialize)]
struct Version {
    version: String,
}

/// Asks whether the backend is up, and notes it; true when that is news.
pub async fn check(control: &Control, backend: &Backend) -> bool {
    let answer = match backend.kind() {
        BackendKind::Ollama => version(control, backend).await,
        BackendKind::OpenAi => control.ask(backend, "/v1/models").await.map(|_| ()),
    };
    let is_news = backend.note_up(answer.is_ok());
    let is_first = backend.note_probed();
    let name = &**backend.name();
    match answer {
        Ok(()) if is_news => tracing::info!(backend = name, "the backend is up"),
        Err(error) if is_news => tracing::warn!(backend = name, %error, "the backend is down"),
        Err(error) if is_first => {
            tracing::warn!(backend = name, url = %backend.url(), %error, "the backend does not answer yet");
        }
        Ok(()) | Err(_) => {}
    }
    is_news
}

async fn version(control: &Control, backend: &Backend) -> Result<(), ControlError> {
    const PATH: &str = "/api/version";
    let body = control.ask(backend, PATH).await?;
    let said: Version = serde_json::from_slice(&body)
        .map_err(|error| ControlError::Garbage { path: PATH, reason: error.to_string() })?;
    // It is told to every caller: what is no version is not passed on.
    let is_version = said.version.len() <= 64 && said.version.chars().all(|c| c.is_ascii_graphic());
    backend.note_version(is_version.then_some(said.version));
    Ok(())
}

/// Reads the list of models. A list that can't be read leaves the last one standing.
pub async fn refresh_models(control: Arc<Control>, backend: Arc<Backend>) {
    let _one_at_a_time = backend.reading().await;
    let list = match backend.kind() {
        BackendKind::Ollama => list(&control, &backend, "/api/tags", listing::parse_tags).await,
        BackendKind::OpenAi => list(&control, &backend, "/v1/models", listing::parse_models).await,
    };
    match list {
        Ok(entries) => backend.note_models(entries),
        Err(error) => {
            tracing::warn!(backend = &**backend.name(), %error, "the backend's models could not be listed");
        }
    }
}

/// Reads which models are loaded. When that fails nothing counts as loaded.
pub async fn refresh_running(control: Arc<Control>, backend: Arc<Backend>) {
    if backend.kind() == BackendKind::OpenAi {
        return;
    }
    let _one_at_a_time = backend.reading().await;
    let running = list(&control, &backend, "/api/ps", listing::parse_running).await;
    backend.note_running(running.unwrap_or_else(|error| {
        tracing::debug!(backend = &**backend.name(), %error, "what the backend has loaded could not be listed");
        Vec::new()
    }));
}

async fn list<T>(
    control: &Control,
    backend: &Backend,
    path: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<Vec<T>, ListingError>,
) -> Result<Vec<T>, ControlError> {
    let body = control.ask(backend, path).await?;
    parse(&body).map_err(|error| ControlError::Garbage { path, reason: error.to_string() })
}

/// Reads both lists.
pub async fn refresh(control: &Arc<Control>, backend: &Arc<Backend>) {
    refresh_models(Arc::clone(control), Arc::clone(backend)).await;
    refresh_running(Arc::clone(control), Arc::clone(backend)).await;
}

/// Does something with every backend that is up, at the same time.
pub async fn for_each_up<F, W>(backends: &[Arc<Backend>], work: F)
where
    F: Fn(Arc<Backend>) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for backend in backends.iter().filter(|backend| backend.is_up()) {
        tasks.spawn(work(Arc::clone(backend)));
    }
    tasks.join_all().await;
}
