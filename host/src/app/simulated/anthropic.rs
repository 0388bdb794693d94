//! `/v1/messages` of Anthropic's API: one block of text.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Asked, INPUT_TOKENS, Refused, Said, Server,
    paced::{sse, typed},
    refused::Dialect::Anthropic,
    with,
};

pub(super) async fn messages(State(server): Server, body: Bytes) -> Result<Response, Refused> {
    let asked = Asked::of_model(&server, &body, Anthropic)?;
    if asked.max_tokens.is_none_or(|most| most < 1) {
        return Err(Refused::bad_request(Anthropic, "max_tokens is required and must be positive"));
    }
    let said = server.say(&asked);
    if asked.stream != Some(true) {
        let content = json!([{ "type": "text", "text": said.text() }]);
        let message = with(message(&asked, &content, said.count()), end(&said));
        return Ok(Json(message).into_response());
    }
    Ok(sse(events(&asked, &said).iter().map(typed)))
}

fn events(asked: &Asked, said: &Said) -> Vec<Value> {
    let block = json!({ "type": "text", "text": "" });
    let word = |word: &String| json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": word } });
    let before = [
        json!({ "type": "message_start", "message": message(asked, &json!([]), 0) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
    ];
    let after = [
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": end(said), "usage": usage(said.count()) }),
        json!({ "type": "message_stop" }),
    ];
    before.into_iter().chain(said.words.iter().map(word)).chain(after).collect()
}

fn message(asked: &Asked, content: &Value, output_tokens: usize) -> Value {
    json!({
        "id": "msg_simulated", "type": "message", "role": "assistant", "model": asked.model(), "content": content,
        "stop_reason": null, "stop_sequence": null, "usage": usage(output_tokens),
    })
}

fn end(said: &Said) -> Value {
    json!({ "stop_reason": if said.is_cut { "max_tokens" } else { "end_turn" }, "stop_sequence": null })
}

fn usage(output_tokens: usize) -> Value {
    json!({ "input_tokens": INPUT_TOKENS, "output_tokens": output_tokens })
}
