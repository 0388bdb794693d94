//! Outcome: what a call came to, as policies are told once it is over. The WIT record of the same name says what each field
//! means.

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its last byte.
    Complete,
    /// The caller went away.
    ClientLeft,
    /// The backend, or the gate, failed after the answer had begun.
    Failed,
}

impl End {
    /// The word for it in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Failed => "failed",
        }
    }
}

/// What there is to know of a call that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What the caller got.
    pub status: u16,
    /// To which backend it went last.
    pub backend: Option<u32>,
    /// Of the prompt; 0 when no model ran.
    pub input_tokens: u32,
    /// Of the answer; 0 when no model ran.
    pub output_tokens: u32,
    /// Whether one of them is the gate's count, not the backend's.
    pub is_estimated: bool,
    /// From the request to the first piece of a stream.
    pub first_token_us: Option<u32>,
    /// From the request to the last byte.
    pub total_us: u64,
}
