//! Sending a call to a backend. The address is built from the backend and the operation's row, never from a caller's text.

use std::{
    error::Error,
    future::poll_fn,
    io, iter,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use hyper::client::conn::http1::{self, SendRequest};
use rustix::io::Errno;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::{
    answer::AnswerBody, backend::Backend, connector::Connector, pool::Lease, resolver::Resolver, watches::Watches,
};
use crate::{
    clock::Clock,
    config,
    wire::{body::Outgoing, bounded::ReadError, causes::causes, joined::Joined},
};

/// Largest head of an answer: what a backend may make the gate hold.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The data plane's client. The connections that wait for a call belong to their backends.
#[derive(Clone, Debug)]
pub struct Upstream {
    connector: Connector,
    first_byte: Duration,
    watches: Arc<Watches>,
    clock: Clock,
    /// Each ends with its connection, which ends with its backend, or with the call that uses it.
    connections: TaskTracker,
}

/// Whether anything of a call may have left for a backend; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Departure(Arc<AtomicBool>);

impl Departure {
    /// Whether it may have.
    pub fn has_left(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// It has, or it is certain that it has not.
    pub fn note(&self, has_left: bool) {
        self.0.store(has_left, Relaxed);
    }
}

/// Where a call goes below a backend's address: a path of the operation table, and the parameter that some rows end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPath<'a> {
    row: &'static str,
    parameter: &'a str,
}

/// The parameter would change the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parameter is not one segment of letters, digits, `:`, `-` and `_`")]
pub struct ParameterError;

impl<'a> CallPath<'a> {
    /// A row's path with a parameter behind it, which the caller has checked for what it means.
    ///
    /// # Errors
    /// When it is empty, or could be read as more than one plain segment.
    pub fn with_parameter(row: &'static str, parameter: &'a str) -> Result<Self, ParameterError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_');
        if parameter.is_empty() || !parameter.bytes().all(is_plain) {
            return Err(ParameterError);
        }
        Ok(Self { row, parameter })
    }
}

impl From<&'static str> for CallPath<'_> {
    fn from(row: &'static str) -> Self {
        Self { row, parameter: "" }
    }
}

/// Why no answer began.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection came about: nothing of the call has left.
    #[error("no connection to the backend")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The answer did not begin in time.
    #[error("the backend did not begin its answer within {} seconds", .0.as_secs())]
    FirstByte(Duration),
    /// The connection broke, or what came is no HTTP.
    #[error("the backend's answer could not be read")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// What came is HTTP, but no answer to a call: a redirect, or another protocol.
    #[error("the backend answered {0}, which is no answer to a call")]
    NoAnswer(StatusCode),
    /// The request's body broke off on its way: the caller's doing.
    #[error("the request's body broke off")]
    Body(#[source] ReadError),
    /// The backend's address and the operation's path make no URI.
    #[error("the backend's address can't be used")]
    Address(#[from] http::Error),
}

impl SendError {
    /// Whether no connection came about because the time for that was over.
    pub fn is_late_connect(&self) -> bool {
        // Errors of the system itself carry its number; what a deadline of this program ends doesn't.
        let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none();
        matches!(self, Self::Connect(_)) && self.io_causes().any(is_late)
    }

    /// Whether this machine, and not the backend, is why there is no connection: no descriptors, buffers or ports left.
    pub fn is_ours(&self) -> bool {
        let is_ours =
            |number| matches!(number, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::ADDRNOTAVAIL | Errno::NOMEM);
        self.io_causes().filter_map(io::Error::raw_os_error).map(Errno::from_raw_os_error).any(is_ours)
    }

    fn io_causes(&self) -> impl Iterator<Item = &io::Error> {
        iter::successors(Some(self as &(dyn Error + 'static)), |&error| error.source())
            .filter_map(|error| error.downcast_ref::<io::Error>())
    }
}

impl Upstream {
    /// A client with the deadlines of this configuration.
    pub fn new(tls: &Arc<rustls::ClientConfig>, resolver: Resolver, config: &config::Upstream, clock: Clock) -> Self {
        let connector = Connector::new(tls, resolver, config.connect_timeout, config.idle_timeout);
        let first_byte = config.first_byte_timeout;
        Self { connector, first_byte, watches: Arc::default(), clock, connections: TaskTracker::new() }
    }

    /// The same client with another time to the answer's first byte.
    pub fn with_first_byte(&self, first_byte: Duration) -> Self {
        Self { first_byte, ..self.clone() }
    }

    /// Sends a call and waits for the head of the answer. The time to its first byte counts from when all of the request
    /// is on its way: an upload takes as long as it takes, and guards itself against silence. `departure` tells from the moment
    /// on at which a connection takes the call that it may have left.
    ///
    /// # Errors
    /// Why no answer began. Only after [`SendError::Connect`] may the call be tried elsewhere.
    ///
    /// # Cancel safety
    /// Dropped at any point, the connection is closed: the backend learns that nobody waits any more.
    pub async fn send(
        &self,
        backend: &Arc<Backend>,
        (method, path): (&Method, impl Into<CallPath<'_>>),
        headers: HeaderMap,
        mut body: Outgoing,
        departure: &Departure,
    ) -> Result<Response<AnswerBody>, SendError> {
        let end_of_body = body.end();
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = target(backend, path.into())?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::HOST, backend.host().clone());
        let mut answer = pin!(self.exchange(backend, request, departure));
        if let Some(end_of_body) = end_of_body {
            tokio::select! {
                // First, because a body that breaks off breaks the exchange as well, and is the reason for it.
                biased;
                end = end_of_body.come() => end.map_err(SendError::Body)?,
                // Some answer before they have read everything.
                answer = &mut answer => return checked(answer),
            }
        }
        let mut watch = self.watches.set(self.first_byte);
        let answer = tokio::select! {
            // What has come in the same moment counts.
            biased;
            answer = answer => checked(answer),
            () = &mut watch => Err(SendError::FirstByte(self.first_byte)),
        };
        self.watches.rest(watch);
        answer
    }

    /// Sends on a connection that waits, or on a new one. A connection that closed while it waited gives the request back
    /// unsent, so the next one may take it.
    async fn exchange(
        &self,
        backend: &Arc<Backend>,
        mut request: Request<Outgoing>,
        departure: &Departure,
    ) -> Result<Response<AnswerBody>, SendError> {
        while let Some(sender) = backend.pool().take(self.clock.ticked_ms()) {
            match self.try_on(backend, sender, request, departure).await {
                Ok(response) => return Ok(response),
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => return Err(SendError::Broken(error.into())),
            }
        }
        // Boxed: calls that find a connection need not carry the room for it.
        let sender = Box::pin(self.connect(backend)).await?;
        self.try_on(backend, sender, request, departure).await.map_err(|(error, unsent)| match unsent {
            Some(_) => SendError::Connect(error.into()),
            None => SendError::Broken(error.into()),
        })
    }

    async fn try_on(
        &self,
        backend: &Arc<Backend>,
        mut sender: SendRequest<Outgoing>,
        request: Request<Outgoing>,
        departure: &Departure,
    ) -> Result<Response<AnswerBody>, (hyper::Error, Option<Request<Outgoing>>)> {
        departure.note(true);
        match sender.try_send_request(request).await {
            Ok(response) => {
                let lease = Lease::new(Arc::clone(backend), sender);
                Ok(response.map(|body| AnswerBody::new(body, lease, self.clock.clone())))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                departure.note(unsent.is_none());
                Err((error.into_error(), unsent))
            }
        }
    }

    async fn connect(&self, backend: &Backend) -> Result<SendRequest<Outgoing>, SendError> {
        let mut connector = self.connector.clone();
        poll_fn(|context| connector.poll_ready(context)).await.map_err(SendError::Connect)?;
        let stream = connector.call(place(backend)?).await.map_err(SendError::Connect)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD_BYTES);
        let (mut sender, connection) =
            builder.handshake(Joined(stream)).await.map_err(|error| SendError::Connect(error.into()))?;
        self.connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = causes(&error), "a connection to a backend ended early");
            }
        });
        sender.ready().await.map_err(|error| SendError::Connect(error.into()))?;
        Ok(sender)
    }
}

/// What came, if it is an answer to a call.
fn checked(answer: Result<Response<AnswerBody>, SendError>) -> Result<Response<AnswerBody>, SendError> {
    match answer {
        // Neither followed nor passed on: where it leads is a place behind the gate.
        Ok(response) if response.status().is_redirection() || response.status().is_informational() => {
            Err(SendError::NoAnswer(response.status()))
        }
        other => other,
    }
}

/// Where to connect.
fn place(backend: &Backend) -> Result<Uri, http::Error> {
    let url = backend.url();
    Uri::builder().scheme(url.scheme().clone()).authority(url.authority().clone()).path_and_query("/").build()
}

/// What is asked for, as it stands in the request's first line: the server is known, so only the path.
fn target(backend: &Backend, path: CallPath<'_>) -> Result<Uri, http::Error> {
    Ok(match (backend.url().prefix(), path) {
        ("", CallPath { row, parameter: "" }) => Uri::from(PathAndQuery::from_static(row)),
        (prefix, CallPath { row, parameter }) => {
            Uri::from(PathAndQuery::try_from(format!("{prefix}{row}{parameter}"))?)
        }
    })
}
