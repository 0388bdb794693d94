//! What the gate answers itself: local answers, and the lists of all backends as one.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{Parts, admit::Admitted, body::ResponseBody, refusal::Refusal, relay::Relayed, settle::Settlement};
use crate::{
    llm::operations::{Own, Source},
    policy::End,
};

/// An answer to a caller.
#[derive(Debug)]
pub(super) enum Answer {
    /// The gate's own.
    Own(Bytes, HeaderValue),
    /// A backend's, as it comes.
    Relayed(Box<Relayed>),
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

impl Answer {
    fn json(body: Bytes) -> Self {
        Self::Own(body, JSON)
    }

    fn object(value: &Value) -> Self {
        Self::json(Bytes::from(value.to_string()))
    }

    /// The response; its settlement ends with its last byte.
    pub(super) fn into_response(self, mut settlement: Box<Settlement>) -> Response<ResponseBody> {
        match self {
            Self::Relayed(relayed) => relayed.into_response(settlement),
            Self::Own(body, kind) => {
                settlement.answers(StatusCode::OK);
                settlement.settle(End::Complete);
                let mut response = Response::new(ResponseBody::whole(body));
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
        }
    }
}

/// What Ollama's clients ask before anything else, without a key.
pub(super) fn local(parts: &Parts, own: Own) -> Result<Answer, Refusal> {
    match own {
        Own::Greeting => Ok(Answer::Own(Bytes::from_static(b"Ollama is running"), TEXT)),
        Own::Version => {
            let version = parts.fleet.version().unwrap_or_else(|| "0.0.0".to_owned());
            Ok(Answer::object(&json!({ "version": version })))
        }
        // The others want to know who asks.
        Own::Status | Own::Tags | Own::Running | Own::Models | Own::Model => Err(Refusal::nowhere_to_go()),
    }
}

/// What is answered from the backends' lists, or from what the gate is configured to do; none when the call goes to a
/// backend. Nothing is computed for it: what was reserved, if a policy charges lists, counts.
pub(super) async fn listing(parts: &Parts, admitted: &Admitted) -> Result<Option<Answer>, Refusal> {
    let Admitted(read) = admitted;
    let Source::Gate(own) = read.row.answer else { return Ok(None) };
    let scope = read.caller.scope();
    let answer = match (own, &read.model) {
        (Own::Tags, _) => Answer::json(parts.fleet.tags(scope)),
        (Own::Running, _) => Answer::json(parts.fleet.running(scope).await),
        (Own::Models, _) => Answer::json(parts.fleet.openai_models(scope)),
        (Own::Model, Some(model)) => {
            if parts.fleet.openai_model(model, scope).is_none() {
                parts.fleet.look_again().await;
            }
            Answer::json(parts.fleet.openai_model(model, scope).ok_or_else(|| Refusal::unknown_model(model))?)
        }
        (Own::Status, _) => Answer::object(&status(parts.bounds.allow_cloud)),
        (Own::Greeting | Own::Version, _) => local(parts, own)?,
        (Own::Model, None) => return Err(Refusal::nowhere_to_go()),
    };
    Ok(Some(answer))
}

/// What Ollama says of its cloud: clients that find it switched off don't offer its models.
fn status(allow_cloud: bool) -> Value {
    let source = if allow_cloud { "none" } else { "config" };
    json!({ "cloud": { "disabled": !allow_cloud, "source": source } })
}
