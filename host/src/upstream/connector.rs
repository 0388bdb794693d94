//! How connections for calls come about: the name is resolved, TCP connects, TLS shakes hands, all within one deadline.
//!
//! Whatever fails here fails before a byte of a call has left.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::resolver::Resolver;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections to backends.
#[derive(Clone, Debug)]
pub struct Connector {
    https: HttpsConnector<HttpConnector<Resolver>>,
    patience: Duration,
}

impl Connector {
    /// Connections must be usable within `patience`. A backend that takes nothing of what it is sent for `stall` is cut.
    pub fn new(tls: &Arc<rustls::ClientConfig>, resolver: Resolver, patience: Duration, stall: Duration) -> Self {
        let mut http = HttpConnector::new_with_resolver(resolver);
        // Of several addresses each gets its share, so that one that is silent leaves time for the next.
        http.set_connect_timeout(Some(patience));
        http.set_nodelay(true);
        http.enforce_http(false);
        // Without this nothing would end an upload to a backend that stops reading: no more of the body is asked for then.
        // Other systems than Linux notice a machine that is gone, at least.
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(stall));
        #[cfg(not(target_os = "linux"))]
        http.set_keepalive(Some(stall));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(rustls::ClientConfig::clone(tls))
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Self { https, patience }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, place: Uri) -> Self::Future {
        let (connecting, patience) = (self.https.call(place), self.patience);
        Box::pin(async move {
            timeout(patience, connecting).await.unwrap_or_else(|_| {
                let text = format!("it could not be connected to within {patience:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
            })
        })
    }
}
