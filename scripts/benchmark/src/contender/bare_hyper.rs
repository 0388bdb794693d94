//! Bare hyper: this binary's own forwarder, in a process of its own like the others.

use super::{Bench, Kind, NO_KEY, SetUp, free_ports};
use crate::{
    failure::Failure,
    load::Target,
    process::{Cores, on},
};

pub(super) fn set_up(bench: &Bench) -> Result<SetUp, Failure> {
    let [address] = free_ports()?;
    let mut command = on(Cores::Measured, &std::env::current_exe()?);
    command.args(["forward", "--listen", &address.to_string(), "--backend", &bench.backend.to_string()]);
    let target = Target { address, tls: None };
    Ok(SetUp {
        name: "bare hyper",
        command,
        log: bench.log(Kind::BareHyper),
        whole: target.clone(),
        streams: target,
        key: NO_KEY.to_owned(),
        sharing: None,
    })
}
