//! Ten thousand connections that wait for their next call, ten thousand that never say a word, all from other processes
//! than the gate and its callers: the callers are served as before, and how long they wait is printed.
//!
//! `cargo test --test crowd` runs it; a plain `cargo test` leaves it out. Run with `crowd` and what to do, this same program
//! is the crowd.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "where something is wrong it shall panic"
)]
#![expect(clippy::print_stdout, reason = "the figures are what this is for")]

#[path = "it/support/mod.rs"]
#[expect(dead_code, unused_imports, unreachable_pub, reason = "the bench of `it`, of which little is needed")]
mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use support::{LlmServer, TestProxy, binary::Running};

/// Connections of each of the two kinds.
const CROWD: usize = 10_000;
/// Descriptors that the gate keeps for all but its callers: 256, and one for each call that may run; and then some.
const SPARE: usize = 500;
const CALLERS: usize = 8;
const CALLS: usize = 3_000;
/// Connections that one thread of the crowd makes.
const SHARE: usize = 2_500;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, kind, address, count] = arguments.as_slice()
        && word == "crowd"
    {
        stand_around(kind == "idle", address.parse().unwrap(), count.parse().unwrap());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(callers_are_served_as_before());
}

async fn callers_are_served_as_before() {
    let count = fitting(CROWD);
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = Gate::start(&server).await;
    let calls = |when| measure(when, gate.data_plane, &gate.key);
    measure("warming up", gate.data_plane, &gate.key).await;
    let before = calls("before").await;
    let (idle, silent) = (Crowd::of("idle", gate.data_plane, count), Crowd::of("silent", gate.data_plane, count));
    // To a client a connection is made before the gate has taken it.
    support::until("the whole crowd", async || gate.open_connections().await >= 2 * count).await;
    let open = gate.open_connections().await;
    println!("{open} connections are open: {count} idle, {count} silent, and the callers'");
    let with = calls("with the crowd").await;
    let open = gate.open_connections().await;
    assert!(open >= 2 * count, "the crowd has stayed: {open}");
    drop((idle, silent));
    support::until("the crowd's leaving", async || gate.open_connections().await < 2 * CALLERS).await;
    let after = calls("after").await;
    let change = |base: Duration| (with.as_secs_f64() / base.as_secs_f64() - 1.0) * 100.0;
    println!("p99 with the crowd: {:+.1} % of before, {:+.1} % of after", change(before), change(after));
    let stopped = gate.running.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
}

/// As many connections of each kind as this machine lets one process have: twice that many are the gate's.
fn fitting(wanted: usize) -> usize {
    let needed = u64::try_from(2 * wanted + SPARE).unwrap();
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(u64::MAX).max(needed);
    for limit in [most, now.maximum.unwrap_or(needed)] {
        if setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).is_ok() {
            break;
        }
    }
    let fits = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
    let count = wanted.min(fits.saturating_sub(SPARE) / 2);
    if count < wanted {
        println!("only {count} connections of each kind fit: a process may have {fits} descriptors here");
    }
    count
}

/// A gate in a process of its own.
struct Gate {
    running: Running,
    data_plane: SocketAddr,
    admin: SocketAddr,
    key: String,
    _folder: TempDir,
}

impl Gate {
    async fn start(server: &LlmServer) -> Self {
        let (folder, key) = TestProxy::builder().backend(server).write().await;
        let sets = [
            "server.max_connections=25000",
            "server.max_in_flight=100",
            "server.first_byte_timeout=1h",
            "server.keep_alive_timeout=1h",
            "limits.requests_per_minute=1000000000",
            "log.format=json",
        ];
        let sets = sets.into_iter().flat_map(|set| ["--set", set]);
        let arguments: Vec<&str> = ["serve"].into_iter().chain(sets).collect();
        let mut running = Running::start(folder.path(), &arguments);
        let serving = running.on_stderr(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
            (line["message"] == "serving").then_some(line)
        });
        let address = |which: &str| serving[which].as_str().unwrap().parse().unwrap();
        Self { running, data_plane: address("data_plane"), admin: address("admin"), key, _folder: folder }
    }

    async fn open_connections(&self) -> usize {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let metrics = client.get(format!("http://{}/metrics", self.admin)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let open = metrics.lines().find_map(|line| line.strip_prefix("tollgate_connections_open "));
        open.unwrap().parse().unwrap()
    }
}

/// The other process; it goes when this is dropped.
struct Crowd(Child);

impl Crowd {
    /// Comes back when all of it is there.
    fn of(kind: &str, address: SocketAddr, count: usize) -> Self {
        let program = std::env::current_exe().unwrap();
        let arguments = ["crowd", kind, &address.to_string(), &count.to_string()];
        let mut child =
            Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "all are there\n", "the {kind} crowd");
        Self(child)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The crowd: makes its connections, says so, and stands around until whoever started it is gone.
fn stand_around(is_idle: bool, address: SocketAddr, count: usize) {
    // Each kind has an address of its own, so that neither uses up the other's ports.
    let from = Ipv4Addr::new(127, 0, 0, if is_idle { 2 } else { 3 });
    let threads: Vec<_> = (0..count)
        .step_by(SHARE)
        .map(|done| {
            let share = SHARE.min(count - done);
            thread::spawn(move || (0..share).map(|_| one(is_idle, from, address)).collect::<Vec<_>>())
        })
        .collect();
    let all: Vec<TcpStream> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    println!("all are there");
    drop(std::io::stdin().read(&mut [0]));
    drop(all);
}

fn one(is_idle: bool, from: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    if is_idle {
        stream.write_all(b"HEAD /api/version HTTP/1.1\r\nhost: gate\r\n\r\n").unwrap();
        let mut said = [0; 4096];
        let length = stream.read(&mut said).unwrap();
        assert!(said[..length].starts_with(b"HTTP/1.1 200 ") && said[..length].ends_with(b"\r\n\r\n"));
    }
    stream
}

/// Calls of all callers, each with its next one as soon as it has the last; prints how long they took, and answers the
/// 99th percentile.
async fn measure(when: &str, gate: SocketAddr, key: &str) -> Duration {
    let callers = (0..CALLERS).map(|_| {
        let (url, key) = (format!("http://{gate}/api/chat"), key.to_owned());
        async move {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let mut took = Vec::with_capacity(CALLS / CALLERS);
            for _ in 0..CALLS / CALLERS {
                let began = now();
                let call = client.post(&url).bearer_auth(&key).body(r#"{"model":"llama3:latest","messages":[]}"#);
                let response = call.send().await.unwrap();
                assert_eq!(response.status(), 200, "{when}");
                response.bytes().await.unwrap();
                took.push(now() - began);
            }
            took
        }
    });
    let mut took: Vec<Duration> = futures_util::future::join_all(callers).await.concat();
    took.sort_unstable();
    let at = |permille: usize| took[(took.len() * permille / 1000).min(took.len() - 1)];
    println!("{when}: {} calls, p50 {:?}, p90 {:?}, p99 {:?}", took.len(), at(500), at(900), at(990));
    at(990)
}

fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap()
}
