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

use self::{backend::Backend, caller::Caller};
use crate::{
    failure::Failure,
    site::{
        Report, backend, caller, gates,
        options::{self, Options},
    },
};

#[derive(Args, Debug)]
pub(crate) struct LimitArguments {
    /// Only these; without any, all.
    #[arg(value_enum)]
    only: Vec<Section>,
    #[command(flatten)]
    options: Options,
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
    options::block_on(look(arguments))
}

async fn look(arguments: &LimitArguments) -> Result<(), Failure> {
    let options = &arguments.options;
    let bench = Bench {
        program: options.tollgate.clone(),
        folder: options.folder()?,
        backend: Backend::start().await?,
        caller: Caller::new(),
        is_smoke: options.smoke,
    };
    let mut all = Report::default();
    for section in options.sections(&arguments.only, &[Section::Exact, Section::Chaos]) {
        all.add(match section {
            Section::Exact => exact::look(&bench).await?,
            Section::Streams => streams::look(&bench).await?,
            Section::Chaos => chaos::look(&bench).await?,
        });
    }
    options.end(all, "limits")
}
