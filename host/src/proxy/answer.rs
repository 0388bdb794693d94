//! What the gate answers itself: local answers, and the lists of all backends as one.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{
    Parts,
    admit::Admitted,
    body::ResponseBody,
    refusal::Refusal,
    relay::Relayed,
    settle::{End, Settlement},
};
use crate::llm::{
    Surface,
    operations::{Class, Row},
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

    /// The response; its settlement ends with its last byte.
    pub(super) fn into_response(self, mut settlement: Settlement) -> Response<ResponseBody> {
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

/// `/` and `/api/version`: what Ollama's clients ask before anything else, without a key.
pub(super) fn local(parts: &Parts, row: &Row) -> Answer {
    if matches!(row.pattern, crate::llm::operations::Pattern::Exact("/")) {
        return Answer::Own(Bytes::from_static(b"Ollama is running"), TEXT);
    }
    let version = parts.fleet.version().unwrap_or_else(|| "0.0.0".to_owned());
    Answer::json(Bytes::from(serde_json::json!({ "version": version }).to_string()))
}

/// What is answered from the backends' lists; none when the call goes to a backend.
pub(super) async fn listing(parts: &Parts, admitted: &Admitted) -> Result<Option<Answer>, Refusal> {
    let Admitted(read) = admitted;
    let (row, scope) = (read.row, read.caller.scope());
    let body = match (row.class, row.surface, &read.model) {
        (Class::Listing, Surface::OpenAi, _) => parts.fleet.openai_models(scope),
        (Class::Listing, _, _) if read.exchange.path() == "/api/ps" => parts.fleet.running(scope).await,
        (Class::Listing, _, _) => parts.fleet.tags(scope),
        (Class::Show, Surface::OpenAi, Some(model)) => {
            if parts.fleet.openai_model(model, scope).is_none() {
                parts.fleet.look_again().await;
            }
            parts.fleet.openai_model(model, scope).ok_or_else(|| Refusal::unknown_model(model))?
        }
        _ => return Ok(None),
    };
    // Nothing is computed for a list: what was reserved for it, if a policy charges lists, counts.
    Ok(Some(Answer::json(body)))
}
