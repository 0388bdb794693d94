//! Runs every target over its seeds and over seeded changes of them, without libFuzzer: `smoke FOLDER RUNS`.
//!
//! The same runs each time, so that a failure comes again; it says with which input. For finding what is new there is
//! `scripts/fuzz`.

use std::{fs, panic::catch_unwind, path::Path, process::ExitCode};

use tollgate_fuzz::targets::TARGETS;

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
        let mut chance = Chance(1);
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

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit.max(1)).expect("a length fits");
        usize::try_from(self.0 % limit).expect("less than a length")
    }

    /// A seed with up to eight changes.
    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.seed(seeds).to_vec();
        for _ in 0..=self.below(8) {
            self.change(&mut input, seeds);
        }
        input.truncate(MOST_BYTES);
        input
    }

    fn seed<'a>(&mut self, seeds: &'a [Vec<u8>]) -> &'a [u8] {
        &seeds[self.below(seeds.len())]
    }

    /// A byte changed, put in or taken out, a part said twice or taken from another seed, or the end cut off.
    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        const SIGNS: &[u8] = b"{}[]\":,\\/.%:@ \t\r\n\0\x80\xef\xbb\xbf\xff0919-+eE";
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 if at < input.len() => input[at] = u8::try_from(self.below(256)).expect("a byte"),
            1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 => input.insert(at, SIGNS[self.below(SIGNS.len())]),
            3 if at < input.len() => drop(input.remove(at)),
            4 => {
                let end = at + self.below((input.len() - at).min(64) + 1);
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            5 => {
                let other = self.seed(seeds).to_vec();
                let from = self.below(other.len() + 1);
                let end = from + self.below((other.len() - from).min(64) + 1);
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => input.truncate(at.max(1)),
        }
    }
}
