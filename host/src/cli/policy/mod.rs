//! `tollgate policy`: what an author does with a policy file before it goes into the folder.

mod bench;
mod check;
mod file;
mod inspect;
mod new;
mod templates;
mod test;

use std::path::PathBuf;

use clap::Subcommand;

use super::{Format, output::Failure};
use crate::wasm::Compiled;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Make a folder for a new policy: sources, the interface, cases, and a README with the commands that build it
    New(new::New),
    /// Say which hooks a policy decides and what it can do, or why it can't be used
    Inspect(file::PolicyArguments),
    /// Check all that a gate checks before it takes a policy: name, permissions, imports, hooks, grants, settings, cases, time
    Check(file::PolicyArguments),
    /// Run a policy's cases; exit code 1 if any fails
    Test(test::Test),
    /// Measure a policy: instructions, CPU time, memory; with its cases as inputs if it has some
    Bench(bench::Bench),
}

/// A policy file and what it was compiled to; nothing of it runs.
pub(super) fn look_at(file: PathBuf) -> Result<(Vec<u8>, Compiled), Failure> {
    file::PolicyArguments::with_defaults(file).compile()
}

pub(super) fn answer(command: PolicyCommand, format: Format) -> Result<(), Failure> {
    match command {
        PolicyCommand::New(new) => new::make(&new, format),
        PolicyCommand::Inspect(arguments) => inspect::inspect(&arguments, format),
        PolicyCommand::Check(arguments) => check::check(&arguments, format),
        PolicyCommand::Test(arguments) => test::test(&arguments, format),
        PolicyCommand::Bench(arguments) => bench::bench(&arguments, format),
    }
}
