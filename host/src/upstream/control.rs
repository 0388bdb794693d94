//! Asking a backend about itself: short answers, read with a cap and a deadline.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Client, redirect::Policy};

use super::{backend::Backend, resolver::Resolver};
use crate::wire::causes::causes;

/// Largest list that is read, in bytes: ten thousand models of a KiB each, and some.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A client for the control plane.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
}

/// Why a backend said nothing useful about itself.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It can't be reached, or was too slow.
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// It answered with another status than 200.
    #[error("it answered {status} to {path}")]
    Status {
        /// The status.
        status: u16,
        /// What was asked.
        path: &'static str,
    },
    /// Its answer is longer than what is read.
    #[error("its answer to {path} is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong {
        /// What was asked.
        path: &'static str,
    },
    /// Its answer makes no sense.
    #[error("its answer to {path} makes no sense: {reason}")]
    Garbage {
        /// What was asked.
        path: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Control {
    /// A client that follows no redirect and uses no proxy. `deadline` is for one question, its whole answer included.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(
        tls: &Arc<rustls::ClientConfig>,
        resolver: Resolver,
        deadline: Duration,
    ) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(deadline)
            .dns_resolver(Arc::new(resolver))
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(rustls::ClientConfig::clone(tls))
            .build()?;
        Ok(Self { client })
    }

    /// The body of an answer of 200.
    ///
    /// # Errors
    /// Anything else.
    pub async fn ask(&self, backend: &Backend, path: &'static str) -> Result<Bytes, ControlError> {
        let unreachable = |error: reqwest::Error| ControlError::Unreachable(causes(&error.without_url()));
        let mut answer = self.client.get(format!("{}{path}", backend.url())).send().await.map_err(unreachable)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(ControlError::Status { status: answer.status().as_u16(), path });
        }
        let mut body = BytesMut::new();
        while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(ControlError::TooLong { path });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }
}
