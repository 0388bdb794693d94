//! The operations listener: is the gate alive, is it ready, what are its numbers? On loopback, without a key.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{identity::KeyTable, upstream::fleet::Fleet, usage::metrics::Metrics};

/// Keys that were not read for this long are `degraded`: they serve, but a change would not be seen.
const DEGRADED_AFTER: Duration = Duration::from_secs(5);

/// What the answers come from.
#[derive(Clone, Debug)]
pub struct Operations {
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// Whether callers can be proven.
    pub keys: Arc<KeyTable>,
    /// Whether anybody can serve.
    pub fleet: Arc<Fleet>,
    /// Whether the gate is stopping.
    pub stop: CancellationToken,
}

/// What `/readyz` says.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    keys: &'static str,
    backends_up: usize,
    backends: usize,
    draining: bool,
}

/// A bound listener that doesn't accept yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    operations: Operations,
}

impl Admin {
    /// Binds.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub async fn bind(address: SocketAddr, operations: Operations) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, operations })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`. While the data plane drains it still answers: it must be seen to be unready.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, stop: CancellationToken) -> io::Result<()> {
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.operations);
        axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(operations): State<Operations>) -> Response {
    let backends = operations.fleet.backends();
    let backends_up = backends.iter().filter(|backend| backend.is_up()).count();
    let (keys, is_trusted) = match operations.keys.age() {
        Some(age) if age < DEGRADED_AFTER => ("fresh", true),
        _ if operations.keys.is_fresh() => ("degraded", true),
        _ => ("stale", false),
    };
    let draining = operations.stop.is_cancelled();
    let ready = is_trusted && backends_up > 0 && !draining;
    let body = Json(Readiness { ready, keys, backends_up, backends: backends.len(), draining });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body).into_response()
}

async fn metrics(State(operations): State<Operations>) -> Response {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, OPEN_METRICS)], operations.metrics.render()).into_response()
}
