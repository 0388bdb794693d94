//! `/v1/responses` of OpenAI's API: one message of one text.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Asked, INPUT_TOKENS, MADE_AT_S, Refused, Said, Server,
    paced::{sse, typed},
    refused::Dialect::OpenAi,
    with,
};

const ITEM: &str = "msg_simulated";

pub(super) async fn respond(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    let asked = Asked::of_model(&server, &body, OpenAi)?;
    let said = server.say(&asked);
    if asked.stream != Some(true) {
        return Ok(Json(finished(&asked, &said)).into_response());
    }
    // Every event has the number of its place.
    let numbered = (0..).zip(events(&asked, &said));
    Ok(sse(numbered.map(|(number, event): (u64, Value)| typed(&with(event, json!({ "sequence_number": number }))))))
}

fn events(asked: &Asked, said: &Said) -> Vec<Value> {
    let text = said.text();
    let begun = response(asked, "in_progress", &json!([]));
    let of_item = |kind: &str, item: Value| json!({ "type": kind, "output_index": 0, "item": item });
    let of_part = |kind: &str, more: Value| {
        with(json!({ "type": kind, "item_id": ITEM, "output_index": 0, "content_index": 0 }), more)
    };
    let word = |word: &String| of_part("response.output_text.delta", json!({ "delta": word, "logprobs": [] }));
    let before = [
        json!({ "type": "response.created", "response": begun }),
        json!({ "type": "response.in_progress", "response": begun }),
        of_item("response.output_item.added", item("in_progress", &json!([]))),
        of_part("response.content_part.added", json!({ "part": part("") })),
    ];
    let after = [
        of_part("response.output_text.done", json!({ "text": text, "logprobs": [] })),
        of_part("response.content_part.done", json!({ "part": part(&text) })),
        of_item("response.output_item.done", item("completed", &json!([part(&text)]))),
        json!({ "type": end(said).0, "response": finished(asked, said) }),
    ];
    before.into_iter().chain(said.words.iter().map(word)).chain(after).collect()
}

/// The last event of an answer, its status, and what is told of an answer that was cut.
fn end(said: &Said) -> (&'static str, &'static str, Value) {
    if said.is_cut {
        ("response.incomplete", "incomplete", json!({ "reason": "max_output_tokens" }))
    } else {
        ("response.completed", "completed", Value::Null)
    }
}

fn finished(asked: &Asked, said: &Said) -> Value {
    let (_, status, details) = end(said);
    let usage = json!({
        "input_tokens": INPUT_TOKENS, "input_tokens_details": { "cached_tokens": 0 }, "output_tokens": said.count(),
        "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": INPUT_TOKENS + said.count(),
    });
    let output = json!([item("completed", &json!([part(&said.text())]))]);
    let more = json!({ "completed_at": MADE_AT_S, "incomplete_details": details, "usage": usage });
    with(response(asked, status, &output), more)
}

fn response(asked: &Asked, status: &str, output: &Value) -> Value {
    json!({
        "id": "resp_simulated", "object": "response", "created_at": MADE_AT_S, "completed_at": null, "status": status,
        "incomplete_details": null, "model": asked.model(), "previous_response_id": null,
        "instructions": asked.instructions, "output": output, "error": null, "tools": [], "tool_choice": "auto",
        "truncation": "disabled", "parallel_tool_calls": true, "text": { "format": { "type": "text" } }, "top_p": 1.0,
        "presence_penalty": 0, "frequency_penalty": 0, "top_logprobs": 0, "temperature": 1.0, "reasoning": null,
        "usage": null, "max_output_tokens": asked.output_cap(), "max_tool_calls": null, "store": false,
        "background": false, "service_tier": "default", "metadata": {}, "safety_identifier": null,
        "prompt_cache_key": null,
    })
}

fn item(status: &str, content: &Value) -> Value {
    json!({ "id": ITEM, "type": "message", "status": status, "role": "assistant", "content": content })
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
