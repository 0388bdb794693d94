//! Callers of the gates: many at once, or one that leaves half-way; and the few questions put to their admin listeners.
//!
//! Every call ends within a bound: one that is not answered by then is an error, never waited for.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    clock::now,
    failure::{Failure, Trying},
};

/// No call of these runs may take longer.
const ONE_CALL: Duration = Duration::from_secs(60);
/// Largest body: the metrics are some tens of kilobytes.
const MOST_BYTES: usize = 4 << 20;
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Makes calls over kept connections. A handle; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// One kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) model: &'a str,
    pub(crate) key: &'a str,
    /// Most tokens of the answer, where the caller sets a cap.
    pub(crate) cap: Option<u64>,
    pub(crate) streams: bool,
}

impl Call<'_> {
    fn request(&self, to: SocketAddr) -> Result<Request<Full<Bytes>>, Failure> {
        let prompt = "word ".repeat(60);
        let mut body = json!({
            "model": self.model, "stream": self.streams, "messages": [{ "role": "user", "content": prompt }],
        });
        if let (Some(cap), Some(fields)) = (self.cap, body.as_object_mut()) {
            fields.insert("options".to_owned(), json!({ "num_predict": cap }));
        }
        Request::builder()
            .method(Method::POST)
            .uri(format!("http://{to}/api/chat"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .trying("a call can't be written")
    }
}

impl Caller {
    pub(crate) fn new() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Makes a call and reads its answer to the end; its status.
    pub(crate) async fn call(&self, call: Call<'_>, to: SocketAddr) -> Result<u16, Failure> {
        self.ask(call.request(to)?).await.map(|(status, _)| status)
    }

    /// Begins a streamed call, and leaves when so many lines have come; its status.
    pub(crate) async fn leaves_after(&self, lines: usize, call: Call<'_>, to: SocketAddr) -> Result<u16, Failure> {
        let reading = async {
            let mut answer = self.client.request(call.request(to)?).await.trying("no answer")?;
            let mut seen = 0;
            while seen < lines
                && let Some(frame) = answer.body_mut().frame().await
            {
                let frame = frame.trying("the answer broke off")?;
                seen += frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
            }
            Ok(answer.status().as_u16())
        };
        timeout(ONE_CALL, reading).await.trying("a call takes too long")?
    }

    /// All these calls at once, in turn over the gates.
    pub(crate) fn call_at_once(
        &self,
        callers: usize,
        call: Call<'_>,
        gates: &[SocketAddr],
    ) -> Result<JoinSet<Result<u16, Failure>>, Failure> {
        let mut calls = JoinSet::new();
        for gate in gates.iter().cycle().take(callers) {
            let (caller, request) = (self.clone(), call.request(*gate)?);
            calls.spawn(async move { caller.ask(request).await.map(|(status, _)| status) });
        }
        Ok(calls)
    }

    /// Makes this request; what came, read to the end.
    pub(crate) async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let began = now();
        let asking = async {
            let answer = self.client.request(request).await.map_err(|error| in_full(&error))?;
            let (head, body) = answer.into_parts();
            let body = read(body).await?;
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, took: now().duration_since(began) })
        };
        timeout(ONE_CALL, asking).await.trying("a call takes too long")?
    }

    /// What an admin listener answers to this, as JSON.
    pub(crate) async fn steer(
        &self,
        method: Method,
        to: SocketAddr,
        path: &str,
        token: &str,
    ) -> Result<Value, Failure> {
        let request = Request::builder().method(method).uri(format!("http://{to}{path}"));
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(Full::default());
        let answer = self.answer(request.trying("a question can't be written")?).await?;
        // A reload that refused something says so, and what: no failure of the asking.
        if answer.status >= 300 && answer.status != 422 {
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(Failure::new(format!("{path} answers {}: {said}", answer.status)));
        }
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// The text at this path.
    pub(crate) async fn get(&self, from: SocketAddr, path: &str, token: Option<&str>) -> Result<String, Failure> {
        let mut request = Request::builder().uri(format!("http://{from}{path}"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::default()).trying("a question can't be written")?;
        let (status, body) = self.ask(request).await?;
        if status != 200 {
            return Err(Failure::new(format!("{path} answers {status}: {}", String::from_utf8_lossy(&body))));
        }
        String::from_utf8(body.into()).trying(path)
    }

    /// The JSON at this path.
    pub(crate) async fn json(&self, from: SocketAddr, path: &str, token: Option<&str>) -> Result<Value, Failure> {
        Ok(serde_json::from_str(&self.get(from, path, token).await?)?)
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Failure> {
        self.answer(request).await.map(|answer| (answer.status, answer.body))
    }
}

/// What came of a call.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// From the call's beginning to its last byte.
    pub(crate) took: Duration,
}

/// Reads a body to its end, within a bound.
pub(crate) async fn read(mut body: Incoming) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| in_full(&error))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > MOST_BYTES {
            return Err(Failure::new("a body is longer than any of these runs"));
        }
    }
    Ok(bytes.freeze())
}

/// An error with what is behind it.
fn in_full(error: &dyn std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    Failure::new(text)
}

/// Waits until it is so; fails with these words when it takes longer than this.
pub(crate) async fn until(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> Result<bool, Failure>,
) -> Result<Duration, Failure> {
    let began = now();
    loop {
        let so_far = now().duration_since(began);
        if holds().await? {
            return Ok(so_far);
        }
        if so_far > within {
            return Err(Failure::new(format!("after {} s still not: {what}", within.as_secs())));
        }
        sleep(LOOK).await;
    }
}
