//! Ollama's own operations, save those that change a server.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Asked, INPUT_TOKENS, MADE_AT, Refused, SIZE, Server, Simulated, paced::ndjson, refused::Dialect::Ollama, sha256,
    with,
};

/// The vector that everything is embedded to.
pub(super) const VECTOR: [f32; 3] = [0.25, -0.5, 0.75];

pub(super) async fn tags(State(server): Server) -> Json<Value> {
    Json(json!({ "models": server.models().iter().map(|model| entry(model)).collect::<Vec<_>>() }))
}

/// The first of its models is always loaded.
pub(super) async fn running(State(server): Server) -> Json<Value> {
    let loaded = json!({ "expires_at": "2099-01-01T00:00:00Z", "size_vram": SIZE, "context_length": 8192 });
    let first = server.models().first().map(|model| with(entry(model), loaded));
    Json(json!({ "models": first.into_iter().collect::<Vec<_>>() }))
}

pub(super) async fn show(State(server): Server, body: Bytes) -> Result<Json<Value>, Refused> {
    Asked::of_model(&server, &body, Ollama)?;
    let info = json!({ "general.architecture": "simulated", "simulated.context_length": 8192 });
    Ok(Json(json!({
        "modelfile": "# simulated", "parameters": "stop \"<end>\"", "template": "{{ .Prompt }}", "details": details(),
        "model_info": info, "capabilities": ["completion"], "modified_at": MADE_AT,
    })))
}

pub(super) async fn generate(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    answer(&server, &body, |word| json!({ "response": word }))
}

pub(super) async fn chat(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    answer(&server, &body, |word| json!({ "message": { "role": "assistant", "content": word } }))
}

pub(super) async fn embed(State(server): Server, body: Bytes) -> Result<Json<Value>, Refused> {
    let asked = Asked::of_model(&server, &body, Ollama)?;
    Ok(Json(json!({
        "model": asked.model(), "embeddings": vec![VECTOR; asked.inputs()], "total_duration": 2_000_000,
        "load_duration": 1_000_000, "prompt_eval_count": INPUT_TOKENS,
    })))
}

/// The older form, for one text.
pub(super) async fn embed_one(State(server): Server, body: Bytes) -> Result<Json<Value>, Refused> {
    Asked::of_model(&server, &body, Ollama)?;
    Ok(Json(json!({ "embedding": VECTOR })))
}

fn answer(server: &Simulated, body: &Bytes, piece: impl Fn(&str) -> Value) -> Result<Response, Refused> {
    let asked = Asked::of_model(server, body, Ollama)?;
    let said = server.say(&asked);
    let line = |word: &str, is_last: bool| {
        with(json!({ "model": asked.model(), "created_at": MADE_AT, "done": is_last }), piece(word))
    };
    let last = |word: &str| {
        let counts = json!({
            "done_reason": said.end(), "total_duration": 3_000_000, "load_duration": 1_000_000,
            "prompt_eval_count": INPUT_TOKENS, "prompt_eval_duration": 1_000_000, "eval_count": said.count(),
            "eval_duration": 1_000_000,
        });
        with(line(word, true), counts)
    };
    if asked.stream == Some(false) {
        return Ok(Json(last(&said.text())).into_response());
    }
    let words = said.words.iter().map(|word| line(word, false));
    Ok(ndjson(words.chain([last("")])))
}

fn entry(model: &str) -> Value {
    json!({
        "name": model, "model": model, "modified_at": MADE_AT, "size": SIZE, "digest": sha256(model),
        "details": details(),
    })
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "gguf", "family": "simulated", "families": ["simulated"],
        "parameter_size": "8.0B", "quantization_level": "Q4_K_M",
    })
}
