//! OpenAI's operations, save `/v1/responses`.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Asked, INPUT_TOKENS, MADE_AT_S, Refused, Said, Server, Simulated,
    ollama::VECTOR,
    paced::{data, sse},
    refused::Dialect::OpenAi,
    with,
};

/// [`VECTOR`] as its bytes in base64: what OpenAI's own clients ask for.
const VECTOR_BASE64: &str = "AACAPgAAAL8AAEA/";

/// How a kind of completion is put.
struct Form {
    id: &'static str,
    whole: &'static str,
    chunk: &'static str,
    /// A choice of a whole answer, and one of a chunk, with this text.
    in_whole: fn(&str) -> Value,
    in_chunk: fn(&str) -> Value,
}

pub(super) async fn models(State(server): Server) -> Json<Value> {
    Json(json!({ "object": "list", "data": server.models().iter().map(|model| entry(model)).collect::<Vec<_>>() }))
}

pub(super) async fn model(State(server): Server, Path(model): Path<String>) -> Result<Json<Value>, Refused> {
    if server.has(&model) { Ok(Json(entry(&model))) } else { Err(Refused::unknown_model(OpenAi, &model)) }
}

pub(super) async fn chat(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    let form = Form {
        id: "chatcmpl-simulated",
        whole: "chat.completion",
        chunk: "chat.completion.chunk",
        in_whole: |text| json!({ "message": { "role": "assistant", "content": text } }),
        in_chunk: |text| json!({ "delta": { "role": "assistant", "content": text } }),
    };
    answer(&server, &body, &form)
}

pub(super) async fn complete(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    let text = |text: &str| json!({ "text": text });
    let kind = "text_completion";
    let form = Form { id: "cmpl-simulated", whole: kind, chunk: kind, in_whole: text, in_chunk: text };
    answer(&server, &body, &form)
}

pub(super) async fn embed(State(server): Server, body: Bytes) -> Result<Json<Value>, Refused> {
    let asked = Asked::of_model(&server, &body, OpenAi)?;
    let vector = match asked.encoding_format.as_deref() {
        Some("base64") => json!(VECTOR_BASE64),
        _ => json!(VECTOR),
    };
    let items = (0..asked.inputs()).map(|index| json!({ "object": "embedding", "index": index, "embedding": vector }));
    let usage = json!({ "prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS });
    let items = items.collect::<Vec<_>>();
    Ok(Json(json!({ "object": "list", "data": items, "model": asked.model(), "usage": usage })))
}

fn answer(server: &Simulated, body: &Bytes, form: &Form) -> Result<Response, Refused> {
    let asked = Asked::of_model(server, body, OpenAi)?;
    let said = server.say(&asked);
    let answer = |object: &str, choices: Vec<Value>| {
        json!({
            "id": form.id, "object": object, "created": MADE_AT_S, "model": asked.model(),
            "system_fingerprint": "fp_ollama", "choices": choices,
        })
    };
    let choice = |choice: Value, end: Value| vec![with(choice, json!({ "index": 0, "finish_reason": end }))];
    if asked.stream != Some(true) {
        let whole = answer(form.whole, choice((form.in_whole)(&said.text()), json!(said.end())));
        return Ok(Json(with(whole, json!({ "usage": usage(&said) }))).into_response());
    }
    let words = said.words.iter().map(|word| answer(form.chunk, choice((form.in_chunk)(word), Value::Null)));
    let last = answer(form.chunk, choice((form.in_chunk)(""), json!(said.end())));
    let cost = asked.wants_usage().then(|| with(answer(form.chunk, Vec::new()), json!({ "usage": usage(&said) })));
    let events = words.chain([last]).chain(cost).map(|value| data(&value));
    Ok(sse(events.chain(["data: [DONE]\n\n".to_owned()])))
}

fn usage(said: &Said) -> Value {
    let (input, output) = (INPUT_TOKENS, said.count());
    json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output })
}

fn entry(model: &str) -> Value {
    json!({ "id": model, "object": "model", "created": MADE_AT_S, "owned_by": "library" })
}
