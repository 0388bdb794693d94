//! `tollgate completions`: what a shell needs to complete commands. Reads no configuration.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{
    Cli,
    output::{self, Failure},
};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell, e.g. bash: `source <(tollgate completions bash)`
    shell: Shell,
}

pub(super) fn print(asked: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(asked.shell, &mut Cli::command(), "tollgate", &mut script);
    let script = String::from_utf8(script).map_err(|error| Failure::failed(error.to_string()))?;
    output::result(script.trim_end());
    Ok(())
}
