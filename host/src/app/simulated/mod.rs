//! A simulated Ollama server, for the demo and for trying things out: it says what it is in every answer.
//!
//! It answers every operation of the three APIs that the gate serves in the shape that a real one would, whole or as a
//! stream at a human pace. Its models are names in a list, its answers fixed words, its counts those of these words.
//!
//! It never computes, stores or fetches anything, and listens on loopback only.

mod anthropic;
mod asked;
mod management;
mod ollama;
mod openai;
mod paced;
mod refused;
mod responses;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    routing::{delete, get, head, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{asked::Asked, refused::Refused};
use crate::llm::model_name::ModelName;

/// When the simulated models were made, and their answers.
const MADE_AT: &str = "2026-01-01T00:00:00Z";

/// The same in seconds since 1970.
const MADE_AT_S: u64 = 1_767_225_600;

/// What each model weighs, in bytes.
const SIZE: u64 = 4_700_000_000;

/// New enough for every operation.
const VERSION: &str = "0.99.0-simulated";

/// What every input is said to have, in tokens.
const INPUT_TOKENS: usize = 12;

/// Most models, and most blobs, that it remembers; the oldest go first.
const MOST_NAMES: usize = 1_000;

/// Largest JSON body, in bytes: twice what the gate lets pass by default.
const MOST_BODY: usize = 64 << 20;

/// A simulated Ollama server that listens on loopback.
#[derive(Debug)]
pub struct SimulatedOllama {
    address: SocketAddr,
}

#[derive(Debug)]
struct Simulated {
    name: String,
    models: Mutex<Vec<String>>,
    blobs: Mutex<Vec<String>>,
}

type Server = State<Arc<Simulated>>;

/// The words of one answer.
#[derive(Debug)]
struct Said {
    words: Vec<String>,
    /// Whether the caller wanted fewer words than there are.
    is_cut: bool,
}

impl Said {
    fn text(&self) -> String {
        self.words.concat()
    }

    /// In tokens, of which each word is one.
    fn count(&self) -> usize {
        self.words.len()
    }

    /// Why it ends, in the words of Ollama and OpenAI.
    fn end(&self) -> &'static str {
        if self.is_cut { "length" } else { "stop" }
    }
}

impl SimulatedOllama {
    /// Starts a server with these models on a free port of loopback.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(name: &str, models: &[&str], tasks: &TaskTracker, stop: &CancellationToken) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let models = Mutex::new(models.iter().map(|&model| model.to_owned()).collect());
        let router = router(Arc::new(Simulated { name: name.to_owned(), models, blobs: Mutex::default() }));
        let stop = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
                tracing::error!(%error, "a simulated server failed");
            }
        });
        Ok(Self { address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn router(simulated: Arc<Simulated>) -> Router {
    Router::new()
        .route("/", get(|| async { "Ollama is running" }))
        .route("/api/version", get(|| async { Json(json!({ "version": VERSION })) }))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::running))
        .route("/api/show", post(ollama::show))
        .route("/api/generate", post(ollama::generate))
        .route("/api/chat", post(ollama::chat))
        .route("/api/embed", post(ollama::embed))
        .route("/api/embeddings", post(ollama::embed_one))
        .route("/api/pull", post(management::pull))
        .route("/api/push", post(management::push))
        .route("/api/create", post(management::create))
        .route("/api/copy", post(management::copy))
        .route("/api/delete", delete(management::delete))
        .route("/api/blobs/{digest}", head(management::has_blob).post(management::take_blob))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*model}", get(openai::model))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::complete))
        .route("/v1/embeddings", post(openai::embed))
        .route("/v1/responses", post(responses::respond))
        .route("/v1/messages", post(anthropic::messages))
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .with_state(simulated)
}

impl Simulated {
    fn models(&self) -> MutexGuard<'_, Vec<String>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blobs(&self) -> MutexGuard<'_, Vec<String>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has the model, however that is spelled.
    fn has(&self, model: &str) -> bool {
        canonical(model).is_some_and(|name| self.models().iter().any(|own| canonical(own).as_ref() == Some(&name)))
    }

    fn forget(&self, model: &str) {
        let name = canonical(model);
        self.models().retain(|own| canonical(own) != name);
    }

    /// What it answers to everything, as far as the caller wants it.
    fn say(&self, asked: &Asked) -> Said {
        let text = format!(
            "This is a simulated answer from {}. Put a real Ollama behind the gate to get a real one.",
            self.name
        );
        let all = text.split_inclusive(' ').count();
        let wanted = asked.output_cap().unwrap_or(all);
        Said { words: text.split_inclusive(' ').take(wanted).map(str::to_owned).collect(), is_cut: wanted < all }
    }
}

/// Adds a name to a list that has room for so many; one that is there already stays where it is.
fn remember(list: &mut Vec<String>, name: &str) {
    if list.iter().any(|own| own == name) {
        return;
    }
    if list.len() >= MOST_NAMES {
        list.remove(0);
    }
    list.push(name.to_owned());
}

fn canonical(model: &str) -> Option<String> {
    ModelName::parse(model).ok().map(|name| name.canonical().to_owned())
}

/// An object with the fields of another.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more);
    }
    object
}

/// SHA-256 of a text, in lower-case hexadecimal.
fn sha256(text: &str) -> String {
    hexadecimal(digest(&SHA256, text.as_bytes()).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
