//! Whether limits hold: real gates, a real Redis, more callers than are admitted, and everything that a Redis can do wrong.
//!
//! Each part prints what it saw, and what of it was promised. A promise that isn't kept fails the run. All is on loopback,
//! on free ports, bounded in time, and every process that was started is stopped.

mod chaos;
mod exact;
mod redis;
mod relay;
mod streams;
mod tokens;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::runtime;

use self::{backend::Backend, caller::Caller};
use crate::{
    failure::Failure,
    site::{Report, backend, caller, gates},
};

#[derive(Args, Debug)]
pub(crate) struct LimitArguments {
    /// Only these; without any, all.
    #[arg(value_enum)]
    only: Vec<Section>,
    /// The gate.
    #[arg(long)]
    tollgate: PathBuf,
    /// For configurations, logs and state.
    #[arg(long)]
    folder: PathBuf,
    /// What is measured, for the head of the report.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Few runs and short ones; nothing is promised of times. Without sections: exact, and chaos.
    #[arg(long)]
    smoke: bool,
    /// The page whose block of limits is replaced.
    #[arg(long, conflicts_with = "smoke")]
    readme: Option<PathBuf>,
}

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Of 200 callers at once exactly as many pass as may.
    Exact,
    /// What streams took is counted, also of those that nobody reads to the end.
    Streams,
    /// Redis fails in every way.
    Chaos,
}

/// What all sections share.
#[derive(Debug)]
struct Bench {
    program: PathBuf,
    folder: PathBuf,
    backend: Backend,
    caller: Caller,
    is_smoke: bool,
}

/// Looks at all that was asked for; the report is printed as it grows.
pub(crate) fn run(arguments: &LimitArguments) -> Result<(), Failure> {
    runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(look(arguments))
}

async fn look(arguments: &LimitArguments) -> Result<(), Failure> {
    std::fs::create_dir_all(&arguments.folder)?;
    let bench = Bench {
        program: arguments.tollgate.clone(),
        // Configurations name it, and lie elsewhere than where this runs.
        folder: arguments.folder.canonicalize()?,
        backend: Backend::start().await?,
        caller: Caller::new(),
        is_smoke: arguments.smoke,
    };
    let mut all = Report::default();
    for section in wanted(arguments) {
        all.add(match section {
            Section::Exact => exact::look(&bench).await?,
            Section::Streams => streams::look(&bench).await?,
            Section::Chaos => chaos::look(&bench).await?,
        });
    }
    all.end(arguments.readme.as_deref(), "limits", &arguments.commit)
}

fn wanted(arguments: &LimitArguments) -> Vec<Section> {
    match (arguments.only.as_slice(), arguments.smoke) {
        ([], true) => vec![Section::Exact, Section::Chaos],
        ([], false) => Section::value_variants().to_vec(),
        (only, _) => only.to_vec(),
    }
}
