//! The one table of what Tollgate answers, and the matcher that finds a request's row in it.
//!
//! Takes the request's method and its path exactly as they came (no query), and compares byte for byte: a path is
//! never decoded, joined or tidied before it is compared, so no second spelling of a path reaches a backend. What a
//! backend is sent comes from the row.
//!
//! Never reads a body, never forwards, and knows no key: what a class means is for the stages of `proxy`.

use std::borrow::Cow;

use http::Method;

use super::{Operation, Surface};

/// The most bytes an inference body may have unless the configuration says otherwise: 32 MiB, a conversation with a
/// few pictures in base64.
pub const INFERENCE_CAP_BYTES: usize = 32 * 1024 * 1024;

/// The most bytes that a body of `POST /api/show` may have: a model's name and a few flags.
pub const SHOW_CAP_BYTES: usize = 64 * 1024;

/// The most bytes that the body of a management operation may have: `create` brings a template, a licence and messages.
pub const MANAGEMENT_CAP_BYTES: usize = 1024 * 1024;

/// The most bytes of a parameter in a path, decoded: as many as a model's name in a listing may have.
pub const PARAMETER_MAX_BYTES: usize = super::listing::NAME_MAX_BYTES;

/// What an operation is to Tollgate; it decides which stages a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Runs a model: admitted, charged, routed and forwarded.
    Inference,
    /// Which models there are, or run: put together from what the backends listed.
    Listing,
    /// Facts of one model: routed by the model but not charged.
    Show,
    /// Answered by Tollgate alone, without a key.
    Local,
    /// Changes a backend: only for keys that may manage.
    Management,
    /// Never served, because it acts with the backend's own account.
    Denied,
}

/// What becomes of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyMode {
    /// Nothing reads it.
    None,
    /// It is buffered up to the cap and must be one JSON object.
    Json,
    /// It passes through as it comes, never buffered.
    Stream,
}

/// How many bytes a body may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cap {
    /// What the configuration says of inference bodies, [`INFERENCE_CAP_BYTES`] if it says nothing.
    Inference,
    /// So many bytes; 0 where no body is read.
    Bytes(usize),
}

impl Cap {
    /// The cap in bytes, where `inference` is the configured cap of inference bodies.
    pub fn bytes(self, inference: usize) -> usize {
        match self {
            Self::Inference => inference,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Which paths a row is for. Each is compared with the raw path, case and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This path only.
    Exact(&'static str),
    /// This prefix and one segment of letters, digits and `-._~:=+`, which is the parameter. Nothing is decoded.
    Segment(&'static str),
    /// The same where the parameter must be a digest: what isn't one is refused once the caller is known.
    Digest(&'static str),
    /// This prefix and whatever follows, slashes too, percent-decoded once: the parameter is a name, never a path.
    Rest(&'static str),
}

/// What a backend is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The method of the request to the backend.
    pub method: &'static Method,
    /// The path below the backend's base URL; it starts with `/` and has no query. The digest follows it where the
    /// row's pattern has one.
    pub path: &'static str,
}

/// What Tollgate answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// That there is an Ollama here.
    Greeting,
    /// The lowest version of the backends.
    Version,
    /// Whether cloud models are switched off.
    Status,
    /// The models of all backends, as Ollama lists them.
    Tags,
    /// What is loaded on all backends.
    Running,
    /// The models of all backends, as OpenAI lists them.
    Models,
    /// One of these.
    Model,
}

/// Where the answer to a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From Tollgate, without a call to a backend.
    Gate(Own),
    /// From a backend that is sent this.
    Backend(Upstream),
    /// From nowhere: it is refused.
    Nobody,
}

/// One operation of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The methods it takes.
    pub methods: &'static [Method],
    /// The paths it takes.
    pub pattern: Pattern,
    /// The dialect of its answers and errors.
    pub surface: Surface,
    /// What the caller asks for.
    pub operation: Operation,
    /// What it is to Tollgate.
    pub class: Class,
    /// What becomes of the body.
    pub body: BodyMode,
    /// How many bytes the body may have.
    pub cap: Cap,
    /// The body's fields that may name the model; the first that isn't empty counts. Empty where no model is named,
    /// or where the path names it.
    pub model_fields: &'static [&'static str],
    /// The body's fields that name further models, which must be in the key's scope as well.
    pub more_models: &'static [&'static str],
    /// Whether the answer is a stream when the body doesn't say.
    pub stream_default: bool,
    /// Whether a backend computes for it, so that its input is estimated; what it costs is the policies' to say.
    pub charged: bool,
    /// Where the answer comes from.
    pub answer: Source,
}

/// The value of a path's parameter, decoded; it is borrowed unless there was something to decode. Never empty, at most
/// [`PARAMETER_MAX_BYTES`] long, without control characters.
pub type Param<'a> = Cow<'a, str>;

/// What [`find`] found.
#[derive(Clone, Debug)]
pub enum Match<'a> {
    /// The row for this method and path, with the path's parameter where its pattern has one.
    Row(&'static Row, Option<Param<'a>>),
    /// The path is in the table, the method isn't (405).
    WrongMethod {
        /// The methods that the path takes, as the value of an `allow` header.
        allow: String,
        /// The dialect to refuse in.
        surface: Surface,
    },
    /// Nothing in the table has this path (404).
    Unknown {
        /// The dialect to refuse in, from the path's beginning.
        surface: Surface,
    },
}

const GET: &[Method] = &[Method::GET];
const HEAD: &[Method] = &[Method::HEAD];
const GET_HEAD: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];
const DELETE: &[Method] = &[Method::DELETE];

const VIA_HEAD: &Method = &Method::HEAD;
const VIA_POST: &Method = &Method::POST;
const VIA_DELETE: &Method = &Method::DELETE;

const STREAMED: bool = true;
const WHOLE: bool = false;

const MODEL_OR_NAME: &[&str] = &["model", "name"];

/// Every operation that Tollgate knows; what isn't here is answered with 404. No method of a path is in two rows. The
/// order is that of the search, so what is asked most comes first.
pub static ROWS: &[Row] = &[
    CHAT,
    inference("/v1/chat/completions", Surface::OpenAi, Operation::Chat, WHOLE),
    inference("/v1/messages", Surface::Anthropic, Operation::Chat, WHOLE),
    inference("/v1/responses", Surface::OpenAi, Operation::Respond, WHOLE),
    inference("/api/generate", Surface::Ollama, Operation::Generate, STREAMED),
    inference("/v1/completions", Surface::OpenAi, Operation::Complete, WHOLE),
    inference("/api/embed", Surface::Ollama, Operation::Embed, WHOLE),
    inference("/v1/embeddings", Surface::OpenAi, Operation::Embed, WHOLE),
    inference("/api/embeddings", Surface::Ollama, Operation::Embed, WHOLE),
    local("/", Own::Greeting),
    local("/api/version", Own::Version),
    listing(GET_HEAD, "/api/tags", Surface::Ollama, Own::Tags),
    listing(GET, "/api/ps", Surface::Ollama, Own::Running),
    listing(GET, "/v1/models", Surface::OpenAi, Own::Models),
    listing(GET, "/api/status", Surface::Ollama, Own::Status),
    SHOW_BY_BODY,
    SHOW_BY_PATH,
    management(VIA_POST, POST, "/api/pull", STREAMED),
    management(VIA_POST, POST, "/api/push", STREAMED),
    Row { more_models: &["from"], ..management(VIA_POST, POST, "/api/create", STREAMED) },
    COPY,
    management(VIA_DELETE, DELETE, "/api/delete", WHOLE),
    blob(VIA_HEAD, HEAD, BodyMode::None),
    blob(VIA_POST, POST, BodyMode::Stream),
    denied(POST, Pattern::Exact("/api/me")),
    denied(POST, Pattern::Exact("/api/signout")),
    denied(DELETE, Pattern::Segment("/api/user/keys/")),
    denied(POST, Pattern::Exact("/api/experimental/web_search")),
    denied(POST, Pattern::Exact("/api/experimental/web_fetch")),
    denied(GET, Pattern::Exact("/api/experimental/model-recommendations")),
];

/// A chat as Ollama's callers have it.
pub const CHAT: Row = inference("/api/chat", Surface::Ollama, Operation::Chat, STREAMED);

/// A row that only says no: what each kind of row starts from, so that what a row doesn't state is the safe choice.
const REFUSED: Row = Row {
    methods: &[],
    pattern: Pattern::Exact(""),
    surface: Surface::Ollama,
    operation: Operation::Other,
    class: Class::Denied,
    body: BodyMode::None,
    cap: Cap::Bytes(0),
    model_fields: &[],
    more_models: &[],
    stream_default: false,
    charged: false,
    answer: Source::Nobody,
};

const SHOW_BY_BODY: Row = Row {
    methods: POST,
    pattern: Pattern::Exact("/api/show"),
    operation: Operation::Show,
    class: Class::Show,
    body: BodyMode::Json,
    cap: Cap::Bytes(SHOW_CAP_BYTES),
    model_fields: MODEL_OR_NAME,
    answer: Source::Backend(Upstream { method: VIA_POST, path: "/api/show" }),
    ..REFUSED
};

/// Tollgate answers this one from what the backends listed, so nothing is sent.
const SHOW_BY_PATH: Row = Row {
    methods: GET,
    pattern: Pattern::Rest("/v1/models/"),
    surface: Surface::OpenAi,
    operation: Operation::Show,
    class: Class::Show,
    answer: Source::Gate(Own::Model),
    ..REFUSED
};

const COPY: Row =
    Row { model_fields: &["source"], more_models: &["destination"], ..management(VIA_POST, POST, "/api/copy", WHOLE) };

const BLOBS: &str = "/api/blobs/";

const fn inference(path: &'static str, surface: Surface, operation: Operation, stream_default: bool) -> Row {
    Row {
        methods: POST,
        pattern: Pattern::Exact(path),
        surface,
        operation,
        class: Class::Inference,
        body: BodyMode::Json,
        cap: Cap::Inference,
        model_fields: &["model"],
        stream_default,
        charged: true,
        answer: Source::Backend(Upstream { method: VIA_POST, path }),
        ..REFUSED
    }
}

const fn listing(methods: &'static [Method], path: &'static str, surface: Surface, own: Own) -> Row {
    Row {
        methods,
        pattern: Pattern::Exact(path),
        surface,
        operation: Operation::Listing,
        class: Class::Listing,
        answer: Source::Gate(own),
        ..REFUSED
    }
}

const fn local(path: &'static str, own: Own) -> Row {
    Row { methods: GET_HEAD, pattern: Pattern::Exact(path), class: Class::Local, answer: Source::Gate(own), ..REFUSED }
}

const fn management(
    method: &'static Method,
    methods: &'static [Method],
    path: &'static str,
    stream_default: bool,
) -> Row {
    Row {
        methods,
        pattern: Pattern::Exact(path),
        operation: Operation::Manage,
        class: Class::Management,
        body: BodyMode::Json,
        cap: Cap::Bytes(MANAGEMENT_CAP_BYTES),
        model_fields: MODEL_OR_NAME,
        stream_default,
        answer: Source::Backend(Upstream { method, path }),
        ..REFUSED
    }
}

/// The bytes of a model: whether a backend has them, or taking them in, as they come.
const fn blob(method: &'static Method, methods: &'static [Method], body: BodyMode) -> Row {
    Row {
        methods,
        pattern: Pattern::Digest(BLOBS),
        operation: Operation::Manage,
        class: Class::Management,
        body,
        answer: Source::Backend(Upstream { method, path: BLOBS }),
        ..REFUSED
    }
}

const fn denied(methods: &'static [Method], pattern: Pattern) -> Row {
    Row { methods, pattern, ..REFUSED }
}

/// Finds the row for a request's method and raw path (without its query). Allocates nothing when there is one, unless
/// the parameter has something to decode.
pub fn find<'a>(method: &Method, path: &'a str) -> Match<'a> {
    for row in ROWS {
        if row.methods.contains(method)
            && let Ok(param) = row.pattern.fit(path)
        {
            return Match::Row(row, param);
        }
    }
    let others: Vec<&Row> = ROWS.iter().filter(|row| row.pattern.fit(path).is_ok()).collect();
    match others.first() {
        Some(first) => {
            let allow: Vec<&str> = others.iter().flat_map(|row| row.methods).map(Method::as_str).collect();
            Match::WrongMethod { allow: allow.join(", "), surface: first.surface }
        }
        None => Match::Unknown { surface: surface_of(path) },
    }
}

/// The path isn't one of the pattern's.
#[derive(Clone, Copy, Debug)]
struct Mismatch;

impl Pattern {
    fn fit<'a>(&self, path: &'a str) -> Result<Option<Param<'a>>, Mismatch> {
        match self {
            Self::Exact(exact) if path == *exact => Ok(None),
            Self::Exact(_) => Err(Mismatch),
            Self::Segment(prefix) | Self::Digest(prefix) => {
                let segment = path.strip_prefix(prefix).ok_or(Mismatch)?;
                if is_plain_segment(segment) { Ok(Some(Cow::Borrowed(segment))) } else { Err(Mismatch) }
            }
            Self::Rest(prefix) => {
                let rest = path.strip_prefix(prefix).ok_or(Mismatch)?;
                decode_name(rest).map(Some).ok_or(Mismatch)
            }
        }
    }
}

fn is_plain_segment(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:=+".contains(&byte);
    // A segment of dots alone means another folder to whoever reads it as a path.
    text.len() <= PARAMETER_MAX_BYTES && text.bytes().all(is_plain) && text.bytes().any(|byte| byte != b'.')
}

/// Percent-decodes a name once. `None` for a broken encoding and for what no model's name can be: nothing, too long,
/// not UTF-8, or with control characters (a NUL is one).
fn decode_name(raw: &str) -> Option<Cow<'_, str>> {
    // Three bytes of encoding make one of the name, so anything longer can't fit and isn't worth decoding.
    if raw.len() > 3 * PARAMETER_MAX_BYTES {
        return None;
    }
    let name = if raw.contains('%') {
        let mut decoded = Vec::with_capacity(raw.len());
        let mut bytes = raw.bytes();
        while let Some(byte) = bytes.next() {
            decoded.push(match byte {
                b'%' => (hex_digit(bytes.next()?)? << 4) | hex_digit(bytes.next()?)?,
                plain => plain,
            });
        }
        Cow::Owned(String::from_utf8(decoded).ok()?)
    } else {
        Cow::Borrowed(raw)
    };
    let is_name = !name.is_empty() && name.len() <= PARAMETER_MAX_BYTES && !name.contains(char::is_control);
    is_name.then_some(name)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn surface_of(path: &str) -> Surface {
    let is_under =
        |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if is_under("/v1/messages") {
        Surface::Anthropic
    } else if is_under("/v1") {
        Surface::OpenAi
    } else if is_under("/api") {
        Surface::Ollama
    } else {
        Surface::Other
    }
}

#[cfg(test)]
mod tests;
