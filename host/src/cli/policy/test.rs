//! `tollgate policy test`: a policy's cases, each with what came of it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::file::PolicyArguments;
use crate::{
    app::cases,
    cli::{
        Format,
        output::{self, Failure},
    },
    wasm::CaseReport,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    #[command(flatten)]
    policy: PolicyArguments,
    /// The cases; without it NAME.cases.json beside NAME.wasm
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
}

pub(super) fn test(arguments: &Test, format: Format) -> Result<(), Failure> {
    let Some(cases) = arguments.policy.cases(arguments.cases.as_deref())? else {
        let place = cases::place(&arguments.policy.file);
        return Err(Failure::failed(format!(
            "there are no cases: write some to {}; `tollgate policy new` makes a file to begin with",
            place.display()
        )));
    };
    let loaded = arguments.policy.load()?;
    let reports = loaded.runtime.run_cases(loaded.policy(), &cases);
    match format {
        Format::Json => output::json(&reports.iter().map(as_json).collect::<Vec<_>>())?,
        Format::Table => reports.iter().for_each(print),
    }
    let failed = reports.iter().filter(|report| !report.holds()).count();
    if failed > 0 {
        return Err(Failure::failed(format!("{failed} of {} cases fail", reports.len())));
    }
    output::note(&format!("all {} cases hold", reports.len()));
    Ok(())
}

fn as_json(report: &CaseReport) -> serde_json::Value {
    json!({
        "name": report.name,
        "hook": report.hook.as_str(),
        "holds": report.holds(),
        "expected": report.expected,
        "got": report.got,
        "differences": report.differences,
    })
}

fn print(report: &CaseReport) {
    let result = if report.holds() { "ok    " } else { "FAILED" };
    output::result(&format!("{result} {}: {}", report.hook.as_str(), report.name));
    for difference in &report.differences {
        output::result(&format!("         {difference}"));
    }
}
