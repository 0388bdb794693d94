//! The binary: hands the command line and the environment to the library.

use std::process::ExitCode;

/// A call makes and frees a hundred small things; glibc's allocator took a tenth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    tollgate::cli::run(environment.collect())
}
