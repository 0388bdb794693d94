//! The one place where any "no" becomes an answer: a policy's rejection, a policy's fault, a limit, a bad request, a
//! backend's failure. What the caller reads says what to do; what only the operator should know goes to the log.

mod limits;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::{body::ResponseBody, settle::Settlement};
use crate::{
    llm::{
        Surface,
        body::BodyError,
        dialect::{self, ErrorText},
        digest::DigestError,
        model_name::{ModelName, ModelNameError},
    },
    policy::{End, Fault, FaultKind, Reason, Rejection},
    upstream::client::SendError,
    usage::bound::Bound,
    wire::{bounded::ReadError, causes::causes},
};

/// What OpenAI's clients ask before they retry.
const NO_RETRY: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));

/// Who is to blame; stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Client,
    Policy,
    Upstream,
    Gate,
}

impl Blame {
    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Policy => "policy",
            Self::Upstream => "upstream",
            Self::Gate => "gate",
        }
    }
}

/// A call that is not served, and what its caller is told. Boxed: it is the rare way out of every stage.
#[derive(Debug)]
pub(super) struct Refusal(Box<Details>);

#[derive(Debug)]
struct Details {
    blame: Blame,
    status: StatusCode,
    code: Box<str>,
    message: String,
    retry_after_s: Option<u64>,
    header: Option<(HeaderName, HeaderValue)>,
    /// For the log only.
    private: Option<String>,
    closes: bool,
    /// Which bound of the gate was reached.
    bound: Option<Bound>,
}

impl Refusal {
    fn new(blame: Blame, status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            blame,
            status,
            code: code.into(),
            message: message.into(),
            retry_after_s: None,
            header: None,
            private: None,
            closes: false,
            bound: None,
        }))
    }

    fn client(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self::new(Blame::Client, status, code, message)
    }

    fn with_private(mut self, private: String) -> Self {
        self.0.private = Some(private);
        self
    }

    fn at(mut self, bound: Bound) -> Self {
        self.0.bound = Some(bound);
        self
    }

    /// Rounded up: earlier than the truth would be one more refusal.
    fn after_ms(mut self, ms: u64) -> Self {
        self.0.retry_after_s = Some(ms.div_ceil(1000).max(1));
        self
    }

    pub(super) fn unknown_path() -> Self {
        let message = "there is nothing at this path: the gate serves operations of Ollama's /api, OpenAI's /v1 and \
                       Anthropic's /v1/messages";
        Self::client(StatusCode::NOT_FOUND, "unknown_path", message)
    }

    pub(super) fn wrong_method(allow: String) -> Self {
        let message = format!("this path takes another method: {allow}");
        let mut refusal = Self::client(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message);
        refusal.0.header = HeaderValue::try_from(allow).ok().map(|allow| (header::ALLOW, allow));
        refusal
    }

    pub(super) fn unclear_host() -> Self {
        let message = "the request has no Host header, or more than one: send exactly one";
        Self::client(StatusCode::BAD_REQUEST, "bad_host", message)
    }

    pub(super) fn two_credentials() -> Self {
        let message =
            "there is more than one credential in the request: send one Authorization or one x-api-key header";
        Self::client(StatusCode::BAD_REQUEST, "two_credentials", message)
    }

    pub(super) fn unreadable_credential() -> Self {
        let message = "the credential can't be read: send `Authorization: Bearer KEY`";
        Self::client(StatusCode::BAD_REQUEST, "unreadable_credential", message)
    }

    pub(super) fn unknown_caller(presented: bool) -> Self {
        let (code, message) = if presented {
            (
                "invalid_api_key",
                "the credential is not known here: send a key of this gate as `Authorization: Bearer op_…` or `x-api-key: op_…`",
            )
        } else {
            ("missing_api_key", "a key is needed: send it as `Authorization: Bearer op_…` or `x-api-key: op_…`")
        };
        Self::client(StatusCode::UNAUTHORIZED, code, message)
    }

    pub(super) fn denied_operation() -> Self {
        let message =
            "this operation is never passed on: it acts with the account or the network of the backend's host";
        Self::client(StatusCode::FORBIDDEN, "operation_denied", message)
    }

    /// Nothing that the table or the policies say leads here; if something does, it is the gate's mistake.
    pub(super) fn nowhere_to_go() -> Self {
        let message = "the gate found no way for this call: tell its administrator";
        Self::new(Blame::Gate, StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub(super) fn needs_management() -> Self {
        let message = "this key may not change models on the backends: ask an administrator to do it there";
        Self::client(StatusCode::FORBIDDEN, "management_denied", message)
    }

    pub(super) fn outside_scope(model: &ModelName) -> Self {
        let message = format!("this key may not manage model '{}': use one whose models include it", model.spelling());
        Self::client(StatusCode::FORBIDDEN, "model_denied", message)
    }

    pub(super) fn unreadable_field(field: &str) -> Self {
        let message =
            format!("the field `{field}` is not passed on: say what the model is made of in `from` and `files`");
        Self::client(StatusCode::BAD_REQUEST, "unreadable_field", message)
    }

    pub(super) fn not_a_text(field: &str) -> Self {
        let message = format!("the field `{field}` is not a valid string: write one or leave the field out");
        Self::client(StatusCode::BAD_REQUEST, "bad_body", message)
    }

    pub(super) fn nothing_to_manage() -> Self {
        let message = "there is no Ollama backend whose models could be changed";
        Self::client(StatusCode::BAD_REQUEST, "backend_needed", message)
    }

    pub(super) fn backend_not_named<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let message = format!("which backend is meant? name one in the header x-tollgate-backend: {}", listed(names));
        Self::client(StatusCode::BAD_REQUEST, "backend_needed", message)
    }

    pub(super) fn unknown_backend<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let message = format!("the header x-tollgate-backend names no Ollama backend: write one of {}", listed(names));
        Self::client(StatusCode::BAD_REQUEST, "unknown_backend", message)
    }

    pub(super) fn backend_down(name: &str) -> Self {
        let message = format!("backend '{name}' is down: try again soon");
        Self::new(Blame::Upstream, StatusCode::SERVICE_UNAVAILABLE, "no_backend", message).after_ms(5_000)
    }

    pub(super) fn encoded_body() -> Self {
        let message = "the body has a content-encoding: send it plain";
        Self::client(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoded_body", message)
    }

    pub(super) fn no_model(fields: &[&str]) -> Self {
        let field = fields.first().unwrap_or(&"model");
        Self::client(StatusCode::BAD_REQUEST, "missing_model", format!("no model is named: set the field `{field}`"))
    }

    /// A name stands in logs and is shown to policies.
    pub(super) fn credential_as_model() -> Self {
        let message = "the credential stands where a model's name belongs: send it as a credential only";
        Self::client(StatusCode::BAD_REQUEST, "bad_model_name", message)
    }

    pub(super) fn cloud_model() -> Self {
        let message =
            "cloud models leave this house and are not served; an administrator can allow them with models.allow_cloud";
        Self::client(StatusCode::FORBIDDEN, "cloud_model", message)
    }

    pub(super) fn unknown_model(model: &ModelName) -> Self {
        let message = format!("model '{}' not found", model.spelling());
        Self::client(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    pub(super) fn not_spoken(model: &ModelName) -> Self {
        let message = format!(
            "no backend that has model '{}' serves this operation: use another one, or have the backend updated",
            model.spelling()
        );
        Self::client(StatusCode::NOT_FOUND, "operation_not_served", message)
    }

    pub(super) fn no_backend_up(model: &ModelName) -> Self {
        let message = format!("no backend that has model '{}' is up: try again soon", model.spelling());
        Self::new(Blame::Upstream, StatusCode::SERVICE_UNAVAILABLE, "no_backend", message).after_ms(5_000)
    }

    pub(super) fn overloaded() -> Self {
        let message = "the gate serves as many calls as it may: try again soon";
        Self::new(Blame::Gate, StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
            .after_ms(1_000)
            .at(Bound::InFlight)
    }

    /// Why no backend answered; `first_byte` is the bound of the time for that.
    pub(super) fn from_backend(error: &SendError, first_byte: Bound) -> Self {
        let (status, code, message) = match error {
            SendError::Connect(_) => {
                (StatusCode::BAD_GATEWAY, "backend_unreachable", "no backend could be reached: try again soon")
            }
            SendError::FirstByte(_) => (
                StatusCode::GATEWAY_TIMEOUT,
                "backend_timeout",
                "the backend did not begin its answer in time: try again, or ask for less",
            ),
            SendError::Broken(_) | SendError::Body(_) | SendError::NoAnswer(_) | SendError::Address(_) => (
                StatusCode::BAD_GATEWAY,
                "bad_backend_answer",
                "the backend's answer broke off or made no sense: try again",
            ),
        };
        let refusal = Self::new(Blame::Upstream, status, code, message).with_private(causes(error));
        if matches!(error, SendError::FirstByte(_)) { refusal.at(first_byte) } else { refusal }
    }

    /// The answer in the caller's dialect; the settlement is closed with it.
    pub(super) fn into_response(self, mut settlement: Box<Settlement>) -> Response<ResponseBody> {
        let response = self.answer(settlement.surface(), settlement.request_id());
        let details = *self.0;
        if let Some(private) = &details.private {
            tracing::warn!(
                request_id = settlement.request_id(),
                blame = details.blame.as_str(),
                code = &*details.code,
                policy = settlement.provenance.refused_by(),
                private,
                "refused"
            );
        }
        if let Some(bound) = details.bound {
            settlement.reached(bound);
        }
        settlement.answers(details.status);
        settlement.provenance.code = Some(details.code);
        let mut response = response.map(ResponseBody::whole);
        settlement.stamp_decisions(response.headers_mut());
        settlement.settle(End::Complete);
        response
    }

    /// What the caller reads.
    pub(super) fn answer(&self, surface: Surface, request_id: &str) -> Response<Bytes> {
        let details = &*self.0;
        let text = ErrorText { status: details.status, code: &details.code, message: &details.message, request_id };
        let body = dialect::error_body(surface, &text);
        let mut response = Response::new(body);
        *response.status_mut() = details.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(details.header.clone());
        if details.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if details.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = details.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The code that stands in the answer.
    pub(super) fn code(&self) -> &str {
        &self.0.code
    }

    /// Who is to blame.
    pub(super) fn blame(&self) -> &'static str {
        self.0.blame.as_str()
    }

    /// Policies did not come to a decision that can be used.
    fn undecided() -> Self {
        let message = "a policy of this gate failed to decide on the call: try again, or tell its administrator";
        Self::new(Blame::Policy, StatusCode::SERVICE_UNAVAILABLE, "policy_fault", message)
    }

    /// What only an operator should know.
    pub(super) fn private(&self) -> Option<&str> {
        self.0.private.as_deref()
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        let status = match rejection.reason {
            Reason::Unauthorized => StatusCode::UNAUTHORIZED,
            Reason::Forbidden => StatusCode::FORBIDDEN,
            Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::Invalid => StatusCode::BAD_REQUEST,
            Reason::TooMany | Reason::BudgetSpent => StatusCode::TOO_MANY_REQUESTS,
            Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut refusal = Self::new(Blame::Policy, status, &rejection.code, rejection.message);
        if rejection.reason == Reason::BudgetSpent {
            refusal.0.header = Some(NO_RETRY);
        }
        match rejection.retry_after_ms {
            Some(ms) => refusal.after_ms(u64::from(ms)),
            None => refusal,
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let refusal = match fault.kind {
            FaultKind::StaleKeys => {
                let message = "keys can't be checked at the moment: try again soon";
                Self::new(Blame::Gate, StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", message).after_ms(5_000)
            }
            FaultKind::Oversized => {
                let message = "the request holds a value that is too large for a policy of this gate: make it smaller";
                Self::new(Blame::Client, StatusCode::PAYLOAD_TOO_LARGE, "value_too_large", message)
            }
            _ => Self::undecided(),
        };
        refusal.with_private(fault.to_string())
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let (blame, status, code) = match &error {
            ReadError::TooLarge { .. } => (Blame::Client, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            ReadError::NoRoom => (Blame::Gate, StatusCode::SERVICE_UNAVAILABLE, "no_room"),
            ReadError::Idle(_) | ReadError::Late(_) | ReadError::Slow { .. } => {
                (Blame::Client, StatusCode::REQUEST_TIMEOUT, "body_timeout")
            }
            ReadError::Broken(_) => (Blame::Client, StatusCode::BAD_REQUEST, "bad_body"),
        };
        let mut refusal = Self::new(blame, status, code, error.to_string());
        // The rest of the body is not waited for.
        refusal.0.closes = true;
        refusal.0.bound = match error {
            ReadError::TooLarge { .. } => Some(Bound::BodySize),
            ReadError::NoRoom => Some(Bound::Buffered),
            ReadError::Idle(_) => Some(Bound::BodyIdle),
            ReadError::Late(_) => Some(Bound::BodyTime),
            ReadError::Slow { .. } => Some(Bound::BlobRate),
            ReadError::Broken(_) => None,
        };
        if matches!(error, ReadError::NoRoom) { refusal.after_ms(1_000) } else { refusal }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "bad_body", error.to_string())
    }
}

impl From<DigestError> for Refusal {
    fn from(error: DigestError) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "bad_digest", error.to_string())
    }
}

impl From<ModelNameError> for Refusal {
    fn from(error: ModelNameError) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "bad_model_name", error.to_string())
    }
}

/// Names in one line; a fleet may be large.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 50;
    let mut names: Vec<&str> = names.take(MOST + 1).collect();
    if names.len() > MOST {
        names.truncate(MOST);
        names.push("…");
    }
    names.join(", ")
}
