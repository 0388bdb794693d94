//! HAProxy: one thread, connections to the backend reused, no log.

use super::{Bench, Kind, NO_KEY, SetUp, free_ports};
use crate::{
    failure::Failure,
    load::Target,
    process::{Cores, on},
};

pub(super) fn set_up(bench: &Bench) -> Result<SetUp, Failure> {
    let [address] = free_ports()?;
    let config = format!(
        "global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-no-delay
  http-reuse always
frontend callers
  bind {address} backlog 4096
  default_backend servers
backend servers
  server one {backend} pool-max-conn -1
",
        backend = bench.backend,
    );
    let path = bench.write("haproxy.cfg", &config)?;
    let mut command = on(Cores::Measured, &bench.programs.haproxy);
    command.arg("-db").arg("-f").arg(path).stdout(std::process::Stdio::null());
    let target = Target { address, tls: None };
    Ok(SetUp {
        name: "HAProxy",
        command,
        log: bench.log(Kind::Haproxy),
        whole: target.clone(),
        streams: target,
        key: NO_KEY.to_owned(),
        sharing: None,
    })
}
