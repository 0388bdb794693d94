//! What a simulated server reads of a request; everything else is ignored.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::{Refused, Simulated, refused::Dialect};

/// The fields that matter, of all operations together.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    model: String,
    name: String,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) stream: Option<bool>,
    pub(super) input: Value,
    pub(super) encoding_format: Option<String>,
    pub(super) instructions: Option<String>,
    stream_options: Option<StreamOptions>,
    options: Option<Options>,
    pub(super) max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    max_output_tokens: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    num_predict: Option<i64>,
}

impl Asked {
    /// Reads a body, whatever its content type says.
    ///
    /// # Errors
    /// When it is not JSON, or a field has a wrong type.
    pub(super) fn read(body: &Bytes, dialect: Dialect) -> Result<Self, Refused> {
        serde_json::from_slice(body).map_err(|error| Refused::bad_request(dialect, error.to_string()))
    }

    /// Reads a body that names a model which the server has.
    ///
    /// # Errors
    /// As [`Asked::read`], and when the server has no such model.
    pub(super) fn of_model(server: &Simulated, body: &Bytes, dialect: Dialect) -> Result<Self, Refused> {
        let asked = Self::read(body, dialect)?;
        if server.has(asked.model()) { Ok(asked) } else { Err(Refused::unknown_model(dialect, asked.model())) }
    }

    /// The model as it was asked for; `name` is its older field.
    pub(super) fn model(&self) -> &str {
        if self.model.is_empty() { &self.name } else { &self.model }
    }

    /// Most tokens of the answer, if there is a most. Ollama means no bound by a negative number.
    pub(super) fn output_cap(&self) -> Option<usize> {
        let of_ollama = self.options.as_ref().and_then(|options| options.num_predict);
        [of_ollama, self.max_tokens, self.max_completion_tokens, self.max_output_tokens]
            .into_iter()
            .flatten()
            .filter_map(|cap| usize::try_from(cap).ok())
            .min()
    }

    /// Whether a stream of OpenAI's ends with what it cost.
    pub(super) fn wants_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    /// How many texts there are to embed: one, or as many as a list has.
    pub(super) fn inputs(&self) -> usize {
        self.input.as_array().map_or(1, Vec::len)
    }
}
