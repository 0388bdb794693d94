//! What is compared: each proxy with one thread, set up as its manual says for this use, before the same backend.

mod bare_hyper;
mod envoy;
mod haproxy;
mod nginx;
mod probe;
mod redis;
mod tollgate;

pub(crate) use self::redis::Sharing;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use clap::ValueEnum;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::{
    clock::now,
    failure::{Failure, Trying},
    load::{Target, client_tls},
    process::Process,
};

/// What can be measured.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// No proxy: the load calls the backend.
    Direct,
    /// nginx, forwarding.
    Nginx,
    /// HAProxy, forwarding.
    Haproxy,
    /// A forwarder made of hyper and nothing else: the floor under every proxy made of it.
    BareHyper,
    /// Envoy with our key filter in proxy-wasm.
    Envoy,
    /// Tollgate: key, limit and route in Wasm, metrics; warnings are logged.
    Tollgate,
    /// The same with its default log: a line for each call, into a file.
    TollgateInfo,
    /// Tollgate with its limits in a Redis of its own.
    TollgateRedis,
    /// Tollgate with TLS to callers.
    TollgateTls,
    /// nginx with TLS to callers, forwarding.
    NginxTls,
}

impl Kind {
    /// In the order of the table.
    pub(crate) const ALL: [Self; 10] = [
        Self::Direct,
        Self::Nginx,
        Self::Haproxy,
        Self::BareHyper,
        Self::Envoy,
        Self::Tollgate,
        Self::TollgateInfo,
        Self::TollgateRedis,
        Self::TollgateTls,
        Self::NginxTls,
    ];

    /// As the table heads its column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::BareHyper => "bare hyper",
            Self::Envoy => "Envoy + key filter",
            Self::Tollgate => "Tollgate",
            Self::TollgateInfo => "Tollgate, call log",
            Self::TollgateRedis => "Tollgate, Redis",
            Self::TollgateTls => "Tollgate, TLS",
            Self::NginxTls => "nginx, TLS",
        }
    }

    pub(crate) fn is_tollgate(self) -> bool {
        matches!(self, Self::Tollgate | Self::TollgateInfo | Self::TollgateRedis | Self::TollgateTls)
    }

    /// Whether a call without a known key is refused.
    pub(crate) fn checks_keys(self) -> bool {
        self == Self::Envoy || self.is_tollgate()
    }
}

/// The programs; one that is not there leaves its column out.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) tollgate: PathBuf,
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: PathBuf,
    pub(crate) envoy: PathBuf,
    pub(crate) envoy_filter: PathBuf,
    pub(crate) redis: PathBuf,
}

/// Where proxies are set up.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Configurations, logs and state; deleted with the run.
    folder: PathBuf,
    programs: Programs,
    backend: SocketAddr,
    tls: Tls,
}

/// A certificate for this run.
#[derive(Debug)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    client: Arc<ClientConfig>,
}

/// A proxy that serves.
#[derive(Debug)]
pub(crate) struct Running {
    /// None where there is no proxy.
    pub(crate) process: Option<Process>,
    pub(crate) whole: Target,
    /// Where streams go: nginx is set up for them on a port of its own.
    pub(crate) streams: Target,
    pub(crate) key: String,
    /// Where limits are in a Redis.
    pub(crate) sharing: Option<Sharing>,
    /// From the start of the process to its first answered call.
    pub(crate) started_in: Duration,
}

/// What the parts next door set up.
struct Prepared {
    process: Process,
    whole: Target,
    streams: Target,
    key: String,
    sharing: Option<Sharing>,
}

/// Tollgate, about to be started under callgrind.
#[derive(Debug)]
pub(crate) struct GateUnderCallgrind {
    pub(crate) command: Command,
    pub(crate) log: PathBuf,
    pub(crate) target: Target,
    pub(crate) key: String,
}

impl Programs {
    /// Where nothing else is needed.
    pub(crate) fn only_tollgate(tollgate: PathBuf) -> Self {
        let none = PathBuf::new;
        Self { tollgate, nginx: none(), haproxy: none(), envoy: none(), envoy_filter: none(), redis: none() }
    }
}

/// Presented where nobody looks at it.
const NO_KEY: &str = "none";

impl Bench {
    pub(crate) fn new(folder: PathBuf, programs: Programs, backend: SocketAddr) -> Result<Self, Failure> {
        let tls = Tls::make(&folder)?;
        Ok(Self { folder, programs, backend, tls })
    }

    /// Why this one can't be measured here; none when it can.
    pub(crate) fn missing(&self, kind: Kind) -> Option<String> {
        let programs = &self.programs;
        let needed: &[&Path] = match kind {
            Kind::Direct | Kind::BareHyper => &[],
            Kind::Nginx | Kind::NginxTls => &[&programs.nginx],
            Kind::Haproxy => &[&programs.haproxy],
            Kind::Envoy => &[&programs.envoy, &programs.envoy_filter],
            Kind::Tollgate | Kind::TollgateInfo | Kind::TollgateTls => &[&programs.tollgate],
            Kind::TollgateRedis => &[&programs.tollgate, &programs.redis],
        };
        needed.iter().find(|path| !path.is_file()).map(|path| format!("{} is not there", path.display()))
    }

    /// Starts one and waits until it answers a call with 200, and, where it checks keys, one without a key with 401.
    pub(crate) fn start(&self, kind: Kind) -> Result<Running, Failure> {
        if kind == Kind::Direct {
            let target = Target { address: self.backend, tls: None };
            let (whole, streams) = (target.clone(), target);
            let (key, started_in) = (NO_KEY.to_owned(), Duration::ZERO);
            return Ok(Running { process: None, whole, streams, key, sharing: None, started_in });
        }
        let set_up = match kind {
            Kind::Nginx | Kind::NginxTls => nginx::set_up(self, kind),
            Kind::Haproxy => haproxy::set_up(self),
            Kind::BareHyper => bare_hyper::set_up(self),
            Kind::Envoy => envoy::set_up(self),
            Kind::Tollgate | Kind::TollgateInfo | Kind::TollgateRedis | Kind::TollgateTls => {
                tollgate::set_up(self, kind)
            }
            Kind::Direct => Err(Failure::new("there is no proxy to set up")),
        };
        let set_up = set_up.trying(kind.title())?;
        let began = now();
        let mut prepared = set_up.start()?;
        let served = probe::until_served(&mut prepared, kind);
        let started_in = now().duration_since(began);
        served.trying(format_args!("{}; its log is {}", kind.title(), self.log(kind).display()))?;
        let Prepared { process, whole, streams, key, mut sharing } = prepared;
        if let Some(sharing) = &mut sharing {
            sharing.begin().trying(kind.title())?;
        }
        Ok(Running { process: Some(process), whole, streams, key, sharing, started_in })
    }

    /// Tollgate behind this command, with a budget that a hook doesn't spend even when it is slowed down.
    pub(crate) fn under_callgrind(&self, mut callgrind: Command) -> Result<GateUnderCallgrind, Failure> {
        let SetUp { command, log, whole, key, .. } = tollgate::set_up(self, Kind::Tollgate)?;
        // Without `taskset`: instructions are the same on every core.
        let mut words = command.get_args().skip_while(|word| *word != "--config");
        callgrind.arg(&self.programs.tollgate).args(&mut words);
        callgrind.args(["--set", "policies.cpu_budget=100ms"]);
        Ok(GateUnderCallgrind { command: callgrind, log, target: whole, key })
    }

    /// What each program calls itself.
    pub(crate) fn version(&self, kind: Kind) -> Option<String> {
        let (program, argument) = match kind {
            Kind::Nginx => (&self.programs.nginx, "-v"),
            Kind::Haproxy => (&self.programs.haproxy, "-v"),
            Kind::Envoy => (&self.programs.envoy, "--version"),
            Kind::Tollgate => (&self.programs.tollgate, "--version"),
            Kind::TollgateRedis => (&self.programs.redis, "--version"),
            Kind::Direct | Kind::BareHyper | Kind::NginxTls | Kind::TollgateInfo | Kind::TollgateTls => return None,
        };
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        // Envoy names its file, its commit, its version and how it was built.
        let envoy = line.split_once("version: ").and_then(|(_, text)| text.split('/').nth(1));
        Some(
            envoy.filter(|_| kind == Kind::Envoy).map_or_else(|| line.to_owned(), |version| format!("Envoy {version}")),
        )
    }

    fn log(&self, kind: Kind) -> PathBuf {
        self.folder.join(format!("{kind:?}.log"))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        fs::write(&path, text).trying(format_args!("{} can't be written", path.display()))?;
        Ok(path)
    }
}

/// What is about to be started.
struct SetUp {
    name: &'static str,
    command: Command,
    log: PathBuf,
    whole: Target,
    streams: Target,
    key: String,
    sharing: Option<Sharing>,
}

impl SetUp {
    fn start(mut self) -> Result<Prepared, Failure> {
        let process = Process::start(self.name, &mut self.command, &self.log)?;
        let Self { whole, streams, key, sharing, .. } = self;
        Ok(Prepared { process, whole, streams, key, sharing })
    }
}

impl Tls {
    fn make(folder: &Path) -> Result<Self, Failure> {
        let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        let made = rcgen::generate_simple_self_signed(names).trying("no certificate can be made")?;
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        fs::write(&certificate, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        let client = client_tls(&certificate)?;
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { certificate, key, client })
    }
}

/// So many ports that nobody listens on now.
pub(crate) fn free_ports<const COUNT: usize>() -> Result<[SocketAddr; COUNT], Failure> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); COUNT];
    // Held until all are known, so that none comes twice.
    let mut held = Vec::with_capacity(COUNT);
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}
