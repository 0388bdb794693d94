//! A simulated Ollama server, for the demo and for trying things out: it says what it is in every answer.
//!
//! It lists models, says what is loaded, and streams made-up words at a human pace in Ollama's and OpenAI's framing.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http_body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{Sleep, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Between two words of a stream.
const PACE: Duration = Duration::from_millis(40);

/// When the simulated models were made.
const MODIFIED_AT: &str = "2026-01-01T00:00:00Z";

/// A simulated Ollama server that listens on loopback.
#[derive(Debug)]
pub struct SimulatedOllama {
    address: SocketAddr,
}

#[derive(Debug)]
struct Simulated {
    name: String,
    models: Vec<String>,
}

/// What is read of a request; everything else is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    model: String,
    name: String,
    stream: Option<bool>,
}

type Server = State<Arc<Simulated>>;

impl SimulatedOllama {
    /// Starts a server with these models on a free port of loopback.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(name: &str, models: &[&str], tasks: &TaskTracker, stop: &CancellationToken) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let models = models.iter().map(|&model| model.to_owned()).collect();
        let router = router(Arc::new(Simulated { name: name.to_owned(), models }));
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
        .route("/api/version", get(|| async { Json(json!({ "version": "0.0.0-simulated" })) }))
        .route("/api/tags", get(tags))
        .route("/api/ps", get(running))
        .route("/api/show", post(show))
        .route("/api/generate", post(generate))
        .route("/api/chat", post(chat))
        .route("/api/embed", post(embed))
        .route("/v1/models", get(openai_models))
        .route("/v1/chat/completions", post(openai_chat))
        .route("/v1/embeddings", post(openai_embeddings))
        .with_state(simulated)
}

impl Simulated {
    fn entry(model: &str) -> Value {
        let details = json!({ "family": "simulated", "parameter_size": "8.0B", "quantization_level": "Q4_K_M" });
        json!({
            "name": model, "model": model, "modified_at": MODIFIED_AT, "size": 4_700_000_000_u64,
            "digest": format!("simulated-{model}"), "details": details,
        })
    }

    fn has(&self, asked: &Asked) -> bool {
        let name = if asked.model.is_empty() { &asked.name } else { &asked.model };
        self.models.contains(name)
    }

    fn words(&self) -> Vec<String> {
        let text = format!(
            "This is a simulated answer from {}. Put a real Ollama behind the gate to get a real one.",
            self.name
        );
        text.split_inclusive(' ').map(str::to_owned).collect()
    }
}

async fn tags(State(server): Server) -> Json<Value> {
    Json(json!({ "models": server.models.iter().map(|model| Simulated::entry(model)).collect::<Vec<_>>() }))
}

async fn running(State(server): Server) -> Json<Value> {
    let first = server.models.first().map(|model| {
        with(Simulated::entry(model), json!({ "expires_at": "2099-01-01T00:00:00Z", "size_vram": 4_700_000_000_u64 }))
    });
    Json(json!({ "models": first.into_iter().collect::<Vec<_>>() }))
}

async fn openai_models(State(server): Server) -> Json<Value> {
    let entry =
        |model: &String| json!({ "id": model, "object": "model", "created": 1_767_225_600, "owned_by": "library" });
    Json(json!({ "object": "list", "data": server.models.iter().map(entry).collect::<Vec<_>>() }))
}

async fn show(State(server): Server, Json(asked): Json<Asked>) -> Response {
    if !server.has(&asked) {
        return not_found(&asked);
    }
    Json(json!({ "modelfile": "# simulated", "details": { "family": "simulated" }, "capabilities": ["completion"] }))
        .into_response()
}

async fn generate(State(server): Server, Json(asked): Json<Asked>) -> Response {
    ollama(&server, &asked, |word| json!({ "response": word }))
}

async fn chat(State(server): Server, Json(asked): Json<Asked>) -> Response {
    ollama(&server, &asked, |word| json!({ "message": { "role": "assistant", "content": word } }))
}

fn ollama(server: &Simulated, asked: &Asked, piece: impl Fn(&str) -> Value) -> Response {
    if !server.has(asked) {
        return not_found(asked);
    }
    let line = |word: &str, done: bool| {
        let line = with(piece(word), json!({ "model": asked.model, "created_at": MODIFIED_AT, "done": done }));
        let end = json!({ "done_reason": "stop", "prompt_eval_count": 12, "eval_count": server.words().len() });
        if done { with(line, end) } else { line }
    };
    if asked.stream == Some(false) {
        return Json(line(&server.words().concat(), true)).into_response();
    }
    let last = std::iter::once(format!("{}\n", line("", true)));
    let lines = server.words().into_iter().map(|word| format!("{}\n", line(&word, false))).chain(last);
    paced("application/x-ndjson", lines)
}

async fn openai_chat(State(server): Server, Json(asked): Json<Asked>) -> Response {
    if !server.has(&asked) {
        return not_found(&asked);
    }
    let answer = |object: &str, choice: Value| json!({ "id": "chatcmpl-simulated", "object": object, "created": 1_767_225_600, "model": asked.model, "choices": [choice] });
    if asked.stream != Some(true) {
        let message = json!({ "role": "assistant", "content": server.words().concat() });
        let whole = answer("chat.completion", json!({ "index": 0, "message": message, "finish_reason": "stop" }));
        let usage = json!({ "prompt_tokens": 12, "completion_tokens": 17, "total_tokens": 29 });
        return Json(with(whole, json!({ "usage": usage }))).into_response();
    }
    let event = |delta: Value, finish: Value| {
        let chunk = answer("chat.completion.chunk", json!({ "index": 0, "delta": delta, "finish_reason": finish }));
        format!("data: {chunk}\n\n")
    };
    let words = server.words();
    let pieces = words.iter().map(|word| event(json!({ "content": word }), Value::Null));
    let last = [event(json!({}), json!("stop")), "data: [DONE]\n\n".to_owned()];
    paced("text/event-stream", pieces.chain(last).collect::<Vec<_>>().into_iter())
}

async fn embed(State(server): Server, Json(asked): Json<Asked>) -> Response {
    if !server.has(&asked) {
        return not_found(&asked);
    }
    Json(json!({ "model": asked.model, "embeddings": [[0.25, -0.5, 0.75]], "prompt_eval_count": 3 })).into_response()
}

async fn openai_embeddings(State(server): Server, Json(asked): Json<Asked>) -> Response {
    if !server.has(&asked) {
        return not_found(&asked);
    }
    let vector = json!({ "object": "embedding", "index": 0, "embedding": [0.25, -0.5, 0.75] });
    let usage = json!({ "prompt_tokens": 3, "total_tokens": 3 });
    Json(json!({ "object": "list", "data": [vector], "model": asked.model, "usage": usage })).into_response()
}

/// An object with the fields of another.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut object, more) {
        fields.extend(more);
    }
    object
}

fn not_found(asked: &Asked) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": format!("model '{}' not found", asked.model) }))).into_response()
}

fn paced(kind: &'static str, pieces: impl Iterator<Item = String>) -> Response {
    let pieces = pieces.map(Bytes::from).collect();
    ([(header::CONTENT_TYPE, kind)], Body::new(Paced { pieces, wait: None })).into_response()
}

/// Pieces that come one after the other with a pause between them.
struct Paced {
    pieces: VecDeque<Bytes>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
        }
        self.wait = Some(Box::pin(sleep(PACE)));
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}
