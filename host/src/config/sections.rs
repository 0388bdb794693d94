//! The sections of the configuration, as meant: plain values with their units and defaults.
//!
//! Field docs are the reference of the configuration file. Only the checks next door make these values; what holds of a
//! field is written at it. Every duration is at most a day and, where nothing else is said, at least a millisecond.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::backend_url::BackendUrl;

/// The port for LLM callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Address and port to listen on; port 0 lets the system choose. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Worker threads, 1 to 1024. Default: as many as the machine has cores, which is `None` here.
    pub threads: Option<NonZeroUsize>,
    /// Certificate and key, for TLS on this port: it then speaks nothing else. Default: none, plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Bounds of HTTP/2, which callers may speak over TLS.
    pub http2: Http2,
    /// Most connections at a time, up to 1,000,000; more wait in the system's queue. Fewer where the system allows the
    /// process fewer open files. Default 32,768.
    pub max_connections: NonZeroUsize,
    /// Most calls at a time, up to 1,000,000; more are refused with 503. Default 4,096.
    pub max_in_flight: NonZeroUsize,
    /// Largest head of a request, in bytes, `8KiB` to `1MiB`; a larger one is refused with 431. Default `64KiB`.
    pub max_head: u32,
    /// Most header lines of a request over HTTP/1.1, 1 to 1,000; more are refused with 431. Default 100.
    pub max_headers: NonZeroUsize,
    /// Time within which a new connection must send its first byte. Default `10s`.
    pub first_byte_timeout: Duration,
    /// Time for a TLS handshake. Default `10s`.
    pub handshake_timeout: Duration,
    /// Time within which a request's head must be complete, once it has begun. Default `10s`.
    pub head_timeout: Duration,
    /// How long a connection without a call is kept open. Default `75s`.
    pub keep_alive_timeout: Duration,
    /// Longest pause between two pieces of a request's body. Default `30s`.
    pub body_idle_timeout: Duration,
    /// Most time for a request's body, blobs excepted. Default `5m`.
    pub body_timeout: Duration,
    /// Largest request body, in bytes, `1KiB` to `1GiB`. Default `32MiB`.
    pub max_body: u64,
    /// Most bytes of bodies held at a time over all calls, up to `1TiB` and not less than `max_body`. Default
    /// `512MiB`.
    pub max_buffered: u64,
    /// Largest blob that a key which may manage can upload, in bytes, `1KiB` to `1TiB`; it passes through and is never
    /// held. Default `64GiB`.
    pub max_blob: u64,
    /// Fewest bytes a second of a blob, `1B` to `1GiB`: one may lag behind that by `body_idle_timeout` at most. Only the time
    /// counts in which the caller is waited for, not the backend. Default `1KiB`.
    pub min_blob_rate: NonZeroU64,
    /// Whether responses name their backend in `x-tollgate-backend`. Default true.
    pub expose_backend: bool,
    /// Time that running calls get to finish when tollgate stops. Default `60s`.
    pub drain_timeout: Duration,
}

/// A certificate and its key, both PEM. Changed files are taken while tollgate runs; a pair that can't be used is not, and
/// the one before it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its authority. Required.
    pub cert: PathBuf,
    /// Its private key. Required.
    pub key: PathBuf,
}

/// What one caller may do on one HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Most calls at a time on one connection, 1 to 10,000. Default 128.
    pub max_streams: u32,
    /// Most calls that a caller may have taken back before they were looked at, 1 to 10,000; more end the connection (the
    /// "rapid reset" attack, CVE-2023-44487). Default 20.
    pub max_resets: usize,
    /// Time between two pings on a connection. Default `30s`.
    pub ping_interval: Duration,
    /// Time within which a ping must be answered; a connection that doesn't is closed. Default `10s`.
    pub ping_timeout: Duration,
}

/// The port for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address and port to listen on: a loopback address, because this listener has no TLS, and one that doesn't
    /// collide with `server.listen`. Default `127.0.0.1:8081`.
    pub listen: SocketAddr,
    /// Names, without a port, by which this listener may be asked besides `localhost` and loopback addresses, at most
    /// 16: those of a tunnel or a proxy before it. Anything else in a request's `host` is refused, because a web page
    /// may have its own name point here (DNS rebinding). Default: none.
    pub hosts: Vec<String>,
}

/// Where keys, users and usage are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The SQLite file, absolute; taken from `url = "sqlite://PATH"`. Default: `tollgate.db` in `state_dir`.
    pub path: PathBuf,
}

/// Where policies are found and what they may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Folder with `NAME.wasm` files; it existed when the configuration was read. Default: none, only the
    /// built-in policies.
    pub folder: Option<PathBuf>,
    /// CPU time of one hook of one policy that says nothing of its own in `NAME.toml`, `100us` to `100ms`. Default `2ms`.
    pub cpu_budget: Duration,
    /// The most that `NAME.toml` may give a hook, `100us` to `100ms`, and no less than `cpu_budget`. Default `20ms`, or
    /// `cpu_budget` where that is more.
    pub max_cpu_budget: Duration,
    /// Memory of one instance of a policy that says nothing of its own, in bytes, `1MiB` to `1GiB`. Default `64MiB`.
    pub memory: u64,
    /// The most that `NAME.toml` may give a policy, `1MiB` to `1GiB`, and no less than `memory`. Default `256MiB`, or
    /// `memory` where that is more.
    pub max_memory: u64,
    /// One decision in so many is made a second time on a fresh instance, to find policies that decide by what earlier calls
    /// left in their memory, ten a second of each policy at most; up to 1,000,000,000. 0: never. Default 1000.
    pub recheck_every: u32,
    /// Whether a policy that asks for more than before waits until somebody approves it. Default `none`.
    pub approve: Approve,
    /// `[policies.breaker]`: when a policy that keeps failing is no longer asked.
    pub breaker: BreakerRules,
    /// Calls that are over and wait for the policies that want to know what they came to, 1 to 100,000. What finds no place is
    /// not told. Default 1024.
    pub settle_queue: NonZeroUsize,
    /// Whether answers say in `x-tollgate-decisions` which versions of which policies decided. Default `off`.
    pub provenance: Provenance,
    /// Headers that policies never see, besides credentials and cookies, at most 64. Default: none.
    pub masked_headers: Vec<HeaderName>,
}

/// Who is told which policies decided on a call, beside the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provenance {
    /// `off`: nobody.
    #[default]
    Off,
    /// `header`: every caller, in the head of the answer. They learn the names, versions and order of the policies.
    Header,
}

/// Which policies wait for somebody's approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approve {
    /// `none`: a file in the folder is enough.
    #[default]
    None,
    /// `new-capabilities`: those that can do what the policy of that name was not approved to do, be it built in or approved
    /// by `tollgate policies approve`. Writing to the log needs no approval.
    NewCapabilities,
}

/// When a policy that keeps failing is no longer asked, and when it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    /// Faults within `window` that open it, up to 1,000,000; 0: it never opens. Default 20.
    pub faults: u32,
    /// Faults are counted within this time, `100ms` to `1h`. Default `10s`.
    pub window: Duration,
    /// Share of the policy's calls since the first of these faults that must have failed as well, in percent, 1 to 100: one
    /// odd call now and then opens nothing. Default 50.
    pub percent: u32,
    /// Time until a policy is tried again, `10ms` to `1h`; twice as long after each try that fails. Default `1s`.
    pub pause: Duration,
    /// The longest time, no less than `pause`, up to `24h`; a policy that has worked this long is new to its breaker. Default
    /// `60s`.
    pub max_pause: Duration,
    /// Openings in a row after which it isn't tried any more until its file changes, somebody asks for a reload, or the gate is
    /// restarted, 1 to 1000.
    /// Default 8.
    pub quarantine_after: u32,
}

/// Limits of keys that have none of their own: each counts for a key where neither it nor its user has the limit of the
/// same name. They hold for each key by itself and for all models together; listings and management are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls in any minute; up to 1,000,000,000. Default 100.
    pub requests_per_minute: NonZeroU64,
    /// Tokens in any minute, input and output; up to 2^53 - 1. Default: unlimited.
    pub tokens_per_minute: Option<NonZeroU64>,
    /// Calls at the same time; up to 1,000,000. Default: unlimited.
    pub concurrent: Option<NonZeroU64>,
    /// Tokens in a day of UTC; up to 2^53 - 1. Default: unlimited.
    pub tokens_per_day: Option<NonZeroU64>,
    /// Tokens in a month of UTC; up to 2^53 - 1. Default: unlimited.
    pub tokens_per_month: Option<NonZeroU64>,
    /// Most counters of limits held at a time, 64 to 100,000,000; each takes up to 512 bytes. A call that needs one more is
    /// refused with 503 while none of them is empty; some already a little before, for counters don't spread evenly.
    /// Default 1,000,000.
    pub max_counters: usize,
    /// Most of them for what one policy charges one principal, 32 to 1,000,000; a call that needs more is refused with 429.
    /// Default 1,000.
    pub max_counters_per_principal: u32,
}

/// Which models may be asked for at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Models {
    /// Whether `:cloud` models, which leave the machine, may be used. Default false.
    pub allow_cloud: bool,
}

/// How backends are talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Time until a connection to a backend can be used: resolving its name, connecting and shaking hands. Default `5s`.
    pub connect_timeout: Duration,
    /// Time from sending a request, connecting included, to the first byte of the answer: a model may have to be loaded. Default `300s`.
    pub first_byte_timeout: Duration,
    /// Longest pause within an answer, from the backend or in the caller's taking it. Default `120s`.
    pub idle_timeout: Duration,
    /// The same, and the time to the first byte, for what changes a backend (pull, create and the like): a large model is
    /// verified or converted without a word. Default `30m`.
    pub management_timeout: Duration,
    /// Time between two health probes of a backend. Default `5s`.
    pub probe_interval: Duration,
    /// Time for the answer to a probe. Default `2s`.
    pub probe_timeout: Duration,
    /// Time between two readings of a backend's list of models. Default `60s`.
    pub refresh_interval: Duration,
    /// Whether backends may have link-local and instance-metadata addresses. Unsafe: clouds serve machine credentials
    /// there. Holds for what their names lead to as well. Default false.
    pub allow_link_local: bool,
    /// PEM file with the authorities that certify backends on TLS, besides those of the public web. Default: none.
    pub ca: Option<PathBuf>,
}

/// One LLM server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique name: 1 to 32 small letters, digits and hyphens, not beginning with a hyphen. Required.
    pub name: String,
    /// Unique address. Required.
    pub url: BackendUrl,
    /// What kind of server it is. Default `ollama`.
    pub kind: BackendKind,
    /// What policies are told as its weight, 1 to 1000; the built-in `round-robin` takes backends in turn. Default 1.
    pub weight: u32,
    /// Whether an `openai` server answers `/v1/messages` in Anthropic's API too, as vLLM and llama.cpp's server do in
    /// newer versions. An `ollama` server is asked for its version instead. Default false.
    pub anthropic: bool,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// `ollama`: Ollama's own API and, as far as its version has them, OpenAI's and Anthropic's; model names as Ollama reads
    /// them.
    #[default]
    Ollama,
    /// `openai`: the OpenAI API; model names are exact and case-sensitive.
    OpenAi,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is logged: `error`, `warn`, `info`, `debug` or `trace`. Default `info`.
    pub level: String,
    /// How lines look. Default `auto`.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `auto`: text on a terminal, JSON anywhere else.
    #[default]
    Auto,
    /// `text`: for people.
    Text,
    /// `json`: one object a line.
    Json,
}
