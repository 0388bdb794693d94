//! The cases that lie beside a policy: it serves only if they hold.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::wasm::{CaseReport, Cases, GuestPolicy, MAX_CASES_BYTES, Runtime};

/// Where the cases of a policy file are: `NAME.cases.json` beside it.
pub fn place(component: &Path) -> PathBuf {
    component.with_extension("cases.json")
}

/// Reads a file of cases; none when it isn't there.
///
/// # Errors
/// Why it can't be used, and where it is wrong.
pub fn read(path: &Path) -> Result<Option<Cases>, String> {
    let wrong = |error: String| format!("{}: {error}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let mut json = Vec::new();
    let most = u64::try_from(MAX_CASES_BYTES).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut json).map_err(|error| wrong(error.to_string()))?;
    Cases::parse(&json).map(Some).map_err(|error| wrong(error.to_string()))
}

/// Runs a policy's cases, which stand in this file.
///
/// # Errors
/// The cases that fail, each with what it expected and got; or why the file can't be used.
pub(super) fn prove(runtime: &Runtime, policy: &GuestPolicy, (path, json): (&Path, &[u8])) -> Result<(), String> {
    let cases = Cases::parse(json).map_err(|error| format!("{}: {error}", path.display()))?;
    let failed: Vec<String> = runtime.run_cases(policy, &cases).iter().filter_map(complaint).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("{} of its {} cases fail: {}", failed.len(), cases.len(), failed.join("; ")))
}

fn complaint(report: &CaseReport) -> Option<String> {
    (!report.holds()).then(|| format!("'{}': {}", report.name, report.differences.join(", ")))
}
