//! Facts: exactly what a policy is told of a call. The WIT records of the same names say what each field means.

use crate::llm::{Operation, Surface, body::JsonBody, model_name::ModelName, operations::Row};

/// What is known before the body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The caller's dialect.
    pub surface: Surface,
    /// What is asked for.
    pub operation: Operation,
    /// Declared size of the body, in bytes.
    pub body_bytes: Option<u64>,
}

/// How a credential was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `Authorization: Bearer`.
    Bearer,
    /// `x-api-key`.
    ApiKeyHeader,
    /// `Authorization: Basic`.
    Basic,
    /// Another `Authorization` scheme.
    Other,
}

/// The public part of a credential, not proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Where it was found.
    pub scheme: Scheme,
    /// The key id of an `op_…` credential.
    pub key_id: Option<Box<str>>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// A proven key's id, or `POLICY/text`.
    pub subject: Box<str>,
    /// The proven key's owner.
    pub user: Option<Box<str>>,
}

/// What is known once the body is read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The caller's dialect.
    pub surface: Surface,
    /// What is asked for.
    pub operation: Operation,
    /// Canonical model name; empty when the operation names none.
    pub model: Box<str>,
    /// Size of the body as read.
    pub body_bytes: u64,
    /// Estimate of the input, in tokens.
    pub input_tokens: u32,
    /// The caller's cap on output tokens.
    pub output_cap: Option<u32>,
    /// Whether the answer comes in pieces.
    pub streaming: bool,
}

impl Call {
    /// The facts of a call of this row, with this body.
    pub fn of(row: &Row, model: Option<&ModelName>, json: Option<&JsonBody>, body_bytes: u64) -> Self {
        Self {
            surface: row.surface,
            operation: row.operation,
            model: model.map_or("", |model| model.canonical()).into(),
            body_bytes,
            input_tokens: if row.charged { json.map_or(0, JsonBody::input_tokens) } else { 0 },
            output_cap: json.and_then(|json| json.output_cap(row.surface, row.operation)),
            streaming: json.map_or(row.stream_default, |json| json.stream().unwrap_or(row.stream_default)),
        }
    }
}

/// One backend that may serve a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Stable while this process runs.
    pub id: u32,
    /// Configured weight.
    pub weight: u32,
    /// Calls it serves for the gate now.
    pub in_flight: u32,
    /// Of these, those for this call's model.
    pub model_in_flight: u32,
    /// Calls it serves at once for one model.
    pub capacity: Option<u32>,
    /// Calls that wait in the gate for it.
    pub queued: u32,
    /// Moving average for this model here.
    pub first_token_us: Option<u32>,
    /// Moving average for this model here, in thousandths.
    pub tokens_per_second_milli: Option<u32>,
    /// Share of the last minute's calls that failed, in thousandths.
    pub errors_permille: u16,
    /// Whether the model was loaded there when last asked.
    pub resident: bool,
}
