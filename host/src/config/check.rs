//! From the raw tree to the checked [`Config`]: one function a section, then what must hold between sections.
//!
//! Every function asks the reader for its keys with their bounds and defaults, and always answers a value; the problems
//! gather in the reader.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::{GIB, KIB, MIB, TIB};
use figment::value::Value;

use super::Config;
use super::backend_url::{BackendUrl, BackendUrlError};
use super::error::Complaint;
use super::reader::{Reader, Section};
use super::sections::{
    Admin, Backend, BackendKind, Http2, Limits, Log, LogFormat, Models, Policies, Server, Store, TlsFiles, Upstream,
};
use super::sharing::redis;
use super::values::{self, Checked};

/// Any duration without narrower bounds of its own.
const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);
const CPU_BUDGETS: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_millis(100);
const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(32_768).expect("not zero");
const MAX_IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
const MAX_HEAD: u32 = 64 << 10;
const MIN_BLOB_RATE: NonZeroU64 = NonZeroU64::new(1 << 10).expect("not zero");
const MAX_HEADERS: NonZeroUsize = NonZeroUsize::new(100).expect("not zero");
/// As many as any limit may name.
const TOKENS_MAX: u64 = (1 << 53) - 1;
const BACKENDS_MAX: usize = 1024;
pub(super) const WEIGHTS: RangeInclusive<u64> = 1..=1000;
const SETTLE_QUEUE: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
const SETTLE_QUEUE_MAX: u64 = 100_000;
const MASKED_HEADERS_MAX: usize = 64;
const RAW_CREDENTIAL_MAX: usize = 64;
const ADMIN_HOSTS_MAX: usize = 16;

pub(super) const KINDS: &[(&str, BackendKind)] = &[("ollama", BackendKind::Ollama), ("openai", BackendKind::OpenAi)];
const FORMATS: &[(&str, LogFormat)] =
    &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
const LEVELS: &[(&str, &str)] =
    &[("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];

/// Reads everything; the answer may be used only if `reader` has found no problem by then.
pub(super) fn config(reader: &Reader) -> Config {
    let config = reader.root(|root| {
        let written = root.optional("state_dir", values::path);
        let state_dir = root.resolve("state_dir", written.as_deref().unwrap_or(Path::new("tollgate-state")));
        let upstream = root.table("upstream", upstream);
        Config {
            server: root.table("server", server),
            admin: root.table("admin", admin),
            store: root.table("store", |keys| store(keys, &state_dir)),
            redis: root.optional_table("redis", redis),
            policies: root.table("policies", policies),
            limits: root.table("limits", limits),
            models: root.table("models", |keys| Models { allow_cloud: keys.or("allow_cloud", false, values::boolean) }),
            backends: backends(root, upstream.allow_link_local),
            log: root.table("log", log),
            upstream,
            state_dir,
        }
    });
    if config.server.max_buffered < config.server.max_body {
        let complaint = Complaint::new("max_buffered is less than max_body, so the largest body could never be read");
        reader.complain_between(&["server.max_buffered", "server.max_body"], complaint.with_hint("raise max_buffered"));
    }
    if collide(config.server.listen, config.admin.listen) {
        let complaint = Complaint::new("server.listen and admin.listen are the same address");
        reader
            .complain_between(&["admin.listen", "server.listen"], complaint.with_hint("give one of them another port"));
    }
    config
}

fn server(keys: &mut Section<'_>) -> Server {
    let duration = || values::duration(DURATIONS);
    Server {
        listen: keys.or("listen", loopback(8080), values::address),
        threads: keys.optional("threads", values::count(1024)),
        tls: tls(keys),
        http2: keys.table("http2", http2),
        max_connections: keys.or("max_connections", MAX_CONNECTIONS, values::count(1_000_000)),
        max_in_flight: keys.or("max_in_flight", MAX_IN_FLIGHT, values::count(1_000_000)),
        max_head: keys.or("max_head", MAX_HEAD, |value| {
            let bytes = values::size(8 * KIB..=MIB)(value)?;
            u32::try_from(bytes).map_err(|_| Complaint::new("out of range"))
        }),
        max_headers: keys.or("max_headers", MAX_HEADERS, values::count(1000)),
        first_byte_timeout: keys.or("first_byte_timeout", Duration::from_secs(10), duration()),
        handshake_timeout: keys.or("handshake_timeout", Duration::from_secs(10), duration()),
        head_timeout: keys.or("head_timeout", Duration::from_secs(10), duration()),
        keep_alive_timeout: keys.or("keep_alive_timeout", Duration::from_secs(75), duration()),
        body_idle_timeout: keys.or("body_idle_timeout", Duration::from_secs(30), duration()),
        body_timeout: keys.or("body_timeout", Duration::from_secs(300), duration()),
        max_body: keys.or("max_body", 32 * MIB, values::size(KIB..=GIB)),
        max_buffered: keys.or("max_buffered", 512 * MIB, values::size(KIB..=TIB)),
        max_blob: keys.or("max_blob", 64 * GIB, values::size(KIB..=TIB)),
        min_blob_rate: keys.or("min_blob_rate", MIN_BLOB_RATE, |value| {
            let bytes = values::size(1..=GIB)(value)?;
            NonZeroU64::new(bytes).ok_or_else(|| Complaint::new("may not be 0"))
        }),
        expose_backend: keys.or("expose_backend", true, values::boolean),
        drain_timeout: keys.or("drain_timeout", Duration::from_secs(60), duration()),
    }
}

/// TLS is on when the table is there; half of it is a mistake, never plain HTTP.
fn tls(keys: &mut Section<'_>) -> Option<TlsFiles> {
    keys.optional_table("tls", |keys| {
        let cert = keys.required("cert", values::path).map(|path| keys.resolve("cert", &path));
        let key = keys.required("key", values::path).map(|path| keys.resolve("key", &path));
        Some(TlsFiles { cert: cert?, key: key? })
    })
}

fn http2(keys: &mut Section<'_>) -> Http2 {
    Http2 {
        max_streams: keys.or("max_streams", 128, values::whole(1..=10_000)),
        max_resets: keys.or("max_resets", 20, values::whole(1..=10_000)),
        ping_interval: keys.or("ping_interval", Duration::from_secs(30), values::duration(DURATIONS)),
        ping_timeout: keys.or("ping_timeout", Duration::from_secs(10), values::duration(DURATIONS)),
    }
}

fn admin(keys: &mut Section<'_>) -> Admin {
    let listen = keys.or("listen", loopback(8081), |value| {
        let address = values::address(value)?;
        if address.ip().to_canonical().is_loopback() {
            return Ok(address);
        }
        let complaint = Complaint::new("must be a loopback address: this listener has no TLS yet");
        Err(complaint.with_hint("listen on 127.0.0.1 and reach it through an SSH tunnel or a proxy with TLS"))
    });
    Admin { listen, hosts: keys.list("hosts", ADMIN_HOSTS_MAX, values::host_name) }
}

fn store(keys: &mut Section<'_>, state_dir: &Path) -> Store {
    let written = keys.optional("url", sqlite_path);
    Store { path: written.map_or_else(|| state_dir.join("tollgate.db"), |path| keys.resolve("url", &path)) }
}

/// The path in `sqlite://PATH` or `sqlite:PATH`, as it stands there: nothing is unescaped.
fn sqlite_path(value: &Value) -> Checked<PathBuf> {
    let hint = "write \"sqlite://PATH\"";
    let url = values::text(value)?;
    let Some(rest) = url.strip_prefix("sqlite:") else {
        return Err(Complaint::new("only sqlite is supported by this version").with_hint(hint));
    };
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path.ends_with('/') || path == ":memory:" {
        return Err(Complaint::new("must name a file").with_hint(hint));
    }
    if path.contains(['?', '#']) {
        return Err(Complaint::new("takes no options").with_hint(hint));
    }
    Ok(PathBuf::from(path))
}

fn policies(keys: &mut Section<'_>) -> Policies {
    let folder = keys.optional("folder", values::path).map(|path| keys.resolve("folder", &path));
    if let Some(folder) = folder.as_deref().filter(|folder| !folder.is_dir()) {
        let complaint = Complaint::new(format!("{} is not a folder", folder.display()));
        keys.complain("folder", complaint.with_hint("create it, or leave the key out for the built-in policies"));
    }
    Policies {
        folder,
        cpu_budget: keys.or("cpu_budget", Duration::from_millis(2), values::duration(CPU_BUDGETS)),
        memory: keys.or("memory", 64 * MIB, values::size(MIB..=GIB)),
        settle_queue: keys.or("settle_queue", SETTLE_QUEUE, values::count(SETTLE_QUEUE_MAX)),
        masked_headers: keys.list("masked_headers", MASKED_HEADERS_MAX, values::header_name),
        raw_credential: keys.list("raw_credential", RAW_CREDENTIAL_MAX, values::text),
    }
}

fn limits(keys: &mut Section<'_>) -> Limits {
    let most = |max: u64| {
        move |value: &Value| {
            let number = values::whole(1..=max)(value)?;
            NonZeroU64::new(number).ok_or_else(|| Complaint::new("may not be 0"))
        }
    };
    Limits {
        requests_per_minute: keys
            .optional("requests_per_minute", most(1_000_000_000))
            .unwrap_or(const { NonZeroU64::new(100).expect("not zero") }),
        tokens_per_minute: keys.optional("tokens_per_minute", most(TOKENS_MAX)),
        concurrent: keys.optional("concurrent", most(1_000_000)),
        tokens_per_day: keys.optional("tokens_per_day", most(TOKENS_MAX)),
        tokens_per_month: keys.optional("tokens_per_month", most(TOKENS_MAX)),
        max_counters: keys.or("max_counters", 1_000_000, values::whole(64..=100_000_000)),
        max_counters_per_principal: keys.or("max_counters_per_principal", 1_000, values::whole(32..=1_000_000)),
    }
}

fn upstream(keys: &mut Section<'_>) -> Upstream {
    let mut duration = |key, default| keys.or(key, Duration::from_secs(default), values::duration(DURATIONS));
    Upstream {
        connect_timeout: duration("connect_timeout", 5),
        first_byte_timeout: duration("first_byte_timeout", 300),
        idle_timeout: duration("idle_timeout", 120),
        management_timeout: duration("management_timeout", 30 * 60),
        probe_interval: duration("probe_interval", 5),
        probe_timeout: duration("probe_timeout", 2),
        refresh_interval: duration("refresh_interval", 60),
        allow_link_local: keys.or("allow_link_local", false, values::boolean),
        ca: keys.optional("ca", values::path).map(|path| keys.resolve("ca", &path)),
    }
}

fn backends(root: &mut Section<'_>, allow_link_local: bool) -> Vec<Backend> {
    let (mut names, mut urls) = (Seen(HashMap::new()), Seen(HashMap::new()));
    let mut index = 0;
    root.tables("backends", BACKENDS_MAX, |keys| {
        let name = keys.required("name", |value| names.first(index, backend_name(value)?, "name"));
        let url = keys.required("url", |value| urls.first(index, backend_url(value, allow_link_local)?, "URL"));
        let kind = keys.or("kind", BackendKind::default(), values::choice(KINDS));
        let weight = keys.or("weight", 1, values::whole(WEIGHTS));
        let anthropic = keys.or("anthropic", false, |value| speaks_anthropic(values::boolean(value)?, kind));
        index += 1;
        Some(Backend { name: name?, url: url?, kind, weight, anthropic })
    })
}

pub(super) fn backend_name(value: &Value) -> Checked<String> {
    let name = values::text(value)?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_plain && !name.starts_with('-') && name.len() <= 32 {
        return Ok(name);
    }
    let complaint = Complaint::new("must be 1 to 32 small letters, digits and hyphens, not beginning with a hyphen");
    Err(complaint.with_hint("choose a name like \"gpu-1\""))
}

/// Whether a backend of this kind answers in Anthropic's API too, if it may say so.
pub(super) fn speaks_anthropic(is_said: bool, kind: BackendKind) -> Checked<bool> {
    if is_said && kind == BackendKind::Ollama {
        let complaint = Complaint::new("is for backends of kind \"openai\"");
        return Err(complaint.with_hint("leave it out: an ollama backend tells its version"));
    }
    Ok(is_said)
}

pub(super) fn backend_url(value: &Value, allow_link_local: bool) -> Checked<BackendUrl> {
    BackendUrl::parse(&values::text(value)?, allow_link_local).map_err(|error| {
        let hint = match error {
            BackendUrlError::LinkLocal => "set upstream.allow_link_local = true if this is meant",
            BackendUrlError::UserInfo | BackendUrlError::Query | BackendUrlError::Fragment => "leave that part out",
            _ => "write it like \"http://127.0.0.1:11434\"",
        };
        Complaint::new(error.to_string()).with_hint(hint)
    })
}

fn log(keys: &mut Section<'_>) -> Log {
    Log {
        level: keys.or("level", "info", values::choice(LEVELS)).to_owned(),
        format: keys.or("format", LogFormat::default(), values::choice(FORMATS)),
    }
}

/// What earlier backends have taken already.
struct Seen<T>(HashMap<T, usize>);

impl<T: Clone + Eq + Hash> Seen<T> {
    /// `value`, if the backend at `index` is the first with it.
    fn first(&mut self, index: usize, value: T, what: &str) -> Checked<T> {
        let owner = *self.0.entry(value.clone()).or_insert(index);
        if owner == index {
            return Ok(value);
        }
        let complaint = Complaint::new(format!("the same {what} as backends[{owner}]"));
        Err(complaint.with_hint("every backend needs one of its own"))
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Would one listener take the other's address?
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() != 0 && one.port() == other.port() && (ip == other_ip || covers(ip, other_ip) || covers(other_ip, ip))
}

/// Is `ip` a wildcard that takes its port on `other` too? The IPv6 one does so for IPv4.
fn covers(ip: IpAddr, other: IpAddr) -> bool {
    ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4())
}
