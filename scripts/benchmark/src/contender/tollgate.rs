//! Tollgate: one thread, the built-in policies (key check, limit, route), metrics. The limit is too high to be reached.
//! Where Redis has it, one is started with each gate.

use std::{fs, path::Path, process::Command};

use super::{
    Bench, Kind, SetUp, free_ports,
    redis::{self, Sharing},
};
use crate::{
    failure::{Failure, Trying},
    load::Target,
    process::{Cores, on},
};

pub(super) fn set_up(bench: &Bench, kind: Kind) -> Result<SetUp, Failure> {
    let [address, admin] = free_ports()?;
    let is_tls = kind == Kind::TollgateTls;
    let tls = if is_tls {
        format!("tls = {{ cert = {:?}, key = {:?} }}", bench.tls.certificate, bench.tls.key)
    } else {
        String::new()
    };
    let redis = if kind == Kind::TollgateRedis { Some(redis::start(bench)?) } else { None };
    let sharing = match &redis {
        // The server shares its core with load and backend: a call that waits for that core is no sign of a slow Redis.
        Some((_, redis)) => format!("[redis]\nurl = \"redis://{redis}\"\ndeadline = \"1s\"\n"),
        None => String::new(),
    };
    let level = if kind == Kind::TollgateInfo { "info" } else { "warn" };
    let config = format!(
        r#"state_dir = {state:?}
[server]
listen = "{address}"
threads = 1
max_connections = 25000
max_in_flight = 25000
{tls}
[admin]
listen = "{admin}"
[limits]
requests_per_minute = 1000000000
{sharing}[log]
level = "{level}"
[[backends]]
name = "bench"
url = "http://{backend}"
"#,
        state = bench.folder.join("tollgate"),
        backend = bench.backend,
    );
    let path = bench.write(&format!("{kind:?}.toml"), &config)?;
    let key = key(bench, &path)?;
    let mut command = on(Cores::Measured, &bench.programs.tollgate);
    command.arg("--config").arg(path).arg("serve");
    let target = Target { address, tls: is_tls.then(|| bench.tls.client.clone()) };
    let log = bench.log(kind);
    let sharing = redis.map(|(server, _)| Sharing::new(server, admin));
    Ok(SetUp { name: "Tollgate", command, log, whole: target.clone(), streams: target, key, sharing })
}

/// The key of this run. The first time it is created, and the policies are compiled: starts are measured with a warm cache.
fn key(bench: &Bench, config: &Path) -> Result<String, Failure> {
    let kept = bench.folder.join("tollgate.key");
    if let Ok(key) = fs::read_to_string(&kept) {
        return Ok(key);
    }
    let text = command(bench, config, &["keys", "create", "--name", "benchmark"])?;
    let key = text.trim().to_owned();
    if !key.starts_with("op_") {
        return Err(Failure::new("`tollgate keys create` printed no key"));
    }
    command(bench, config, &["check"])?;
    fs::write(kept, &key)?;
    Ok(key)
}

fn command(bench: &Bench, config: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let mut command = Command::new(&bench.programs.tollgate);
    let output = command.arg("--config").arg(config).args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("`tollgate {}` failed: {}", arguments.join(" "), said.trim())));
    }
    String::from_utf8(output.stdout).trying("what it printed is no text")
}
