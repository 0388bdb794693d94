//! manage: what changes a backend goes to the one that the caller names, for keys that may manage. No policy chooses here,
//! and nothing is tried twice.
//!
//! Bodies pass as they came: the models in them were checked, and how a new one is spelled is the caller's choice.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use super::{
    Parts,
    admit::Admitted,
    caller_body::CallerBody,
    forward::{self, Answered},
    read::Read,
    refusal::Refusal,
    settle::Settlement,
};
use crate::{
    config::BackendKind,
    llm::{
        digest::Digest,
        model_name::ModelName,
        operations::{Pattern, Row, Source, Upstream},
        pointer,
    },
    policy::CheckedBody,
    ports::keys::Scope,
    upstream::{
        backend::{Backend, Busy},
        client::{CallPath, SendError},
        fleet::Fleet,
    },
    usage::bound::Bound,
    wire::{
        body::{Outgoing, Pieces},
        headers::BACKEND,
        upload::{Bounds, Upload},
    },
};

/// Fields of old versions of Ollama that name models, or files of the backend's host, in ways that can't be checked.
const UNREADABLE_FIELDS: [&str; 2] = ["modelfile", "path"];

/// Where a model runs that a backend only stands in for.
const REMOTE_HOST: &str = "remote_host";

/// What a management call is about.
#[derive(Debug)]
pub(super) enum Managed {
    /// These models, each named in the body.
    Models(Vec<ModelName>),
    /// A blob, with its bytes where it is brought.
    Blob(Digest, Option<CallerBody>),
}

impl Managed {
    /// Reads what the row says of a body that passed the strict reading, or of a path's parameter.
    pub(super) fn read(
        row: &Row,
        parameter: Option<&str>,
        body: Option<&CheckedBody>,
        rest: Option<CallerBody>,
        allow_cloud: bool,
    ) -> Result<Self, Refusal> {
        match (row.pattern, body) {
            (Pattern::Digest(_), _) => Ok(Self::Blob(Digest::parse(parameter.unwrap_or_default())?, rest)),
            (_, Some(body)) => Ok(Self::Models(models(row, &body.read.bytes, allow_cloud)?)),
            (_, None) => Err(Refusal::nowhere_to_go()),
        }
    }

    /// Whether all of it is the key's. A blob belongs to no model yet.
    pub(super) fn check_scope(&self, scope: &Scope) -> Result<(), Refusal> {
        let Self::Models(models) = self else { return Ok(()) };
        match models.iter().find(|model| !scope.allows(model.canonical())) {
            Some(model) => Err(Refusal::outside_scope(model)),
            None => Ok(()),
        }
    }
}

/// All models that a management body names. A field stands there once, and in one spelling.
fn models(row: &Row, body: &Bytes, allow_cloud: bool) -> Result<Vec<ModelName>, Refusal> {
    for field in UNREADABLE_FIELDS {
        if text_at(body, field)?.is_some() {
            return Err(Refusal::unreadable_field(field));
        }
    }
    if !allow_cloud && text_at(body, REMOTE_HOST)?.is_some() {
        return Err(Refusal::cloud_model());
    }
    let mut models = Vec::new();
    for field in row.model_fields.iter().chain(row.more_models) {
        if let Some(name) = text_at(body, field)? {
            let model = ModelName::parse(&name)?;
            if model.is_cloud() && !allow_cloud {
                return Err(Refusal::cloud_model());
            }
            models.push(model);
        }
    }
    Ok(models)
}

/// The text of a field; none when it is absent, null or empty, as for Ollama.
fn text_at(body: &[u8], field: &str) -> Result<Option<String>, Refusal> {
    let Ok(Some(raw)) = pointer::at(body, &format!("/{field}")) else { return Ok(None) };
    match serde_json::from_str::<Option<String>>(raw) {
        Ok(text) => Ok(text.filter(|text| !text.is_empty())),
        Err(_) => Err(Refusal::not_a_text(field)),
    }
}

/// Sends the call to the backend that the caller names.
///
/// # Cancel safety
/// When the caller leaves, the connection to the backend closes: an upload or a pull ends there.
pub(super) async fn manage(
    parts: &Parts,
    admitted: Admitted,
    settlement: &mut Settlement,
) -> Result<Answered, Refusal> {
    let Admitted(read) = admitted;
    let Read { row, exchange, call, body, managed, headers: set, .. } = *read;
    let (Source::Backend(upstream), Some(managed)) = (row.answer, managed) else {
        return Err(Refusal::nowhere_to_go());
    };
    let backend = chosen(&parts.fleet, exchange.headers())?;
    // Only keys that may manage get here: what they change stands in the log.
    settlement.names_model(&call.model);
    let headers = forward::request_headers(&exchange, row, &set);
    let changes_models = matches!(managed, Managed::Models(_));
    let (digest, outgoing) = outgoing(parts, managed, body.as_ref())?;
    let path = path(&upstream, digest.as_ref())?;
    let busy = Busy::without_model(Arc::clone(&backend));
    settlement.goes_to(&backend);
    let sent_at = parts.clock.monotonic();
    let patient = parts.upstream.with_first_byte(parts.bounds.management);
    match patient.send(&backend, (upstream.method, path), headers, outgoing, settlement.departure()).await {
        Ok(response) => {
            let refresh = (changes_models && response.status().is_success())
                .then(|| Refresh { fleet: Arc::clone(&parts.fleet), backend: Arc::clone(&backend) });
            let idle = (parts.bounds.management, Bound::Management);
            Ok(Answered { response, busy, sent_at, idle, refresh, hides_usage: false })
        }
        // The caller's doing: the backend is not to blame.
        Err(SendError::Body(error)) => Err(error.into()),
        Err(error @ SendError::Connect(_)) => {
            forward::note_unreachable(parts, &backend, &error);
            Err(Refusal::from_backend(&error, Bound::Management))
        }
        Err(error) => {
            backend.note_end(true, parts.clock.monotonic_ms());
            Err(Refusal::from_backend(&error, Bound::Management))
        }
    }
}

/// What the backend is sent.
fn outgoing(
    parts: &Parts,
    managed: Managed,
    body: Option<&CheckedBody>,
) -> Result<(Option<Digest>, Outgoing), Refusal> {
    Ok(match managed {
        Managed::Models(_) => {
            let bytes = body.map_or_else(Bytes::new, |body| body.read.bytes.clone());
            (None, Pieces::whole(bytes).into())
        }
        Managed::Blob(digest, None) => (Some(digest), Pieces::default().into()),
        Managed::Blob(digest, Some(upload)) => {
            let cap = usize::try_from(parts.bounds.max_blob).unwrap_or(usize::MAX);
            let bounds = Bounds { cap, idle: parts.bounds.body_idle, rate: parts.bounds.min_blob_rate };
            (Some(digest), Upload::new(upload, bounds)?.into())
        }
    })
}

fn path<'a>(upstream: &Upstream, digest: Option<&'a Digest>) -> Result<CallPath<'a>, Refusal> {
    match digest {
        None => Ok(upstream.path.into()),
        Some(digest) => CallPath::with_parameter(upstream.path, digest.as_str()).map_err(|_| Refusal::nowhere_to_go()),
    }
}

/// The backend in the request's header; without one, the only one there is. A drained backend can be managed: that is
/// what it may have been drained for.
pub(super) fn chosen(fleet: &Fleet, headers: &HeaderMap) -> Result<Arc<Backend>, Refusal> {
    let mut managed = fleet.backends();
    managed.retain(|backend| backend.kind() == BackendKind::Ollama);
    let mut lines = headers.get_all(BACKEND).iter();
    let backend = match (lines.next(), lines.next(), managed.as_slice()) {
        (_, _, []) => return Err(Refusal::nothing_to_manage()),
        (None, _, [only]) => only,
        (Some(name), None, managed) => managed
            .iter()
            .find(|backend| *name == **backend.name())
            .ok_or_else(|| Refusal::unknown_backend(managed.iter().map(|backend| &**backend.name())))?,
        (_, _, managed) => return Err(Refusal::backend_not_named(managed.iter().map(|backend| &**backend.name()))),
    };
    if backend.is_up() { Ok(Arc::clone(backend)) } else { Err(Refusal::backend_down(backend.name())) }
}

/// What is left to do when an answer is over: the backend has other models now.
#[derive(Debug)]
pub(super) struct Refresh {
    fleet: Arc<Fleet>,
    backend: Arc<Backend>,
}

impl Refresh {
    /// Has the backend's list read again; nobody waits for it.
    pub(super) fn start(self) {
        self.fleet.refresh_one(&self.backend);
    }
}
