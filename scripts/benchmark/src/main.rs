//! `tollgate-benchmark`: what Tollgate costs, side by side with other proxies, and in instructions.
//!
//! One binary plays every part: the backend, the load, and what starts, measures and stops the proxies. It stops only
//! processes that it started.

mod backend;
mod clock;
mod contender;
mod failure;
mod forwarder;
mod instructions;
mod limits;
mod load;
mod policies;
mod process;
mod report;
mod run;
mod site;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    failure::{Failure, Trying},
    load::{Call, Load, Pace, Target, Until, client_tls},
};

/// The gate's own allocator, so that bare hyper, the floor under it, stands on the same ground.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(version, about = "What Tollgate costs, side by side with other proxies, and in instructions.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A very cheap look-alike of Ollama; prints its address.
    Backend {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Never sleeps, so that nobody pays for waking it; with one thread only.
        #[arg(long)]
        spin: bool,
    },
    /// Forwards with hyper and nothing else; one of the proxies that `run` measures.
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        backend: SocketAddr,
    },
    /// Makes calls, and prints what it saw as JSON.
    Load(LoadArguments),
    /// Measures all contenders, prints the table, and writes every raw figure as JSON.
    Run(run::RunArguments),
    /// Prints the table of a JSON file again, and puts it into a README.
    Report(ReportArguments),
    /// Counts instructions under callgrind, and compares them with the committed counts.
    Instructions(instructions::InstructionArguments),
    /// Looks whether limits hold, over several gates and whatever Redis does.
    Limits(limits::LimitArguments),
    /// Looks what policies can do to a gate: hostile ones, a thousand reloads, and what failing costs.
    Policies(policies::PolicyArguments),
}

#[derive(Args, Debug)]
struct ReportArguments {
    /// What `run` has written.
    #[arg(long)]
    json: PathBuf,
    /// Where the chart goes.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// The page whose block of figures is replaced; the chart is named relative to its folder.
    #[arg(long, requires = "svg")]
    readme: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct LoadArguments {
    /// Where to.
    to: SocketAddr,
    /// The certificate to trust: with it calls go over TLS.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// The key to present.
    #[arg(long, default_value = "none")]
    key: String,
    /// The model to ask for: bytes-N, stream-LINES-MICROSECONDS or hold.
    #[arg(long, default_value = "bytes-1024:latest")]
    model: String,
    /// Size of a request's body.
    #[arg(long, default_value_t = 1024)]
    body_bytes: usize,
    /// Connections; with --hold the streams to hold.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Calls that start in a second; without it each connection calls when it has its answer.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Ends after so many calls instead, and without warm-up.
    #[arg(long)]
    calls: Option<u64>,
    /// Holds all connections open with a stream on each, this many seconds.
    #[arg(long)]
    hold: Option<u64>,
    /// Never sleeps, so that what is measured doesn't pay for waking it.
    #[arg(long)]
    spin: bool,
}

#[expect(clippy::print_stderr, reason = "failures go to the person who started it")]
fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Backend { listen, threads, spin } => backend::serve(listen, threads, spin),
        Command::Forward { listen, backend } => forwarder::serve(listen, backend),
        Command::Load(arguments) => load(&arguments),
        Command::Run(arguments) => stoppable(move || {
            let results = run::run(&arguments)?;
            print(&report::text(&results));
            report::smoke(&results)
        }),
        Command::Report(arguments) => report(&arguments),
        Command::Instructions(arguments) => stoppable(move || instructions::run(&arguments)),
        Command::Limits(arguments) => stoppable(move || limits::run(&arguments)),
        Command::Policies(arguments) => stoppable(move || policies::run(&arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is this command's result")]
fn load(arguments: &LoadArguments) -> Result<(), Failure> {
    let tls = arguments.certificate.as_deref().map(client_tls).transpose()?;
    let target = Target { address: arguments.to, tls };
    let call = Call { model: &arguments.model, body_bytes: arguments.body_bytes, key: &arguments.key };
    if let Some(seconds) = arguments.hold {
        return load::hold(&target, &call.request(), arguments.connections, &mut || {
            std::thread::sleep(Duration::from_secs(seconds));
            Ok(())
        });
    }
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|error| Failure::new(error.to_string()));
    let load = Load {
        target,
        request: call.request(),
        connections: arguments.connections,
        pace: arguments.rate.map_or(Pace::Closed, Pace::PerSecond),
        warm_up: if arguments.calls.is_some() { Duration::ZERO } else { seconds(arguments.warm_up_seconds)? },
        until: match arguments.calls {
            Some(calls) => Until::Calls(calls),
            None => Until::Time(seconds(arguments.seconds)?),
        },
        spins: arguments.spin,
    };
    let report = load::run(&load, &mut |_| Ok(()))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the table is the command's result")]
fn print(text: &str) {
    println!("{text}");
}

fn report(arguments: &ReportArguments) -> Result<(), Failure> {
    let text =
        std::fs::read_to_string(&arguments.json).trying(format_args!("{} can't be read", arguments.json.display()))?;
    let results: run::Results = serde_json::from_str(&text)?;
    print(&report::text(&results));
    let Some(svg) = &arguments.svg else { return Ok(()) };
    std::fs::write(svg, report::chart(&results)).trying(format_args!("{} can't be written", svg.display()))?;
    let Some(page) = &arguments.readme else { return Ok(()) };
    let folder = page.parent().unwrap_or(Path::new(""));
    let chart = svg.strip_prefix(folder).unwrap_or(svg);
    report::write(page, &chart.display().to_string(), &results)
}

/// Does it on a thread of its own; when the run is told to stop, all that it started is killed first.
fn stoppable(what: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(what()));
    let ended = runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = ended => ended.unwrap_or_else(|_| Err(Failure::new("the run broke off"))),
            _ = tokio::signal::ctrl_c() => Err(Failure::new("stopped")),
            _ = stop.recv() => Err(Failure::new("stopped")),
        }
    });
    process::kill_all();
    ended
}
