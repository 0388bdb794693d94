//! What failing costs, and what policies cost that don't fail: two benchmarks of the host, in the library, and the gate's
//! own `policy bench` for policies in other languages.

use std::process::Command;

use super::PolicyArguments;
use crate::{
    failure::{Failure, Trying},
    site::Report,
};

pub(super) fn look(arguments: &PolicyArguments) -> Result<Report, Failure> {
    let mut report = Report::default();
    report.say("### Figures\n\nIn the library, on one thread.\n\n```text");
    let fault = arguments.policy_fault.as_ref().ok_or_else(|| missing("policy_fault"))?;
    report.say(said(&mut Command::new(fault))?.trim_end());
    let call = arguments.policy_call.as_ref().ok_or_else(|| missing("policy_call"))?;
    report.say(&format!("\n{}", said(&mut Command::new(call))?.trim_end()));
    for policy in &arguments.authored {
        let bytes = std::fs::metadata(policy).trying(policy.display())?.len();
        let name = policy.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = Command::new(&arguments.options.tollgate);
        command.args(["policy", "bench"]).arg(policy);
        report.say(&format!(
            "\n{name}, {} KiB, by `tollgate policy bench`\n{}",
            bytes >> 10,
            said(&mut command)?.trim_end()
        ));
    }
    report.say("```");
    Ok(report)
}

fn missing(name: &str) -> Failure {
    Failure::new(format!("figures need the benchmark `{name}`: ./scripts/policies builds it"))
}

/// What it prints; it must end well.
fn said(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().trying(format_args!("{program} can't be run"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(format!("{program} ended with {}: {why}", output.status)));
    }
    // Columns are filled up with blanks, which README doesn't have at the end of a line.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
}
