//! A very cheap look-alike of Ollama: enough of it for a proxy to find its models and to be answered.
//!
//! Without credentials, limits or checks: it listens on loopback, for a benchmark.

mod answer;
mod body;

use std::{
    collections::HashMap,
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpSocket, runtime, task::JoinSet};

use self::{
    answer::{Answer, asked_model, whole},
    body::AnswerBody,
};
use crate::failure::{Failure, Trying};

/// The models that it lists; a call may ask for any that [`Answer::of`] understands.
const LISTED: [&str; 8] = [
    "bytes-1024:latest",
    "bytes-16384:latest",
    "bytes-262144:latest",
    "stream-4-0:latest",
    "stream-200-0:latest",
    "stream-200-5000:latest",
    "stream-20-2000:latest",
    "hold:latest",
];

/// Connections that wait to be accepted: a proxy may open thousands at once.
const BACKLOG: u32 = 4096;

/// Serves until the process ends; prints the address once it listens.
///
/// With `spins` it never sleeps: who sends to it wakes nobody, and pays for no waking. Only with one thread.
pub(crate) fn serve(listen: SocketAddr, threads: usize, spins: bool) -> Result<(), Failure> {
    let mut builder =
        if threads == 1 { runtime::Builder::new_current_thread() } else { runtime::Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            ended = accept(listen) => ended,
            () = spin(), if spins && threads == 1 => Ok(()),
        }
    })
}

/// Gives the core to others again and again, but never lets the runtime sleep.
async fn spin() {
    loop {
        std::thread::yield_now();
        tokio::task::yield_now().await;
    }
}

#[expect(clippy::print_stdout, reason = "the address is this command's result")]
async fn accept(listen: SocketAddr) -> Result<(), Failure> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen).trying(format_args!("{listen} can't be listened on"))?;
    let listener = socket.listen(BACKLOG)?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let answers = Arc::new(Answers::default());
    let mut connections = JoinSet::new();
    loop {
        // One that could not be accepted is the caller's to report.
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true)?;
        let answers = Arc::clone(&answers);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let answers = Arc::clone(&answers);
                async move { Ok::<_, Infallible>(answers.answer(request).await) }
            });
            // A caller that leaves is no news.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Bodies made once.
#[derive(Debug, Default)]
struct Answers {
    whole: Mutex<HashMap<usize, Bytes>>,
}

impl Answers {
    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/api/version") => json(Bytes::from_static(br#"{"version":"0.12.0"}"#)),
            (&Method::GET, "/api/tags") => json(tags()),
            (&Method::GET, "/api/ps") => json(Bytes::from_static(br#"{"models":[]}"#)),
            (&Method::POST, "/api/chat") => self.chat(request.into_body()).await,
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    async fn chat(&self, body: Incoming) -> Response<AnswerBody> {
        let Some(answer) = read_asked(body).await else { return status(StatusCode::BAD_REQUEST) };
        match answer {
            Answer::Whole { bytes } => json(self.whole(bytes)),
            Answer::Stream { lines, every } => stream(AnswerBody::paced(lines, every)),
            Answer::Hold => stream(AnswerBody::held()),
        }
    }

    fn whole(&self, bytes: usize) -> Bytes {
        let mut made = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(bytes).or_insert_with(|| whole(bytes)).clone()
    }
}

/// Reads a body to its end; what it asks for must stand in its first piece.
async fn read_asked(mut body: Incoming) -> Option<Answer> {
    let mut asked = None;
    while let Some(frame) = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await {
        if asked.is_none()
            && let Some(data) = frame.ok()?.data_ref()
        {
            asked = Answer::of(asked_model(data)?);
        }
    }
    asked
}

fn tags() -> Bytes {
    let models = LISTED.map(|name| {
        serde_json::json!({
            "name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 4_700_000_000_u64,
            "digest": format!("bench-{name}"), "details": { "family": "bench" },
        })
    });
    Bytes::from(serde_json::json!({ "models": models }).to_string())
}

fn json(body: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Whole(Some(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

fn stream(body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

fn status(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Whole(None));
    *response.status_mut() = status;
    response
}
