//! `tollgate policy bench`: what a policy costs, on warm instances, with its cases as inputs.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::file::{Loaded, PolicyArguments};
use crate::{
    cli::{
        Format,
        output::{self, Failure},
    },
    clock::{Clock, thread_cpu},
    wasm::{Cases, Rehearsal},
};

/// Each case is measured no longer than this, however slow it is.
const LONGEST: Duration = Duration::from_secs(5);

/// Calls before the first that is measured: they fault pages in and warm caches.
const WARM_UP: u32 = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    policy: PolicyArguments,
    /// The inputs; without it NAME.cases.json beside NAME.wasm, or a plain call for each hook
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Calls for each case, as far as they are made within 5 seconds
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
}

#[derive(Debug, Serialize)]
struct Measured {
    case: String,
    hook: &'static str,
    calls: usize,
    /// Of one warm call.
    fuel: u64,
    p50_us: f64,
    p99_us: f64,
    memory_bytes: usize,
    /// Calls that ended in a fault.
    faults: usize,
}

pub(super) fn bench(arguments: &Bench, format: Format) -> Result<(), Failure> {
    let (timed, metered) = (arguments.policy.load()?, arguments.policy.load_metered()?);
    let cases = match arguments.policy.cases(arguments.cases.as_deref())? {
        Some(cases) if !cases.is_empty() => cases,
        _ => Cases::defaults(&timed.compiled.inspection().hooks),
    };
    let terms = timed.terms.clone();
    let (timed, metered) = (ready(&timed, &cases)?, ready(&metered, &cases)?);
    let measured: Vec<Measured> = timed
        .iter()
        .zip(&metered)
        .map(|(timed, metered)| Measured { fuel: fuel(metered), ..measure(timed, arguments.calls) })
        .collect();
    if format == Format::Json {
        return output::json(&measured);
    }
    output::table(
        &["CASE", "HOOK", "CALLS", "FUEL", "P50", "P99", "MEMORY", "FAULTS"],
        measured.iter().map(row).collect(),
    );
    for (rehearsal, measured) in timed.iter().zip(&measured) {
        let budget_us = terms.hook(rehearsal.hook).cpu.as_secs_f64() * 1e6;
        if measured.p99_us > budget_us {
            let case = &measured.case;
            output::note(&format!("'{case}' needs more than its CPU budget of {budget_us} µs; a gate would cut it"));
        }
    }
    Ok(())
}

fn ready(loaded: &Loaded, cases: &Cases) -> Result<Vec<Rehearsal>, Failure> {
    loaded.runtime.rehearse(loaded.policy(), cases).map_err(|error| Failure::failed(error.to_string()))
}

/// Fuel of one call on a warm instance; zero when it fails, because its instance is gone then.
fn fuel(rehearsal: &Rehearsal) -> u64 {
    // What the first call prepares is paid once.
    let (_, before) = (rehearsal.ask(), rehearsal.meter());
    let (_, after) = (rehearsal.ask(), rehearsal.meter());
    let used = |meter: Option<crate::wasm::Meter>| meter.and_then(|meter| meter.fuel);
    used(after).zip(used(before)).map_or(0, |(after, before)| after.saturating_sub(before))
}

fn measure(rehearsal: &Rehearsal, calls: u32) -> Measured {
    let (clock, mut faults) = (Clock::system(), 0);
    let mut times: Vec<Duration> = Vec::new();
    for call in 0..calls.saturating_add(WARM_UP) {
        let start = thread_cpu();
        let answer = rehearsal.ask();
        let took = thread_cpu().saturating_sub(start);
        if call >= WARM_UP {
            times.push(took);
            faults += usize::from(answer.is_err());
        }
        if clock.monotonic() > LONGEST && !times.is_empty() {
            break;
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e6);
    Measured {
        case: rehearsal.name.clone(),
        hook: rehearsal.hook.as_str(),
        calls: times.len(),
        fuel: 0,
        p50_us: at(50),
        p99_us: at(99),
        memory_bytes: rehearsal.meter().map_or(0, |meter| meter.memory_bytes),
        faults,
    }
}

fn row(measured: &Measured) -> Vec<String> {
    vec![
        measured.case.clone(),
        measured.hook.to_owned(),
        measured.calls.to_string(),
        measured.fuel.to_string(),
        format!("{:.1} µs", measured.p50_us),
        format!("{:.1} µs", measured.p99_us),
        ByteSize(u64::try_from(measured.memory_bytes).unwrap_or(u64::MAX)).to_string(),
        measured.faults.to_string(),
    ]
}
