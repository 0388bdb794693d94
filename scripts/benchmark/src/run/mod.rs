//! The whole comparison: backend, contenders in turn, rounds, results.

pub(crate) mod machine;
mod measure;
mod results;

pub(crate) use self::results::{Contender, ROWS, Results, Round};

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Args;

use self::results::{LeftOut, Settings};
use crate::{
    contender::{Bench, Kind, Programs},
    failure::{Failure, Trying},
    process::{Cores, Process, descriptors, on, stay_away},
};

#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    /// The gate's release binary.
    #[arg(long)]
    tollgate: PathBuf,
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    #[arg(long, default_value = "/usr/sbin/haproxy")]
    haproxy: PathBuf,
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    /// Our key filter for Envoy, built for wasm32-wasip1.
    #[arg(long, default_value = "envoy-filter.wasm")]
    envoy_filter: PathBuf,
    #[arg(long, default_value = "/usr/bin/redis-server")]
    redis: PathBuf,
    /// Only these; one that can't be measured then fails the run.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// A few seconds, direct and Tollgate: whether all is served, and nothing else.
    #[arg(long)]
    quick: bool,
    /// Rounds; the table has their medians. Many short ones tell more on a machine with neighbours than few long ones.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Load and backend sleep when they have nothing to do; then a proxy pays for waking them, the more the slower it is.
    #[arg(long)]
    sleep: bool,
    /// What is measured, as `git describe` names it.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Where everything is set up; emptied first.
    #[arg(long)]
    folder: PathBuf,
    /// Every raw figure goes here.
    #[arg(long)]
    pub(crate) json: PathBuf,
}

/// Descriptors beside those of the held streams.
const SPARE_DESCRIPTORS: u64 = 2_000;
/// A proxy has two sockets for a stream.
const DESCRIPTORS_PER_STREAM: u64 = 2;

/// Measures, and writes the JSON file.
#[expect(clippy::print_stderr, reason = "whoever waits for minutes wants to see that it goes on")]
pub(crate) fn run(arguments: &RunArguments) -> Result<Results, Failure> {
    let settings = settings(arguments)?;
    let wanted = wanted(arguments);
    let (_backend, address) = prepare(arguments, &settings)?;
    let programs = Programs {
        tollgate: arguments.tollgate.clone(),
        nginx: arguments.nginx.clone(),
        haproxy: arguments.haproxy.clone(),
        envoy: arguments.envoy.clone(),
        envoy_filter: arguments.envoy_filter.clone(),
        redis: arguments.redis.clone(),
    };
    let bench = Bench::new(arguments.folder.clone(), programs, address)?;
    stay_away()?;
    let mut left_out = Vec::new();
    let mut contenders = Vec::new();
    for kind in wanted {
        match bench.missing(kind) {
            Some(why) if arguments.only.is_empty() => left_out.push(LeftOut { kind, why }),
            Some(why) => return Err(Failure::new(format!("{}: {why}", kind.title()))),
            None => {
                let version = bench.version(kind);
                contenders.push(Contender { kind, version, rounds: Vec::new(), stream_bytes: None });
            }
        }
    }
    // In turns: what disturbs the machine for a while disturbs all of them.
    for round in 1..=settings.rounds {
        for contender in &mut contenders {
            eprintln!("round {round} of {}: {}", settings.rounds, contender.kind.title());
            contender.rounds.push(measure::round(&bench, contender.kind, &settings)?);
        }
    }
    for contender in &mut contenders {
        eprintln!("{} open streams: {}", settings.held_streams, contender.kind.title());
        contender.stream_bytes = measure::stream_bytes(&bench, contender.kind, &settings)?;
    }
    let (commit, at) = (arguments.commit.clone(), crate::clock::unix_seconds());
    let results = Results { commit, at, machine: machine::look()?, settings, contenders, left_out };
    let text = serde_json::to_string_pretty(&results)? + "\n";
    fs::write(&arguments.json, text).trying(format_args!("{} can't be written", arguments.json.display()))?;
    Ok(results)
}

fn wanted(arguments: &RunArguments) -> Vec<Kind> {
    let is_wanted = |kind: &Kind| match arguments.only.as_slice() {
        [] => !arguments.quick || matches!(kind, Kind::Direct | Kind::Tollgate),
        only => only.contains(kind),
    };
    Kind::ALL.into_iter().filter(is_wanted).collect()
}

#[expect(clippy::print_stderr, reason = "the person at the keyboard can change it")]
fn settings(arguments: &RunArguments) -> Result<Settings, Failure> {
    let mut settings = Settings {
        is_smoke: arguments.quick,
        rounds: arguments.rounds,
        warm_up_seconds: 0.3,
        measured_seconds: 1.0,
        connections: 32,
        rate: 1_000.0,
        streams: 100,
        held_streams: 10_000,
        spins: !arguments.sleep,
    };
    if arguments.quick {
        settings.rounds = 1;
        (settings.warm_up_seconds, settings.measured_seconds) = (0.2, 0.5);
        (settings.streams, settings.held_streams, settings.spins) = (20, 100, false);
    }
    let streams = u64::try_from(settings.held_streams).unwrap_or(u64::MAX);
    let wanted = streams * DESCRIPTORS_PER_STREAM + SPARE_DESCRIPTORS;
    let there = descriptors(wanted).trying("the limit of descriptors can't be raised")?;
    if there < wanted {
        let fitting = there.saturating_sub(SPARE_DESCRIPTORS) / DESCRIPTORS_PER_STREAM;
        eprintln!(
            "Only {there} descriptors: {fitting} streams are held, not {streams}. For all of them, as root: \
             prlimit --pid $$ --nofile={wanted}:{wanted}"
        );
        settings.held_streams = usize::try_from(fitting).unwrap_or(1).max(1);
    }
    Ok(settings)
}

/// An empty folder, and the backend before which all are measured.
fn prepare(arguments: &RunArguments, settings: &Settings) -> Result<(Process, SocketAddr), Failure> {
    let folder = &arguments.folder;
    if folder.exists() {
        fs::remove_dir_all(folder).trying(format_args!("{} can't be emptied", folder.display()))?;
    }
    fs::create_dir_all(folder).trying(format_args!("{} can't be made", folder.display()))?;
    let myself = std::env::current_exe()?;
    let mut command = on(Cores::Others, &myself);
    command.arg("backend").stdout(Stdio::piped());
    if settings.spins {
        command.arg("--spin");
    }
    started_backend(&mut command, folder)
}

/// Starts a backend and reads where it listens.
pub(crate) fn started_backend(command: &mut Command, folder: &Path) -> Result<(Process, SocketAddr), Failure> {
    let mut backend = Process::start("the backend", command, &folder.join("backend.log"))?;
    let mut line = String::new();
    let stdout = backend.stdout().ok_or_else(|| Failure::new("the backend has no output"))?;
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim().parse().trying("the backend printed no address")?;
    Ok((backend, address))
}
