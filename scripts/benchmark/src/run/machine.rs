//! What the machine is, as far as figures depend on it.

use std::fs;

use super::results::Machine;
use crate::failure::Failure;

pub(crate) fn look() -> Result<Machine, Failure> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let kib = after(&memory, "MemTotal").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    Ok(Machine {
        processor: after(&processors, "model name").unwrap_or_else(|| "unknown".to_owned()),
        cores: processors.lines().filter(|line| line.starts_with("processor")).count(),
        memory_mib: kib.unwrap_or(0) / 1024,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
    })
}
