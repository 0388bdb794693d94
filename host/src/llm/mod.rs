//! What Tollgate knows of LLM servers' APIs: surfaces, operations, model names, bodies, listings, token counts and error
//! shapes.
//!
//! Pure: bytes and text in, values out. Nothing here opens a socket, asks the time or knows a policy.

pub mod body;
pub mod dialect;
pub mod digest;
pub mod listing;
pub mod model_name;
pub mod operations;
pub mod pointer;
pub mod spelled;
pub mod usage;

/// The API dialect that a caller speaks; answers and errors use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Surface {
    /// `/` and `/api/*`.
    Ollama,
    /// `/v1/*`.
    OpenAi,
    /// `/v1/messages`.
    Anthropic,
    /// A path that no dialect claims.
    Other,
}

impl Surface {
    /// The word for it in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Other => "other",
        }
    }
}

/// What a caller asks for, as the operation table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Text from a prompt (`/api/generate`).
    Generate,
    /// The next message of a conversation.
    Chat,
    /// Text from a prompt, OpenAI's older form.
    Complete,
    /// OpenAI's `/v1/responses`.
    Respond,
    /// Vectors from text.
    Embed,
    /// Text from sound.
    Transcribe,
    /// Facts of one model.
    Show,
    /// Which models there are, or run.
    Listing,
    /// Pull, delete and the like: what changes a backend.
    Manage,
    /// Anything else.
    Other,
}

impl Operation {
    /// The word for it in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Chat => "chat",
            Self::Complete => "complete",
            Self::Respond => "respond",
            Self::Embed => "embed",
            Self::Transcribe => "transcribe",
            Self::Show => "show",
            Self::Listing => "listing",
            Self::Manage => "manage",
            Self::Other => "other",
        }
    }
}
