//! The backend of these runs: it counts what is asked of it and what it writes, and holds answers until it is told to go on.
//!
//! What is asked for stands in the model's name: `now-N` writes N tokens in one answer, `held-N` the same once it is
//! released, `paced-N-MS` one token each so many milliseconds, as a stream. A cap of the caller's is kept. It listens on
//! loopback, and what it counts is the truth that the gates' numbers are held against.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Sleep, sleep},
};

use super::caller::read;
use crate::failure::Failure;

/// What every prompt is said to have, in tokens.
pub(crate) const INPUT_TOKENS: u64 = 80;
/// Where a caller set no cap and the name no number.
const FEW: u64 = 8;
/// The models of these runs.
const LISTED: [&str; 6] = ["now-8", "held-8", "held-50", "held-600", "paced-40-10", "held-1"];

/// What it has seen.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    running: AtomicU64,
    most_running: AtomicU64,
    written: AtomicU64,
}

/// A backend that serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
    goes_on: watch::Sender<u64>,
    _serving: JoinSet<()>,
}

impl Backend {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (counts, (goes_on, _)) = (Arc::<Counts>::default(), watch::channel(0));
        let service = Service { counts: Arc::clone(&counts), goes_on: goes_on.clone() };
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                // A line of a stream goes out when it is written; where that can't be set it still goes.
                stream.set_nodelay(true).ok();
                let service = service.clone();
                connections.spawn(async move {
                    let answer = service_fn(|request| service.answer(request));
                    // A caller that leaves is what some runs are about.
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, counts, goes_on, _serving: serving })
    }

    /// Calls that came.
    pub(crate) fn calls(&self) -> u64 {
        self.counts.calls.load(SeqCst)
    }

    /// Calls that run now.
    pub(crate) fn running(&self) -> u64 {
        self.counts.running.load(SeqCst)
    }

    /// Most calls that ran at the same time since this was asked last.
    pub(crate) fn takes_most_running(&self) -> u64 {
        self.counts.most_running.swap(0, SeqCst)
    }

    /// Tokens that it wrote.
    pub(crate) fn written(&self) -> u64 {
        self.counts.written.load(SeqCst)
    }

    /// Lets all go on that are held.
    pub(crate) fn release(&self) {
        self.goes_on.send_modify(|round| *round += 1);
    }
}

#[derive(Clone, Debug)]
struct Service {
    counts: Arc<Counts>,
    goes_on: watch::Sender<u64>,
}

/// How the tokens of an answer come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Now,
    Held,
    Each(Duration),
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Written>, Infallible> {
        Ok(match (request.method(), request.uri().path()) {
            (&Method::GET, "/api/version") => whole(&json!({ "version": "0.12.0" })),
            (&Method::GET, "/api/tags") => {
                let model = |name: &str| json!({ "name": format!("{name}:latest"), "model": format!("{name}:latest") });
                whole(&json!({ "models": LISTED.map(model) }))
            }
            (&Method::GET, "/api/ps") => whole(&json!({ "models": [] })),
            // Of OpenAI's callers only the status counts here.
            (&Method::POST, "/v1/chat/completions") => whole(&json!({ "object": "chat.completion", "choices": [] })),
            (&Method::POST, "/api/chat") => match read(request.into_body()).await {
                Ok(body) => self.chat(&body).await,
                Err(_) => empty(StatusCode::BAD_REQUEST),
            },
            _ => empty(StatusCode::NOT_FOUND),
        })
    }

    async fn chat(&self, body: &[u8]) -> Response<Written> {
        let Ok(asked) = serde_json::from_slice::<Value>(body) else { return empty(StatusCode::BAD_REQUEST) };
        let model = asked.get("model").and_then(Value::as_str).unwrap_or_default();
        let (pace, tokens) = play(model);
        let cap = asked.pointer("/options/num_predict").and_then(Value::as_u64);
        let tokens = tokens.min(cap.unwrap_or(u64::MAX));
        // Before the call counts as running: who waits for that may release it at once.
        let mut goes_on = self.goes_on.subscribe();
        self.counts.calls.fetch_add(1, SeqCst);
        let running = Running::begin(&self.counts);
        if let Pace::Each(every) = pace {
            let paced = Paced { left: tokens, tokens, every, wait: None, running };
            return response(Written::Paced(Box::new(paced)), "application/x-ndjson");
        }
        if pace == Pace::Held {
            // It can't end before this program does.
            drop(goes_on.changed().await);
        }
        self.counts.written.fetch_add(tokens, SeqCst);
        whole(&last(tokens))
    }
}

/// What a model of this name does.
fn play(model: &str) -> (Pace, u64) {
    let mut parts = model.strip_suffix(":latest").unwrap_or(model).split('-');
    let kind = parts.next().unwrap_or_default();
    let mut number = || parts.next().and_then(|text| text.parse().ok());
    let tokens = number().unwrap_or(FEW);
    match kind {
        "held" => (Pace::Held, tokens),
        "paced" => (Pace::Each(Duration::from_millis(number().unwrap_or(1))), tokens),
        _ => (Pace::Now, tokens),
    }
}

/// One call that runs, until this is dropped.
#[derive(Debug)]
struct Running(Arc<Counts>);

impl Running {
    fn begin(counts: &Arc<Counts>) -> Self {
        let running = counts.running.fetch_add(1, SeqCst) + 1;
        counts.most_running.fetch_max(running, SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// The body of an answer.
enum Written {
    Whole(Option<Bytes>),
    Paced(Box<Paced>),
}

/// A stream of tokens, each counted as it is written.
struct Paced {
    left: u64,
    tokens: u64,
    every: Duration,
    wait: Option<Pin<Box<Sleep>>>,
    running: Running,
}

impl Paced {
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
        }
        self.wait = Some(Box::pin(sleep(self.every)));
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.running.0.written.fetch_add(1, SeqCst);
            let line = json!({ "model": "m", "message": { "role": "assistant", "content": " word" }, "done": false });
            return Poll::Ready(Some(Bytes::from(format!("{line}\n"))));
        }
        let said = std::mem::take(&mut self.tokens);
        Poll::Ready((said > 0).then(|| Bytes::from(format!("{}\n", last(said)))))
    }
}

impl Body for Written {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Paced(paced) => ready!(paced.poll_line(context)),
        };
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The end of an answer of so many tokens.
fn last(tokens: u64) -> Value {
    json!({
        "model": "m", "message": { "role": "assistant", "content": "word" }, "done": true, "done_reason": "stop",
        "prompt_eval_count": INPUT_TOKENS, "eval_count": tokens,
    })
}

fn whole(value: &Value) -> Response<Written> {
    response(Written::Whole(Some(Bytes::from(value.to_string()))), "application/json; charset=utf-8")
}

fn empty(status: StatusCode) -> Response<Written> {
    let mut response = response(Written::Whole(None), "text/plain");
    *response.status_mut() = status;
    response
}

fn response(body: Written, kind: &'static str) -> Response<Written> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_written_and_how() {
        for (name, expected) in [
            ("now-8:latest", (Pace::Now, 8)),
            ("held-50", (Pace::Held, 50)),
            ("paced-40-10:latest", (Pace::Each(Duration::from_millis(10)), 40)),
            ("llama3", (Pace::Now, FEW)),
        ] {
            assert_eq!(play(name), expected, "{name}");
        }
    }
}
