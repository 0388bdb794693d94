//! Where promises are looked at: real gates as processes, the backends behind them, callers, and what was seen.
//!
//! All is on loopback, on free ports, bounded in time, and every process that was started is stopped.

pub(crate) mod backend;
pub(crate) mod caller;
pub(crate) mod gates;
pub(crate) mod options;

use crate::{failure::Failure, report, run::machine};

/// What a part of a run has to say.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) broken: Vec<String>,
}

impl Report {
    /// Adds to the text.
    pub(crate) fn say(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Something that was promised; it fails the run where it isn't so.
    pub(crate) fn promise(&mut self, holds: bool, what: String) {
        if !holds {
            self.broken.push(what);
        }
    }

    /// Prints another part, and takes it in.
    #[expect(clippy::print_stdout, reason = "the report is the command's result, and grows while it runs")]
    pub(crate) fn add(&mut self, part: Self) {
        println!("{}", part.text);
        self.say(&part.text);
        self.broken.extend(part.broken);
    }

    /// Puts it into this block of a page, if there is one; fails where something is not as promised.
    #[expect(clippy::print_stdout, reason = "the report is the command's result")]
    pub(crate) fn end(self, page: Option<&std::path::Path>, block: &str, commit: &str) -> Result<(), Failure> {
        if let Some(page) = page {
            let head = format!("Commit {commit}. {}.", machine::look()?);
            report::write_block(page, block, &format!("{head}\n\n{}", self.text.trim_start()))?;
        }
        match self.broken.as_slice() {
            [] => {
                println!("All that was promised holds.");
                Ok(())
            }
            broken => Err(Failure::new(format!("Not as promised:\n- {}", broken.join("\n- ")))),
        }
    }
}
