//! Sending a call to a backend. The address is built from the backend and the operation's row, never from a caller's text.

use std::{io, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustix::io::Errno;
use tokio::time::timeout;

use super::backend::Backend;
use crate::wire::body::Pieces;

/// Connections without a call are kept this long.
const POOL_IDLE: Duration = Duration::from_secs(60);

/// Largest head of an answer: what a backend may make the gate hold.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The data plane's client; pools connections by backend.
#[derive(Clone, Debug)]
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Pieces>,
    first_byte: Duration,
}

/// Why no answer began.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection came about: nothing of the call has left.
    #[error("no connection to the backend")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer did not begin in time.
    #[error("the backend did not begin its answer within {} seconds", .0.as_secs())]
    FirstByte(Duration),
    /// The connection broke, or what came is no HTTP.
    #[error("the backend's answer could not be read")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What came is HTTP, but no answer to a call: a redirect, or another protocol.
    #[error("the backend answered {0}, which is no answer to a call")]
    NoAnswer(StatusCode),
    /// The backend's address and the operation's path make no URI.
    #[error("the backend's address can't be used")]
    Address(#[from] http::Error),
}

impl SendError {
    /// Whether this machine, and not the backend, is why there is no connection: no descriptors, buffers or ports left.
    pub fn is_ours(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let number =
                error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).map(Errno::from_raw_os_error);
            if matches!(number, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::ADDRNOTAVAIL | Errno::NOMEM))
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

impl Upstream {
    /// A client with these deadlines: to connect, and from the request to the answer's first byte.
    pub fn new(tls: &Arc<rustls::ClientConfig>, connect: Duration, first_byte: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(connect));
        http.set_nodelay(true);
        http.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(rustls::ClientConfig::clone(tls))
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .build(https);
        Self { client, first_byte }
    }

    /// Sends a call and waits for the head of the answer.
    ///
    /// # Errors
    /// Why no answer began. Only after [`SendError::Connect`] may the call be tried elsewhere.
    ///
    /// # Cancel safety
    /// Dropped at any point, the connection is closed: the backend learns that nobody waits any more.
    pub async fn send(
        &self,
        backend: &Backend,
        method: &Method,
        path: &'static str,
        headers: HeaderMap,
        body: Pieces,
    ) -> Result<Response<Incoming>, SendError> {
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = address(backend, path)?;
        *request.headers_mut() = headers;
        let host = backend.url().authority().as_str().try_into().map_err(http::Error::from)?;
        request.headers_mut().insert(header::HOST, host);
        match timeout(self.first_byte, self.client.request(request)).await {
            Err(_) => Err(SendError::FirstByte(self.first_byte)),
            // Neither followed nor passed on: where it leads is a place behind the gate.
            Ok(Ok(response)) if response.status().is_redirection() || response.status().is_informational() => {
                Err(SendError::NoAnswer(response.status()))
            }
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(SendError::Connect(error.into())),
            Ok(Err(error)) => Err(SendError::Broken(error.into())),
        }
    }
}

fn address(backend: &Backend, path: &'static str) -> Result<Uri, http::Error> {
    let url = backend.url();
    let path = match url.prefix() {
        "" => PathAndQuery::from_static(path),
        prefix => PathAndQuery::try_from(format!("{prefix}{path}"))?,
    };
    Uri::builder().scheme(url.scheme().clone()).authority(url.authority().clone()).path_and_query(path).build()
}
