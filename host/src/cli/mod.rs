//! The command line: what is asked for, and how it is answered. Results go to stdout, everything else to stderr.

mod admin_client;
mod backends;
mod check;
mod completions;
mod declared;
mod demo;
mod explain;
mod healthcheck;
mod keys;
mod limits;
mod limits_show;
mod listener;
mod logging;
mod output;
mod policies;
mod policy;
mod serve;
mod users;

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use self::output::Failure;
use crate::config::{Config, ConfigErrors, Sources};

/// A gate in front of Ollama and other LLM servers.
///
/// It checks the caller's key, decides what a call may cost, picks the backend and streams the answer back. The three
/// decisions are made by WebAssembly policies: the defaults are built in, a .wasm file in the policy folder replaces or
/// joins them while the gate runs.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Configuration file; without it ./tollgate.toml, if there is one
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one configuration key, e.g. --set server.listen=127.0.0.1:9000; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve callers until SIGTERM or ctrl-c
    Serve,
    /// Check the configuration (all of its problems at once), then state folder, store and policies, without serving
    Check,
    /// Run the real gate before two simulated Ollama servers, and print a key to try it with
    Demo,
    /// Keys of callers
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Users, who own keys
    #[command(subcommand)]
    Users(users::UsersCommand),
    /// Backends beside those of the configuration, and draining
    #[command(subcommand)]
    Backends(backends::BackendsCommand),
    /// Limits in the running gate
    #[command(subcommand)]
    Limits(limits_show::LimitsCommand),
    /// Try a call on the running gate, and say who decides what on it and why; nothing is charged or sent
    ///
    /// The call goes the way of every call up to the moment in which it would be forwarded: the policies in force decide on
    /// it with the facts of this moment. Nothing is charged, sent or settled, no metric moves, no breaker learns of it, and
    /// what policies write in their state or their log is dropped. A key given by --key is proven as in a call, and neither
    /// printed nor logged; one given by --key-id is taken for proven, which the admin token allows. The exit code is 0 whether
    /// the call would be served or refused.
    Explain(Box<explain::Explain>),
    /// Policies of the running gate
    #[command(subcommand)]
    Policies(policies::PoliciesCommand),
    /// Policy files
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Ask the running gate whether it is ready; exit code 0 if it is, 1 if not
    Healthcheck(healthcheck::Healthcheck),
    /// Print what completes commands in a shell
    Completions(completions::Completions),
}

/// Runs what the command line asks for. `environment` are the process's variables.
pub fn run(environment: Vec<(String, String)>) -> ExitCode {
    // Usage errors are clap's to print; its exit code for them is 2.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match answer(cli, environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Time in which threads must end when the gate has: what they still compile is of no use to anybody.
const THREADS_PATIENCE: Duration = Duration::from_secs(1);

fn answer(cli: Cli, environment: Vec<(String, String)>) -> Result<(), Failure> {
    let Cli { config, set, output: format, command } = cli;
    // What needs no configuration must not fail over one.
    match command {
        Command::Policy(command) => return policy::answer(command, format),
        Command::Completions(completions) => return completions::print(&completions),
        _ => {}
    }
    let config = match load(config, set, environment)? {
        Ok(config) => config,
        Err(errors) if matches!(command, Command::Check) => return Err(check::unreadable(&errors, format)),
        Err(errors) => return Err(Failure::configuration(errors.to_string())),
    };
    // The demo brings its own backends, commands on the store go to none, and a health check is asked every few seconds.
    if matches!(command, Command::Serve | Command::Check) {
        config.warnings().iter().for_each(|warning| output::note(&format!("note: {warning}")));
    }
    let threads = config.server.threads;
    match command {
        Command::Serve => {
            let _log = logging::start(&config.log)?;
            let runtime = runtime(threads)?;
            let served = runtime.block_on(serve::serve(config));
            runtime.shutdown_timeout(THREADS_PATIENCE);
            served
        }
        Command::Demo => {
            let _log = logging::start(&config.log)?;
            runtime(threads)?.block_on(demo::demo(config))
        }
        Command::Check => runtime(threads)?.block_on(check::check(&config, format)),
        Command::Keys(command) => small_runtime()?.block_on(keys::answer(command, &config, format)),
        Command::Users(command) => small_runtime()?.block_on(users::answer(command, &config, format)),
        Command::Backends(command) => small_runtime()?.block_on(backends::answer(command, &config, format)),
        Command::Limits(command) => small_runtime()?.block_on(limits_show::answer(command, &config, format)),
        Command::Explain(asked) => small_runtime()?.block_on(explain::answer(*asked, &config, format)),
        Command::Policies(command) => small_runtime()?.block_on(policies::answer(command, &config, format)),
        Command::Healthcheck(asked) => small_runtime()?.block_on(healthcheck::answer(&asked, &config, format)),
        Command::Policy(_) | Command::Completions(_) => Ok(()),
    }
}

fn load(
    file: Option<PathBuf>,
    sets: Vec<String>,
    environment: Vec<(String, String)>,
) -> Result<Result<Config, ConfigErrors>, Failure> {
    let directory =
        std::env::current_dir().map_err(|error| Failure::failed(format!("there is no current folder: {error}")))?;
    Ok(Config::load(&Sources { file, sets, environment, directory }))
}

/// For a command that asks a question and ends.
fn small_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|error| Failure::failed(format!("the command can't start: {error}")))
}

fn runtime(threads: Option<NonZeroUsize>) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    builder.enable_all().build().map_err(|error| Failure::failed(format!("the worker threads can't start: {error}")))
}
