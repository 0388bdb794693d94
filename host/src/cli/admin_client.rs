//! Asks the running gate, by the admin listener of its configuration and the token in its state folder.
//!
//! Uses no proxy, follows no redirect, reads no more than a bound, and waits no longer than a deadline. The token goes to
//! the configured address only, and only while nobody else listens there.

use std::{net::SocketAddr, time::Duration};

use http::header::CONTENT_TYPE;
use reqwest::{Client, Method, Response, StatusCode, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{listener, output::Failure};
use crate::{
    config::Config,
    identity::{AdminToken, AdminTokenError},
    wire::causes::causes,
};

/// A gate on this machine answers at once, save what is said to take longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Largest answer that is read, in bytes: far more than the longest list.
const MAX_ANSWER: usize = 16 << 20;

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Vec<u8>,
    address: SocketAddr,
}

/// What the API says when it says no.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

/// The admin listener of a configuration.
#[derive(Debug)]
pub(super) struct AdminClient {
    address: SocketAddr,
    client: Client,
    token: Option<AdminToken>,
}

impl AdminClient {
    /// For what needs no token.
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        let address = config.admin.listen;
        if address.port() == 0 {
            let message = "admin.listen has port 0, so nobody knows where the gate listens: give it a port";
            return Err(Failure::configuration(message));
        }
        let client = Client::builder().no_proxy().redirect(Policy::none()).referer(false).build();
        let client = client.map_err(|error| Failure::failed(format!("the client can't start: {}", causes(&error))))?;
        Ok(Self { address, client, token: None })
    }

    /// For the API.
    pub(super) fn with_token(config: &Config) -> Result<Self, Failure> {
        let client = Self::open(config)?;
        let token = AdminToken::load(&config.state_dir).map_err(|error| match error {
            AdminTokenError::Missing { .. } | AdminTokenError::File { .. } => Failure::failed(causes(&error)),
            _ => Failure::configuration(causes(&error)),
        })?;
        let port = client.address.port();
        let is_ours = listener::belongs_to_owner_of(&AdminToken::file(&config.state_dir), port);
        if !is_ours.map_err(|error| Failure::failed(format!("the admin token's owner is not known: {error}")))? {
            let address = client.address;
            return Err(Failure::failed(format!(
                "what listens at {address} (admin.listen) belongs to another user, so it is not asked: the token would be \
                 theirs; see who it is with `ss -ltnp`"
            )));
        }
        Ok(Self { token: Some(token), ..client })
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn ask(&self, method: Method, path: &str, patience: Duration) -> Result<Answer, Failure> {
        self.tell(method, path, None, patience).await
    }

    /// The same with a JSON body.
    pub(super) async fn tell(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let slow = |_| {
            let seconds = patience.as_secs();
            Failure::try_again(format!(
                "the gate at {} did not answer within {seconds} seconds: try again",
                self.address
            ))
        };
        timeout(patience, self.exchange(method, path, body)).await.map_err(slow)?
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, Failure> {
        let mut request = self.client.request(method, format!("http://{}{path}", self.address));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = self.read(&mut response).await?;
        Ok(Answer { status, body, address: self.address })
    }

    async fn read(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(Failure::failed(format!("what listens at {} answers without end", self.address)));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let address = self.address;
        if error.is_connect() {
            return Failure::failed(format!(
                "no gate listens at {address} (admin.listen): start it with `tollgate serve`, or use the configuration \
                 that it runs with"
            ));
        }
        let message = format!("the gate at {address} broke off its answer ({}): try again", causes(error));
        Failure::try_again(message)
    }
}

impl Answer {
    /// The answer's value.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let address = self.address;
            Failure::failed(format!("what answers at {address} is no gate, or one of another version: {error}"))
        })
    }

    /// The value of an answer that says yes, or why it says no.
    pub(super) fn success<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if self.status.is_success() { self.json() } else { Err(self.failure()) }
    }

    /// Why it says no.
    pub(super) fn failure(&self) -> Failure {
        let detail = match self.json::<Problem>() {
            Ok(problem) => problem.detail,
            Err(failure) => return failure,
        };
        let message = format!("the gate at {} refuses: {detail}", self.address);
        match self.status.as_u16() {
            408 | 429 | 503 | 504 => Failure::try_again(message),
            _ => Failure::failed(message),
        }
    }
}
