//! A scripted LLM server on a raw socket: what it lists is fixed, what it answers to a call is written chunk by chunk.
//!
//! Streaming bugs live between chunks, so a script can wait for the test, stall, reset the connection or send garbage.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::soon;

/// One step of an answer.
#[derive(Clone, Debug)]
enum Step {
    /// Status line and headers of a chunked answer.
    Head(u16, &'static str),
    /// One chunk.
    Chunk(Vec<u8>),
    /// Until the test says go on.
    Wait(Arc<Notify>),
    /// Nothing more; the connection stays open until the other side closes it.
    Stall,
    /// The connection breaks.
    Reset,
    /// The connection ends, as if nothing were missing.
    Close,
    /// These bytes, whatever they are.
    Raw(String),
    /// The last chunk.
    End,
}

/// An answer, step by step.
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<Step>);

impl Script {
    /// A whole JSON answer.
    pub fn json(status: u16, body: &str) -> Self {
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        Self(vec![Step::Raw(head + body)])
    }

    /// The head of an NDJSON stream.
    pub fn ndjson() -> Self {
        Self(vec![Step::Head(200, "application/x-ndjson")])
    }

    /// The head of a stream of server-sent events.
    pub fn sse() -> Self {
        Self(vec![Step::Head(200, "text/event-stream")])
    }

    /// Any bytes.
    pub fn raw(text: &str) -> Self {
        Self(vec![Step::Raw(text.to_owned())])
    }

    /// Nothing at all, until the other side gives up.
    pub fn silence() -> Self {
        Self(vec![Step::Stall])
    }

    pub fn chunk(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Chunk(bytes.as_ref().to_vec()));
        self
    }

    pub fn wait(mut self, gate: &Arc<Notify>) -> Self {
        self.0.push(Step::Wait(Arc::clone(gate)));
        self
    }

    pub fn stall(mut self) -> Self {
        self.0.push(Step::Stall);
        self
    }

    pub fn reset(mut self) -> Self {
        self.0.push(Step::Reset);
        self
    }

    pub fn close(mut self) -> Self {
        self.0.push(Step::Close);
        self
    }

    pub fn end(mut self) -> Self {
        self.0.push(Step::End);
        self
    }
}

/// A call as a server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
    /// On which of the server's connections, counted from 0.
    pub connection: usize,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A scripted server.
pub struct LlmServer {
    state: Arc<State>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
    seen: mpsc::UnboundedReceiver<Seen>,
    closed: mpsc::UnboundedReceiver<()>,
}

struct State {
    name: String,
    models: Mutex<Vec<String>>,
    lists: Mutex<Option<String>>,
    version: Mutex<&'static str>,
    scripts: Mutex<VecDeque<Script>>,
    calls: Mutex<usize>,
    control: Mutex<Vec<String>>,
    saw: mpsc::UnboundedSender<Seen>,
    was_closed: mpsc::UnboundedSender<()>,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

impl LlmServer {
    /// A server with these models on a free port. A call without a script is answered with the server's name.
    pub async fn start(name: &str, models: &[&str]) -> Self {
        Self::start_at(name, models, "127.0.0.1:0".parse().unwrap()).await
    }

    /// The same at a given address: one that comes back.
    pub async fn start_at(name: &str, models: &[&str], address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's record of what was seen has no other bound than the test"
        )]
        let ((saw, seen), (was_closed, closed)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let state = Arc::new(State {
            name: name.to_owned(),
            models: Mutex::new(models.iter().map(|&model| model.to_owned()).collect()),
            lists: Mutex::default(),
            version: Mutex::new("0.9.1"),
            scripts: Mutex::default(),
            calls: Mutex::default(),
            control: Mutex::default(),
            saw,
            was_closed,
            connections: Mutex::default(),
        });
        let accepting = spawn(accept(listener, Arc::clone(&state)));
        Self { state, address, accepting, seen, closed }
    }

    pub fn name(&self) -> &str {
        &self.state.name
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next call without a script before it is answered so.
    pub fn script(&self, script: Script) {
        self.state.scripts.lock().unwrap().push_back(script);
    }

    /// Changes what it lists.
    pub fn set_models(&self, models: &[&str]) {
        *self.state.models.lock().unwrap() = models.iter().map(|&model| model.to_owned()).collect();
    }

    /// Changes the version of Ollama that it says it is.
    pub(crate) fn set_version(&self, version: &'static str) {
        *self.state.version.lock().unwrap() = version;
    }

    /// Answers its lists with these bytes of JSON, or whatever it is.
    pub fn set_lists(&self, body: &str) {
        *self.state.lists.lock().unwrap() = Some(body.to_owned());
    }

    /// The next call that reaches it.
    pub async fn seen(&mut self) -> Seen {
        soon("a call to the backend", self.seen.recv()).await.unwrap()
    }

    /// How many calls have reached it, probes and lists aside.
    pub fn calls(&self) -> usize {
        *self.state.calls.lock().unwrap()
    }

    /// Paths of the probes and lists that were asked.
    pub fn control_paths(&self) -> Vec<String> {
        self.state.control.lock().unwrap().clone()
    }

    /// Waits until the other side closes a connection on which a script stalls or waits.
    pub async fn closed(&mut self) {
        soon("the closing of the backend's connection", self.closed.recv()).await.unwrap();
    }

    /// Stops listening and breaks every connection: the server is gone.
    pub async fn kill(self) -> SocketAddr {
        self.accepting.abort();
        // The port is free once the listener's task is gone, and the other side is told once the connections' are.
        drop(self.accepting.await);
        let connections: Vec<_> = self.state.connections.lock().unwrap().drain(..).collect();
        for connection in connections {
            connection.abort();
            drop(connection.await);
        }
        self.address
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's server ends with the test's runtime")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let number = state.connections.lock().unwrap().len();
        let connection = spawn(serve(stream, number, Arc::clone(&state)));
        state.connections.lock().unwrap().push(connection);
    }
}

async fn serve(stream: TcpStream, number: usize, state: Arc<State>) {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read(&mut stream, number).await {
        let control = matches!(seen.path.as_str(), "/api/version" | "/api/tags" | "/api/ps" | "/v1/models");
        if control {
            state.control.lock().unwrap().push(seen.path.clone());
            let answer = Script::json(200, &lists(&state, &seen.path));
            if !play(&mut stream, answer, &state).await {
                return;
            }
            continue;
        }
        let script = state.scripts.lock().unwrap().pop_front();
        let answer =
            script.unwrap_or_else(|| Script::json(200, &json!({ "from": state.name, "done": true }).to_string()));
        *state.calls.lock().unwrap() += 1;
        state.saw.send(seen).ok();
        if !play(&mut stream, answer, &state).await {
            return;
        }
    }
}

fn lists(state: &State, path: &str) -> String {
    if path != "/api/version"
        && let Some(lists) = state.lists.lock().unwrap().clone()
    {
        return lists;
    }
    let models = state.models.lock().unwrap().clone();
    let value = match path {
        "/api/version" => json!({ "version": *state.version.lock().unwrap() }),
        "/v1/models" => {
            let entry = |model: &String| json!({ "id": model, "object": "model", "created": 1, "owned_by": "me" });
            json!({ "object": "list", "data": models.iter().map(entry).collect::<Vec<_>>() })
        }
        "/api/ps" => json!({ "models": models.iter().take(1).map(entry).collect::<Vec<_>>() }),
        _ => json!({ "models": models.iter().map(entry).collect::<Vec<_>>() }),
    };
    value.to_string()
}

fn entry(model: &String) -> Value {
    json!({
        "name": model, "model": model, "modified_at": "2026-01-01T00:00:00Z", "size": 4_000_000_000_u64,
        "digest": "d", "details": { "parameter_size": "8.0B" },
    })
}

/// Reads one request; none at the end of the connection.
async fn read(stream: &mut BufReader<TcpStream>, connection: usize) -> Option<Seen> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HeaderMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.append(http::HeaderName::try_from(name).ok()?, value.trim().parse().ok()?);
    }
    let body = match headers.get("content-length") {
        Some(length) => piece(stream, length.to_str().unwrap().parse().unwrap()).await?,
        None if headers.contains_key("transfer-encoding") => chunks(stream).await?,
        None => Vec::new(),
    };
    Some(Seen { method, path, headers, body: String::from_utf8(body).ok()?, connection })
}

async fn piece(stream: &mut BufReader<TcpStream>, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

/// The pieces of a chunked body, joined.
async fn chunks(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let chunk = piece(stream, length + 2).await?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk.get(..length)?);
    }
}

/// Plays an answer; false when the connection is over.
async fn play(stream: &mut BufReader<TcpStream>, script: Script, state: &State) -> bool {
    for step in script.0 {
        let bytes = match step {
            Step::Head(status, kind) => {
                format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n")
                    .into_bytes()
            }
            Step::Chunk(bytes) => [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat(),
            Step::End => b"0\r\n\r\n".to_vec(),
            Step::Raw(text) => text.into_bytes(),
            Step::Wait(gate) => {
                tokio::select! {
                    () = gate.notified() => continue,
                    () = other_side_closed(stream) => {
                        state.was_closed.send(()).ok();
                        return false;
                    }
                }
            }
            Step::Stall => {
                other_side_closed(stream).await;
                state.was_closed.send(()).ok();
                return false;
            }
            Step::Reset => {
                stream.get_ref().set_zero_linger().ok();
                return false;
            }
            Step::Close => return false,
        };
        if stream.get_mut().write_all(&bytes).await.is_err() {
            state.was_closed.send(()).ok();
            return false;
        }
    }
    true
}

async fn other_side_closed(stream: &mut BufReader<TcpStream>) {
    let mut byte = [0];
    while matches!(stream.read(&mut byte).await, Ok(1)) {}
}
