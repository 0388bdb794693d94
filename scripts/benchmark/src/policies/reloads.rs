//! Reloads under load: good and bad versions of one policy, one after another, while callers call.
//!
//! Each good version sends calls to the other backend than the one before it, so that each swap is seen; after a bad one
//! calls still go where they went.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

use super::{
    Bench, Gate, chat,
    folder::{Files, reload, status},
    load::{Load, Seen},
    plain,
    version::{KINDS, Kind, files},
};
use crate::{failure::Failure, site::Report};

const RELOADS: u32 = 1_000;
const RELOADS_OF_A_SMOKE: u32 = 24;
/// After so many, memory is what it is going to be.
const SETTLED_AFTER: u32 = 100;
/// By how much it may differ after the last, in bytes: what the allocator holds back differs from run to run.
const MEMORY_SLACK: u64 = 24 << 20;
/// Callers, and how long each rests after a call.
const CALLERS: usize = 4;
const REST: Duration = Duration::from_millis(5);
/// How long callers call before the reloads.
const BEFORE: Duration = Duration::from_secs(20);
const BEFORE_A_SMOKE: Duration = Duration::from_secs(1);

const NAME: &str = "versioned";
/// Headers tell which backend answered.
const BACKEND: &str = "x-tollgate-backend";

/// What became of the versions.
#[derive(Debug, Default)]
struct Tally {
    in_force: u32,
    refused: BTreeMap<String, u32>,
    memory: Vec<(u32, u64)>,
}

/// One version, and what must become of it.
#[derive(Debug)]
struct Version {
    number: u32,
    kind: Kind,
    files: Files,
    /// The step at which it must be stopped; none: it comes into force.
    stopped_at: Option<&'static str>,
    /// Which backend calls must go to once it was tried.
    backend: u32,
}

fn versions(bench: &Bench, count: u32) -> Result<Vec<Version>, Failure> {
    let mut backend = 0;
    (1..=count)
        .zip(KINDS.iter().cycle())
        .map(|(number, &(kind, stopped_at))| {
            let files = files(bench, kind, number, 1 - backend)?;
            if stopped_at.is_none() {
                backend = 1 - backend;
            }
            Ok(Version { number, kind, files, stopped_at, backend })
        })
        .collect()
}

pub(super) async fn look(bench: &Bench) -> Result<Report, Failure> {
    let mut report = Report::default();
    let reloads = if bench.is_smoke { RELOADS_OF_A_SMOKE } else { RELOADS };
    // Made before anybody calls: what makes a component takes the cores that callers and gate share.
    let versions = versions(bench, reloads)?;
    let mut gate = Gate::start(bench, "reloads", 2, "").await?;
    let [_, key] = &gate.keys;
    let request = chat(gate.address, "/api/chat", key, &[], plain())?;
    let quiet = Load::start(CALLERS, REST, &bench.caller, &request)?;
    sleep(if bench.is_smoke { BEFORE_A_SMOKE } else { BEFORE }).await;
    let quiet = quiet.end().await;
    let mut tally = Tally { memory: vec![(0, gate.gates.resident_bytes()?)], ..Tally::default() };
    let load = Load::start(CALLERS, REST, &bench.caller, &request)?;
    let mut done = Ok(());
    for version in &versions {
        done = one(bench, &mut gate, version, &mut tally, &mut report).await;
        if done.is_err() {
            break;
        }
        if version.number == SETTLED_AFTER || version.number == reloads {
            tally.memory.push((version.number, gate.gates.resident_bytes()?));
        }
    }
    let busy = load.end().await;
    done?;
    say(reloads, &tally, (&quiet, &busy), &mut report);
    judge(reloads, &tally, [("before", &quiet), ("while policies were reloaded", &busy)], &mut report);
    Ok(report)
}

async fn one(
    bench: &Bench,
    gate: &mut Gate,
    version: &Version,
    tally: &mut Tally,
    report: &mut Report,
) -> Result<(), Failure> {
    let Version { number, kind, .. } = version;
    let before = status(&gate.gates, NAME).await?;
    gate.folder.put(NAME, &version.files)?;
    reload(&gate.gates).await?;
    gate.gates.must_run()?;
    let after = status(&gate.gates, NAME).await?;
    let what = format!("reload {number} ({kind:?})");
    match version.stopped_at {
        None => {
            report.promise(
                after.state == "in-force" && after.generation > before.generation,
                format!("{what}: it isn't in force: {after:?}"),
            );
            tally.in_force += 1;
        }
        Some(step) => {
            report.promise(after.state == "outdated", format!("{what}: nothing serves in its place: {after:?}"));
            report.promise(
                after.failed_at == step,
                format!("{what}: stopped at {:?}: {}", after.failed_at, after.reason),
            );
            *tally.refused.entry(after.failed_at).or_default() += 1;
        }
    }
    let [_, key] = &gate.keys;
    let answer = bench.caller.answer(chat(gate.address, "/api/chat", key, &[], plain())?).await?;
    let backend = answer.headers.get(BACKEND).and_then(|name| name.to_str().ok()).unwrap_or_default();
    let expected = format!("gpu-{}", version.backend + 1);
    report.promise(
        (answer.status, backend) == (200, expected.as_str()),
        format!("{what}: the next call was answered {} by {backend:?}, not by {expected}", answer.status),
    );
    Ok(())
}

fn say(reloads: u32, tally: &Tally, (quiet, busy): (&Seen, &Seen), report: &mut Report) {
    report.say(&format!("### {reloads} reloads under load\n"));
    let refused: Vec<String> = tally.refused.iter().map(|(step, count)| format!("{count} at `{step}`")).collect();
    report.say(&format!(
        "{} versions came into force, each seen in where the next call went; {} were refused: {}. Memory: {}.\n",
        tally.in_force,
        tally.refused.values().sum::<u32>(),
        refused.join(", "),
        tally
            .memory
            .iter()
            .map(|(after, bytes)| format!("{} MiB after {after}", bytes >> 20))
            .collect::<Vec<_>>()
            .join(", "),
    ));
    report.say("| calls | served | failed | p50, ms | p99, ms | worst, ms |");
    report.say("|---|---:|---:|---:|---:|---:|");
    for (title, seen) in [("no reloads", quiet), ("one reload after another", busy)] {
        let ms = |us: f64| us / 1000.0;
        let times = &seen.times;
        report.say(&format!(
            "| {title} | {} | {} | {:.2} | {:.2} | {:.1} |",
            times.count,
            seen.failed,
            ms(times.p50_us),
            ms(times.p99_us),
            ms(times.max_us)
        ));
    }
    report
        .say(&format!("\np99 with reloads is {:.2} × that without.", busy.times.p99_us / quiet.times.p99_us.max(1.0)));
}

fn judge(reloads: u32, tally: &Tally, seen: [(&str, &Seen); 2], report: &mut Report) {
    for (title, seen) in seen {
        let what = format!("{title}: {} calls failed of {}: {:?}", seen.failed, seen.times.count, seen.first_failure);
        report.promise(seen.failed == 0 && seen.times.count > 0, what);
    }
    let all = tally.in_force + tally.refused.values().sum::<u32>();
    report.promise(all == reloads, format!("of {reloads} reloads {all} came to something"));
    let memory = |after: u32| tally.memory.iter().find(|(number, _)| *number == after).map(|(_, bytes)| *bytes);
    if let (Some(settled), Some(last)) = (memory(SETTLED_AFTER), memory(reloads)) {
        report.promise(
            last <= settled + MEMORY_SLACK,
            format!("memory grew from {settled} to {last} bytes after {SETTLED_AFTER} and {reloads} reloads"),
        );
    }
}
