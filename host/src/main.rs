//! The binary: hands the command line and the environment to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    tollgate::cli::run(environment.collect())
}
