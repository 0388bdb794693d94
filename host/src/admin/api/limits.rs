//! `GET /api/v1/keys/KEY/limits`: what a call of a key would be charged now, and where those counters stand.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    super::{Shared, problem::Problem},
    asked,
    trying::tried,
};
use crate::{llm::model_name::ModelName, proxy::NotTold};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/keys/{key}/limits", get(show))
}

async fn show(
    State(shared): State<Arc<Shared>>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let model = query.filter(|query| !query.is_empty()).map(|query| model(&query)).transpose()?;
    let model = model.map(|model| ModelName::parse(&model)).transpose().map_err(|error| {
        let detail = format!("`model` can't be used: {error}");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit", detail)
    })?;
    let operations = &shared.operations;
    let stored = operations.store.key(&key).await.map_err(|error| asked::refused(&error))?;
    let key = Arc::new(stored.record);
    let told = tried(&shared, async move |parts| parts.limits_of(&key, model.as_ref()).await).await?;
    let list = told.map_err(|error| not_told(&error))?;
    Ok(Json(list).into_response())
}

/// The model in `model=NAME`, which is all that a query may say.
fn model(query: &str) -> Result<String, Problem> {
    query.strip_prefix("model=").filter(|text| !text.contains('&')).and_then(decoded).ok_or_else(|| {
        let detail = "the only parameter is `model`, once and percent-encoded: write it like ?model=llama3:8b";
        Problem::new(StatusCode::BAD_REQUEST, "bad_query", detail)
    })
}

/// A form's text without its percent signs; none when that is no text.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut coming) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = coming.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                (digit(coming.next()?)? << 4) | digit(coming.next()?)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn not_told(error: &NotTold) -> Problem {
    let (status, code) = match error {
        NotTold::Fault(_) | NotTold::BadAnswer(_) | NotTold::NotRehearsed(_) => {
            tracing::warn!(%error, "a policy failed when an operator asked what a call would be charged");
            (StatusCode::INTERNAL_SERVER_ERROR, "policy_fault")
        }
        NotTold::Rejected(_) => (StatusCode::CONFLICT, "rejected"),
        NotTold::OutOfScope => (StatusCode::CONFLICT, "out_of_scope"),
    };
    Problem::new(status, code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_one_model_and_nothing_else() {
        for (query, named) in [
            ("model=llama3:8b", Some("llama3:8b")),
            ("model=hf.co%2fbob%2Fm%3Aq4", Some("hf.co/bob/m:q4")),
            ("model=a+b%20c%C3%A9", Some("a b cé")),
            ("model=", Some("")),
            ("model=a&model=b", None),
            ("modell=a", None),
            ("model=a%", None),
            ("model=a%4", None),
            ("model=a%+1", None),
            ("model=%ff", None),
        ] {
            assert_eq!(model(query).ok().as_deref(), named, "{query}");
        }
    }
}
