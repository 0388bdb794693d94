//! `tollgate-benchmark`: what Tollgate costs, side by side with other proxies, and in instructions.
//!
//! One binary plays every part: the backend, the load, and what starts, measures and stops the proxies. It stops only
//! processes that it started.

mod backend;
mod clock;
mod failure;
mod load;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    failure::Failure,
    load::{Call, Load, Pace, Target, Until, client_tls},
};

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
    /// Makes calls, and prints what it saw as JSON.
    Load(LoadArguments),
}

#[derive(Args, Debug)]
struct LoadArguments {
    /// Where to.
    to: SocketAddr,
    /// The certificate to trust: with it calls go over TLS.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// The key to present.
    #[arg(long, default_value = "none", env = "BENCHMARK_KEY", hide_env_values = true)]
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
        Command::Load(arguments) => load(&arguments),
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
