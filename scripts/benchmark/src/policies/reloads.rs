//! Reloads under load: good and bad versions of one policy, one after another, while callers call.
//!
//! Each good version sends calls to the other backend than the one before it, so that each swap is seen; after a bad one
//! calls still go where they went. At the end the same while other threads want all cores, as a model server without a GPU does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    Bench, Gate, chat,
    folder::{Files, reload, status},
    load::{Load, Seen},
    plain,
    version::{KINDS, Kind, files},
};
use crate::{
    clock::now,
    failure::Failure,
    load::{Percentiles, Times},
    site::Report,
};

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
/// Reloads while others want all cores: each kind of version as often as in as many reloads without.
const RELOADS_AMONG_OTHERS: u32 = 48;
const RELOADS_AMONG_OTHERS_IN_A_SMOKE: u32 = 12;

const NAME: &str = "versioned";
/// Headers tell which backend answered.
const BACKEND: &str = "x-tollgate-backend";

/// What became of the versions.
#[derive(Debug)]
struct Tally {
    in_force: u32,
    refused: BTreeMap<String, u32>,
    memory: Vec<(u32, u64)>,
    /// From the moment in which a version's files were there to that in which it was in force or refused.
    took: Times,
}

impl Tally {
    fn new() -> Result<Self, Failure> {
        Ok(Self { in_force: 0, refused: BTreeMap::new(), memory: Vec::new(), took: Times::new()? })
    }

    fn all(&self) -> u32 {
        self.in_force + self.refused.values().sum::<u32>()
    }
}

/// What was seen of some reloads, and by those who called meanwhile.
#[derive(Debug)]
struct Phase {
    title: &'static str,
    tally: Tally,
    seen: Seen,
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
    let (reloads, among_others) = if bench.is_smoke {
        (RELOADS_OF_A_SMOKE, RELOADS_AMONG_OTHERS_IN_A_SMOKE)
    } else {
        (RELOADS, RELOADS_AMONG_OTHERS)
    };
    // Made before anybody calls: what makes a component takes the cores that callers and gate share.
    let mut versions = versions(bench, reloads + among_others)?;
    let versions_among_others = versions.split_off(usize::try_from(reloads).unwrap_or(usize::MAX));
    let mut gate = Gate::start(bench, "reloads", 2, "").await?;
    let before = if bench.is_smoke { BEFORE_A_SMOKE } else { BEFORE };
    let quiet = phase(bench, &mut gate, "no reloads", Vec::new(), before, &mut report).await?;
    let busy = phase(bench, &mut gate, "one reload after another", versions, Duration::ZERO, &mut report).await?;
    let others = Others::start()?;
    let crowded = phase(bench, &mut gate, "no reloads, others want all cores", Vec::new(), before, &mut report).await?;
    let title = "reloads, others want all cores";
    let among = phase(bench, &mut gate, title, versions_among_others, Duration::ZERO, &mut report).await?;
    drop(others);
    let phases = [quiet, busy, crowded, among];
    say(&phases, &mut report);
    phases.iter().for_each(|phase| judge(phase, &mut report));
    Ok(report)
}

/// Callers call: for so long at least, and while these versions come one after another.
async fn phase(
    bench: &Bench,
    gate: &mut Gate,
    title: &'static str,
    versions: Vec<Version>,
    at_least: Duration,
    report: &mut Report,
) -> Result<Phase, Failure> {
    let [_, key] = &gate.keys;
    let request = chat(gate.address, "/api/chat", key, &[], plain())?;
    let mut tally = Tally::new()?;
    tally.memory.push((0, gate.gates.resident_bytes()?));
    let load = Load::start(CALLERS, REST, &bench.caller, &request)?;
    sleep(at_least).await;
    let done = one_after_another(bench, gate, &versions, &mut tally, report).await;
    let seen = load.end().await;
    done.map(|()| Phase { title, tally, seen })
}

async fn one_after_another(
    bench: &Bench,
    gate: &mut Gate,
    versions: &[Version],
    tally: &mut Tally,
    report: &mut Report,
) -> Result<(), Failure> {
    for version in versions {
        one(bench, gate, version, tally, report).await?;
        if tally.all() == SETTLED_AFTER {
            tally.memory.push((SETTLED_AFTER, gate.gates.resident_bytes()?));
        }
    }
    tally.memory.push((tally.all(), gate.gates.resident_bytes()?));
    Ok(())
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
    let start = now();
    reload(&gate.gates).await?;
    tally.took.note(start.elapsed());
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

fn say(phases: &[Phase; 4], report: &mut Report) {
    let [quiet, busy, crowded, among] = phases;
    report.say(&format!("### {} reloads under load\n", busy.tally.all()));
    let tally = &busy.tally;
    let refused: Vec<String> = tally.refused.iter().map(|(step, count)| format!("{count} at `{step}`")).collect();
    let memory: Vec<String> =
        tally.memory.iter().map(|(after, bytes)| format!("{} MiB after {after}", bytes >> 20)).collect();
    report.say(&format!(
        "{} versions came into force, each seen in where the next call went; {} were refused: {}. Memory: {}.\n",
        tally.in_force,
        tally.refused.values().sum::<u32>(),
        refused.join(", "),
        memory.join(", "),
    ));
    report.say("| calls | served | failed | p50, ms | p99, ms | worst, ms | a reload: p50, ms | worst, ms |");
    report.say("|---|---:|---:|---:|---:|---:|---:|---:|");
    let ms = |us: f64| us / 1000.0;
    for Phase { title, tally, seen } in phases {
        let Percentiles { count, p50_us, p99_us, max_us, .. } = seen.times;
        let took = tally.took.percentiles();
        let took = match tally.all() {
            0 => " | ".to_owned(),
            _ => format!("{:.0} | {:.0}", ms(took.p50_us), ms(took.max_us)),
        };
        let [p50, p99, worst] = [p50_us, p99_us, max_us].map(ms);
        report.say(&format!("| {title} | {count} | {} | {p50:.2} | {p99:.2} | {worst:.1} | {took} |", seen.failed));
    }
    let ratio = |with: &Phase, without: &Phase| with.seen.times.p99_us / without.seen.times.p99_us.max(1.0);
    report.say(&format!(
        "\np99 with reloads is {:.2} × that without, and {:.2} × while as many other threads as there are cores never rest; of \
         those reloads there were {}.",
        ratio(busy, quiet),
        ratio(among, crowded),
        among.tally.all(),
    ));
}

fn judge(phase: &Phase, report: &mut Report) {
    let Phase { title, tally, seen } = phase;
    let what = format!("{title}: {} calls failed of {}: {:?}", seen.failed, seen.times.count, seen.first_failure);
    report.promise(seen.failed == 0 && seen.times.count > 0, what);
    let memory = |after: u32| tally.memory.iter().find(|(number, _)| *number == after).map(|(_, bytes)| *bytes);
    if let (Some(settled), Some(last)) = (memory(SETTLED_AFTER), memory(tally.all())) {
        report.promise(
            last <= settled + MEMORY_SLACK,
            format!("memory grew from {settled} to {last} bytes after {SETTLED_AFTER} and {} reloads", tally.all()),
        );
    }
}

/// Threads that always want a core, as many as there are cores.
struct Others {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Others {
    fn start() -> Result<Self, Failure> {
        let is_over = Arc::<AtomicBool>::default();
        let one = |_| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || while !is_over.load(Ordering::Relaxed) {})
        };
        let threads = (0..thread::available_parallelism()?.get()).map(one).collect();
        Ok(Self { is_over, threads })
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that only counts doesn't panic.
            drop(thread.join());
        }
    }
}
