//! Whether limits hold: real gates, a real Redis, more callers than are admitted, and everything that a Redis can do wrong.
//!
//! Each part prints what it saw, and what of it was promised. A promise that isn't kept fails the run. All is on loopback,
//! on free ports, bounded in time, and every process that was started is stopped.

mod backend;
mod caller;
mod chaos;
mod exact;
mod gates;
mod redis;
mod relay;
mod streams;
mod tokens;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::runtime;

use self::{backend::Backend, caller::Caller};
use crate::{failure::Failure, report};

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

/// What a section has to say.
#[derive(Debug, Default)]
struct Report {
    text: String,
    broken: Vec<String>,
}

impl Report {
    /// Adds to the text.
    fn say(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Something that was promised; it fails the run where it isn't so.
    fn promise(&mut self, holds: bool, what: String) {
        if !holds {
            self.broken.push(what);
        }
    }
}

/// Looks at all that was asked for; the report is printed as it grows.
pub(crate) fn run(arguments: &LimitArguments) -> Result<(), Failure> {
    runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(look(arguments))
}

#[expect(clippy::print_stdout, reason = "the report is this command's result")]
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
        let report = match section {
            Section::Exact => exact::look(&bench).await?,
            Section::Streams => streams::look(&bench).await?,
            Section::Chaos => chaos::look(&bench).await?,
        };
        println!("{}", report.text);
        all.say(&report.text);
        all.broken.extend(report.broken);
    }
    if let Some(page) = &arguments.readme {
        report::write_block(page, "limits", &format!("Commit {}.\n\n{}", arguments.commit, all.text.trim_start()))?;
    }
    match all.broken.as_slice() {
        [] => {
            println!("All that was promised holds.");
            Ok(())
        }
        broken => Err(Failure::new(format!("Not as promised:\n- {}", broken.join("\n- ")))),
    }
}

fn wanted(arguments: &LimitArguments) -> Vec<Section> {
    match (arguments.only.as_slice(), arguments.smoke) {
        ([], true) => vec![Section::Exact, Section::Chaos],
        ([], false) => Section::value_variants().to_vec(),
        (only, _) => only.to_vec(),
    }
}
