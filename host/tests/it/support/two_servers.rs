//! A gate with a policy folder before two servers that have one model: whose turn it is tells which policy routes.

use serde_json::json;

use super::{Answer, LlmServer, TestProxy, proxy::Builder, until};

/// The gate, and the servers `gpu-1` and `gpu-2`, which policies know by the ids 0 and 1.
pub(crate) struct TwoServers {
    pub(crate) gate: TestProxy,
    _servers: [LlmServer; 2],
}

impl TwoServers {
    /// With more in the builder. No limit refuses who waits by calling.
    pub(crate) async fn start(more: impl FnOnce(Builder) -> Builder) -> Self {
        let servers =
            [LlmServer::start("gpu-1", &["llama3:latest"]).await, LlmServer::start("gpu-2", &["llama3:latest"]).await];
        let builder = servers.iter().fold(TestProxy::builder(), Builder::backend).policy_folder();
        let gate = more(builder.set("limits.requests_per_minute = 1000000")).start().await;
        Self { gate, _servers: servers }
    }

    /// A chat of one token at most.
    pub(crate) async fn chat(&self) -> Answer {
        let body = json!({ "model": "llama3", "messages": [], "max_tokens": 1 });
        self.gate.post("/v1/chat/completions", &body).await
    }

    /// Whether calls in a row are all served by this backend: in turn they never would be.
    pub(crate) async fn goes_to(&self, backend: &str) -> bool {
        for _ in 0..4 {
            if self.chat().await.backend() != Some(backend) {
                return false;
            }
        }
        true
    }

    pub(crate) async fn until_it_goes_to(&self, backend: &str) {
        until(&format!("calls go to {backend}"), async || self.goes_to(backend).await).await;
    }
}
