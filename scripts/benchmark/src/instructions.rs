//! How many instructions the three hooks and one proxied call take, counted by callgrind: a number that a busy machine
//! doesn't change. Compared with the committed one.
//!
//! Each is counted with N repetitions and with 3 N; what is left of the difference, by repetition, is the cost without
//! start and end. Only the thread whose count grew most counts, so that timers and polls of others stay out, and the
//! compilers of a first start, whose counts shrink.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    clock::now,
    contender::{Bench, GateUnderCallgrind, Programs},
    failure::{Failure, Trying},
    load::{self, Call, Load, Pace, Target, Until, call_once},
    process::Process,
};

#[derive(Args, Debug)]
pub(crate) struct InstructionArguments {
    /// The gate's release binary.
    #[arg(long)]
    tollgate: PathBuf,
    /// The benchmark `policy_call`, built.
    #[arg(long)]
    policy_call: PathBuf,
    /// The committed counts.
    #[arg(long)]
    baseline: PathBuf,
    /// Writes the counts instead of comparing them.
    #[arg(long)]
    update: bool,
    /// Where everything is set up; emptied first.
    #[arg(long)]
    folder: PathBuf,
}

/// Counts, each for one repetition.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Counts {
    /// `authenticate`, `admit` and `route` together, with 8 backends.
    three_hooks: u64,
    /// A call of 1 KiB, answered with 1 KiB, over one kept-alive connection.
    proxied_call: u64,
}

/// More than this is too much, in percent. Processors differ a little in what they count.
const MOST_PERCENT: f64 = 15.0;
/// Repetitions of the shorter run.
const PASSES: u64 = 2_000;
const CALLS: u64 = 400;
/// Time for the gate to start under callgrind, where it compiles its policies.
const PATIENCE: Duration = Duration::from_secs(180);

/// Counts, prints, and compares.
pub(crate) fn run(arguments: &InstructionArguments) -> Result<(), Failure> {
    let folder = &arguments.folder;
    if folder.exists() {
        fs::remove_dir_all(folder).trying(format_args!("{} can't be emptied", folder.display()))?;
    }
    fs::create_dir_all(folder)?;
    let three_hooks = by_repetition(PASSES, |passes| hooks(arguments, passes))?;
    let backend = Backend::start(folder)?;
    let proxied_call = by_repetition(CALLS, |calls| calls_through(arguments, backend.address, calls))?;
    let counts = Counts { three_hooks, proxied_call };
    if arguments.update {
        fs::write(&arguments.baseline, serde_json::to_string_pretty(&counts)? + "\n")?;
        print(&format!("{counts:?} written to {}", arguments.baseline.display()));
        return Ok(());
    }
    let text = fs::read_to_string(&arguments.baseline)
        .trying(format_args!("{} can't be read; make it with --update", arguments.baseline.display()))?;
    compare(serde_json::from_str(&text)?, counts)
}

/// Instructions by thread: the same thread has the same number in each run.
type Threads = BTreeMap<u32, u64>;

fn by_repetition(count: u64, of: impl Fn(u64) -> Result<Threads, Failure>) -> Result<u64, Failure> {
    let (short, long) = (of(count)?, of(3 * count)?);
    let grown = long.iter().map(|(thread, total)| total.saturating_sub(short.get(thread).copied().unwrap_or(0)));
    match grown.max() {
        Some(grown) if grown >= 2 * count => Ok(grown / (2 * count)),
        _ => Err(Failure::new("the repetitions have cost nothing: what was counted did not make them")),
    }
}

#[expect(clippy::print_stdout, reason = "the counts are this command's result")]
fn print(text: &str) {
    println!("{text}");
}

fn compare(baseline: Counts, counts: Counts) -> Result<(), Failure> {
    let mut worst = f64::MIN;
    print(&format!("{:<16} {:>10} {:>10} {:>8}", "instructions", "committed", "now", "change"));
    for (name, old, new) in [
        ("three hooks", baseline.three_hooks, counts.three_hooks),
        ("one proxied call", baseline.proxied_call, counts.proxied_call),
    ] {
        let change = change_percent(old, new);
        worst = worst.max(change);
        print(&format!("{name:<16} {old:>10} {new:>10} {change:>+7.1}%"));
    }
    if worst > MOST_PERCENT {
        return Err(Failure::new(format!(
            "More than {MOST_PERCENT} % above what is committed. Find out why; if it is worth it: ./scripts/instructions --update"
        )));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of one repetition lie far below 2^53")]
fn change_percent(old: u64, new: u64) -> f64 {
    (new as f64 / old.max(1) as f64 - 1.0) * 100.0
}

fn callgrind(out: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-threads=yes"]).arg(format!("--callgrind-out-file={}", out.display()));
    command
}

fn hooks(arguments: &InstructionArguments, passes: u64) -> Result<Threads, Failure> {
    let out = arguments.folder.join(format!("hooks-{passes}"));
    let mut command = callgrind(&out);
    command.arg(&arguments.policy_call).args(["--passes", &passes.to_string()]).stdin(Stdio::null());
    let output = command.output().trying("valgrind can't be started")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("{} failed under valgrind:\n{said}", arguments.policy_call.display())));
    }
    threads(&out)
}

fn calls_through(arguments: &InstructionArguments, backend: SocketAddr, calls: u64) -> Result<Threads, Failure> {
    let out = arguments.folder.join(format!("calls-{calls}"));
    let programs = Programs::only_tollgate(arguments.tollgate.clone());
    let bench = Bench::new(arguments.folder.clone(), programs, backend)?;
    let GateUnderCallgrind { mut command, log, target, key } = bench.under_callgrind(callgrind(&out))?;
    let mut process = Process::start("Tollgate under valgrind", &mut command, &log)?;
    let request = Call { model: "bytes-1024:latest", body_bytes: 1024, key: &key }.request();
    until_served(&mut process, &target, &request).trying(format_args!("its log is {}", log.display()))?;
    let load = Load {
        target,
        request,
        connections: 1,
        pace: Pace::Closed,
        warm_up: Duration::ZERO,
        until: Until::Calls(calls),
        spins: false,
    };
    let report = load::run(&load, &mut |_| Ok(()))?;
    if report.errors.total() > 0 {
        return Err(Failure::new(format!("not all calls were answered: {:?}", report.errors.first)));
    }
    process.stop_within(PATIENCE)?;
    threads(&out)
}

fn until_served(process: &mut Process, target: &Target, request: &bytes::Bytes) -> Result<(), Failure> {
    let last = now() + PATIENCE;
    loop {
        process.must_run()?;
        match call_once(target, request) {
            Ok(200) => return Ok(()),
            Ok(status) => return Err(Failure::new(format!("it answers {status}"))),
            Err(failure) if now() > last => return Err(failure),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}

/// The counts of the files `OUT-NN`, one for each thread.
fn threads(out: &Path) -> Result<Threads, Failure> {
    let folder = out.parent().unwrap_or(Path::new("."));
    let stem = out.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut threads = Threads::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(stem)?.strip_prefix('-'));
        if let Some(thread) = rest.and_then(|rest| rest.parse().ok()) {
            threads.extend(total(&fs::read_to_string(entry.path())?).map(|total| (thread, total)));
        }
    }
    Ok(threads)
}

/// The `totals:` line of callgrind's file.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")))?;
    line.trim().parse().ok()
}

/// The backend, outside callgrind.
struct Backend {
    _process: Process,
    address: SocketAddr,
}

impl Backend {
    fn start(folder: &Path) -> Result<Self, Failure> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["backend", "--listen", &listen]).stdout(Stdio::piped());
        let (process, address) = crate::run::started_backend(&mut command, folder)?;
        Ok(Self { _process: process, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_what_repetitions_add() {
        let of = |count| {
            let compiler = if count == 100 { 5_000_000 } else { 10 };
            Ok(Threads::from([(1, 1_000_000 + 7 * count), (2, 50), (9, compiler)]))
        };
        assert_eq!(by_repetition(100, of).unwrap(), 7);
        assert!(by_repetition(100, |_| Ok(Threads::from([(1, 1_000_000)]))).is_err());
    }

    #[test]
    fn only_what_grew_too_much_fails() {
        let baseline = Counts { three_hooks: 1_000, proxied_call: 1_000 };
        assert!(compare(baseline, Counts { three_hooks: 1_149, proxied_call: 10 }).is_ok());
        assert!(compare(baseline, Counts { three_hooks: 1_000, proxied_call: 1_151 }).is_err());
    }

    #[test]
    fn the_total_of_a_file_is_found() {
        assert_eq!(total("version: 1\ncreator: x\nsummary: 12\nfn=(1)\ntotals: 34\n"), Some(12));
        assert_eq!(total("nothing"), None);
    }
}
