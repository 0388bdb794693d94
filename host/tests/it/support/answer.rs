//! What a caller gets.

use http::HeaderMap;
use serde_json::{Value, json};

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.text().await.expect("the body comes whole");
        Self { status, headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }

    /// Our machine-readable code in an OpenAI answer.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The message of a refusal, which must speak the dialect of `path` and carry this code where the dialect shows one.
    #[track_caller]
    pub(crate) fn refusal(&self, path: &str, status: u16, code: &str) -> String {
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/json")), "{path}: {self:?}");
        let json = self.json();
        let (message, shape) = if path.starts_with("/v1/messages") {
            let (message, kind, id) = (&json["error"]["message"], &json["error"]["type"], self.header("request-id"));
            let error = json!({ "type": kind, "message": message });
            (message, json!({ "type": "error", "error": error, "request_id": id }))
        } else if path.starts_with("/v1") {
            let (message, kind) = (&json["error"]["message"], &json["error"]["type"]);
            (message, json!({ "error": { "message": message, "type": kind, "param": null, "code": code } }))
        } else {
            (&json["error"], json!({ "error": json["error"] }))
        };
        assert_eq!(json, shape, "{path}: {self:?}");
        message.as_str().unwrap_or_else(|| panic!("{path}: {self:?}")).to_owned()
    }

    /// Which backend answered.
    pub fn backend(&self) -> Option<&str> {
        self.header("x-tollgate-backend")
    }
}
