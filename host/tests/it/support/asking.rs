//! A gate whose policies do what a call asks of them: those of `tests/guests`, one for each hook.

use http::Method;
use reqwest::RequestBuilder;
use serde_json::json;

use super::{Answer, LlmServer, TestProxy, guest, proxy::Builder};

/// The policies, by name; each asks at the hook behind the hyphen.
pub(crate) const ASKING: [&str; 3] = ["ask-authenticate", "ask-admit", "ask-route"];

/// A gate with the three policies, before one server that has `llama3`.
pub(crate) struct Asking {
    pub(crate) gate: TestProxy,
    pub(crate) server: LlmServer,
}

impl Asking {
    pub(crate) async fn start() -> Self {
        Self::start_with(|builder| builder).await
    }

    /// The same, with more in the builder.
    pub(crate) async fn start_with(more: impl FnOnce(Builder) -> Builder) -> Self {
        Self::before(LlmServer::start("gpu-1", &["llama3:latest"]).await, more).await
    }

    /// The same before this server.
    pub(crate) async fn before(server: LlmServer, more: impl FnOnce(Builder) -> Builder) -> Self {
        let builder = more(TestProxy::builder().backend(&server));
        let builder = ASKING.iter().fold(builder, |builder, name| builder.policy(name, &guest::gallery(name)));
        Self { gate: builder.start().await, server }
    }

    /// A call that asks at this hook; more can be added to it.
    pub(crate) fn call(&self, hook: &str, questions: &str) -> RequestBuilder {
        let body = json!({ "model": "llama3", "messages": [] });
        let request = self.gate.request(Method::POST, "/v1/chat/completions").body(body.to_string());
        request.header("x-ask-at", hook).header("x-ask", questions)
    }

    /// What the policy was answered.
    pub(crate) async fn ask(&self, hook: &str, questions: &str) -> String {
        told(self.call(hook, questions)).await
    }
}

/// What the policy says that it was answered.
pub(crate) async fn told(request: RequestBuilder) -> String {
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "asked"), "{answer:?}");
    answer.json()["error"]["message"].as_str().unwrap().to_owned()
}
