//! Printing, and the exit codes that scripts rely on: 0, 1 failure, 2 usage, 75 try again, 78 configuration.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use comfy_table::{Table, presets};
use serde::Serialize;

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It did not work (1).
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// What was given on the command line can't be used (2).
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// It may work later (75, EX_TEMPFAIL).
    pub(super) fn try_again(message: impl Into<String>) -> Self {
        Self { code: 75, message: message.into() }
    }

    /// The configuration can't be used (78, EX_CONFIG).
    pub(super) fn configuration(message: impl Into<String>) -> Self {
        Self { code: 78, message: message.into() }
    }

    /// What it says.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The same as a plain no (1), for who knows nothing else.
    pub(super) fn into_no(self) -> Self {
        Self { code: 1, ..self }
    }

    /// Prints it, and answers its exit code.
    pub(super) fn report(self) -> ExitCode {
        note(&format!("tollgate: {}", self.message));
        ExitCode::from(self.code)
    }
}

/// Prints a line of the result. A reader that has left is not worth a word.
pub(super) fn result(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

/// Prints a line beside the result.
pub(super) fn note(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Prints a result as one JSON value.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?;
    result(&text);
    Ok(())
}

/// Prints a table.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec()).add_rows(rows);
    result(&table.to_string());
}
