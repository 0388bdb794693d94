//! Runs every target over its seeds and over seeded changes of them, without libFuzzer: `smoke FOLDER RUNS`.
//!
//! The same runs each time, so that a failure comes again; it says with which input. For finding what is new there is
//! `scripts/fuzz`.

use std::{fs, panic::catch_unwind, path::Path, process::ExitCode};

use tollgate_fuzz::{chance::Chance, targets::TARGETS};

/// Longest input.
const MOST_BYTES: usize = 2048;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(Ok(runs))) = (arguments.next(), arguments.next().map(|runs| runs.parse::<u32>())) else {
        eprintln!("usage: smoke FOLDER RUNS");
        return ExitCode::from(2);
    };
    for (name, target) in TARGETS {
        let seeds = match seeds(&Path::new(&folder).join(name)) {
            Ok(seeds) if !seeds.is_empty() => seeds,
            Ok(_) => return fail(&format!("{name} has no seeds in {folder}")),
            Err(error) => return fail(&format!("the seeds of {name} can't be read from {folder}: {error}")),
        };
        let mut chance = Chance::new(MOST_BYTES);
        let changed = (0..runs).map(|_| chance.input(&seeds));
        let mut count = 0;
        for input in seeds.iter().cloned().chain(changed) {
            if catch_unwind(|| target(&input)).is_err() {
                return fail(&format!("{name} fails with {:?}", String::from_utf8_lossy(&input)));
            }
            count += 1;
        }
        println!("{name}: {count} inputs");
    }
    ExitCode::SUCCESS
}

fn fail(what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::FAILURE
}

/// All files of a folder, in the order of their names.
fn seeds(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}
