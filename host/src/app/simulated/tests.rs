//! What each operation answers, in the shapes that clients depend on.

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::{Arc, Mutex, Simulated, hexadecimal, ollama::VECTOR, router, sha256};

struct Sim(TowerToHyperService<axum::Router>);

impl Sim {
    fn start() -> Self {
        let models = Mutex::new(vec!["llama3:latest".to_owned()]);
        let simulated = Simulated { name: "sim".to_owned(), models, blobs: Mutex::default() };
        Self(TowerToHyperService::new(router(Arc::new(simulated))))
    }

    async fn text(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let response = self.0.call(request).await.unwrap();
        let (status, mut body) = (response.status().as_u16(), response.into_body());
        let mut text = String::new();
        while let Some(frame) = body.frame().await {
            text += std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap();
        }
        (status, text)
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.text(method, path, &body.to_string()).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
    }

    /// The data of each event, or each line, of a stream.
    async fn stream(&self, path: &str, body: Value) -> Vec<Value> {
        let (status, text) = self.text("POST", path, &body.to_string()).await;
        assert_eq!(status, 200, "{text}");
        let data = text.lines().filter(|line| !line.is_empty() && !line.starts_with("event:"));
        data.map(|line| line.strip_prefix("data: ").unwrap_or(line))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line)))
            .collect()
    }
}

/// The text of each piece of a stream, by the place where its dialect has it.
fn joined(pieces: &[Value], pointer: &str) -> String {
    pieces.iter().filter_map(|piece| piece.pointer(pointer)?.as_str()).collect()
}

#[tokio::test]
async fn a_model_is_found_however_it_is_spelled_and_missed_in_each_dialect() {
    let sim = Sim::start();
    for model in ["llama3", "LLAMA3:latest", "library/llama3"] {
        assert_eq!(sim.json("POST", "/api/show", json!({ "name": model })).await.0, 200, "{model}");
    }
    let text = "model 'none' not found";
    let asked = json!({ "model": "none", "max_tokens": 1 });
    assert_eq!(sim.json("POST", "/api/chat", asked.clone()).await, (404, json!({ "error": text })));
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"] {
        let error = json!({ "message": text, "type": "not_found_error", "param": null, "code": null });
        assert_eq!(sim.json("POST", path, asked.clone()).await, (404, json!({ "error": error })), "{path}");
    }
    let (status, error) = sim.json("POST", "/v1/messages", asked).await;
    assert_eq!((status, &error["type"], &error["error"]["type"]), (404, &json!("error"), &json!("not_found_error")));
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let sim = Sim::start();
    // path, where a whole answer has its text, and where a piece of a stream has its part
    let table = [
        ("/api/chat", "/message/content", "/message/content"),
        ("/api/generate", "/response", "/response"),
        ("/v1/chat/completions", "/choices/0/message/content", "/choices/0/delta/content"),
        ("/v1/completions", "/choices/0/text", "/choices/0/text"),
        ("/v1/responses", "/output/0/content/0/text", "/delta"),
        ("/v1/messages", "/content/0/text", "/delta/text"),
    ];
    for (path, in_whole, in_piece) in table {
        // Three words, so that the test needn't wait for all.
        let cap = if path.starts_with("/api") { json!({ "num_predict": 3 }) } else { Value::Null };
        let mut asked = json!({ "model": "llama3", "max_tokens": 3, "options": cap, "stream": false });
        let (status, whole) = sim.json("POST", path, asked.clone()).await;
        let text = whole.pointer(in_whole).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {whole}"));
        assert_eq!((status, text), (200, "This is a "), "{path}");
        asked["stream"] = json!(true);
        let pieces = sim.stream(path, asked).await;
        assert_eq!(joined(&pieces, in_piece), text, "{path}: {pieces:?}");
    }
}

#[tokio::test]
async fn an_answer_that_was_cut_says_so() {
    let sim = Sim::start();
    let table = [
        ("/api/chat", json!({ "options": { "num_predict": 2 } }), "/done_reason", json!("length")),
        ("/api/chat", json!({ "options": { "num_predict": -1 } }), "/done_reason", json!("stop")),
        ("/v1/chat/completions", json!({ "max_completion_tokens": 2 }), "/choices/0/finish_reason", json!("length")),
        ("/v1/responses", json!({ "max_output_tokens": 2 }), "/incomplete_details/reason", json!("max_output_tokens")),
        ("/v1/messages", json!({ "max_tokens": 2 }), "/stop_reason", json!("max_tokens")),
        ("/v1/messages", json!({ "max_tokens": 200 }), "/stop_reason", json!("end_turn")),
    ];
    for (path, more, pointer, expected) in table {
        let asked = super::with(json!({ "model": "llama3", "stream": false }), more);
        let (_, whole) = sim.json("POST", path, asked).await;
        assert_eq!(whole.pointer(pointer), Some(&expected), "{path}: {whole}");
    }
}

#[tokio::test]
async fn streams_end_as_their_dialect_ends_them() {
    let sim = Sim::start();
    let asked = json!({ "model": "llama3", "max_tokens": 1, "stream": true });
    let chat = sim.stream("/v1/chat/completions", asked.clone()).await;
    assert_eq!(chat.last(), Some(&json!("[DONE]")));
    assert!(chat.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked for the usage: {chat:?}");
    let mut with_usage = asked.clone();
    with_usage["stream_options"] = json!({ "include_usage": true });
    let chat = sim.stream("/v1/chat/completions", with_usage).await;
    let cost = &chat[chat.len() - 2];
    assert_eq!((&cost["choices"], &cost["usage"]["completion_tokens"]), (&json!([]), &json!(1)));

    let types =
        |pieces: &[Value]| pieces.iter().map(|piece| piece["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let responses = sim.stream("/v1/responses", asked.clone()).await;
    assert_eq!(types(&responses).last().unwrap(), "response.incomplete");
    let numbers: Vec<_> = responses.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..u64::try_from(responses.len()).unwrap()).collect::<Vec<_>>());
    let messages = sim.stream("/v1/messages", asked).await;
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types(&messages), expected);
    assert_eq!(messages[4]["usage"]["output_tokens"], 1);
}

#[tokio::test]
async fn each_input_gets_its_vector_as_numbers_or_as_their_bytes() {
    let sim = Sim::start();
    let (_, one) = sim.json("POST", "/api/embed", json!({ "model": "llama3", "input": "a" })).await;
    assert_eq!(one["embeddings"], json!([VECTOR]));
    let (_, old) = sim.json("POST", "/api/embeddings", json!({ "model": "llama3", "prompt": "a" })).await;
    assert_eq!(old["embedding"], json!(VECTOR));
    let asked = json!({ "model": "llama3", "input": ["a", "b"], "encoding_format": "base64" });
    let (_, two) = sim.json("POST", "/v1/embeddings", asked).await;
    assert_eq!(two["data"].as_array().map(Vec::len), Some(2));
    // Three times four bytes in sixteen letters, worked out by another program.
    assert_eq!(two["data"][1]["embedding"], "AACAPgAAAL8AAEA/");
    let bytes: Vec<u8> = VECTOR.iter().flat_map(|number| number.to_le_bytes()).collect();
    assert_eq!(hexadecimal(&bytes), "0000803e000000bf0000403f");
}

#[tokio::test]
async fn a_pulled_model_is_listed_until_it_is_deleted() {
    let sim = Sim::start();
    let names = async || sim.json("GET", "/api/tags", json!({})).await.1["models"].clone();
    let progress = sim.stream("/api/pull", json!({ "model": "gemma3" })).await;
    assert_eq!(progress.last(), Some(&json!({ "status": "success" })));
    assert_eq!(names().await[1]["name"], "gemma3:latest");
    let copied = json!({ "source": "gemma3", "destination": "mine:1" });
    assert_eq!(sim.text("POST", "/api/copy", &copied.to_string()).await.0, 200);
    assert_eq!(sim.text("DELETE", "/api/delete", r#"{"model":"gemma3"}"#).await.0, 200);
    assert_eq!(sim.text("DELETE", "/api/delete", r#"{"model":"gemma3"}"#).await.0, 404);
    assert_eq!(names().await.as_array().map(Vec::len), Some(2));
    let made = sim.json("POST", "/api/create", json!({ "model": "made", "from": "mine:1", "stream": false })).await;
    assert_eq!(made, (200, json!({ "status": "success" })));
}

#[tokio::test]
async fn a_blob_is_taken_under_its_own_digest_only() {
    let sim = Sim::start();
    let path = format!("/api/blobs/sha256:{}", sha256("a blob"));
    assert_eq!(sim.text("HEAD", &path, "").await.0, 404);
    assert_eq!(sim.text("POST", &path, "another").await.0, 400);
    assert_eq!(sim.text("POST", &path, "a blob").await.0, 201);
    assert_eq!(sim.text("HEAD", &path, "").await.0, 200);
}
