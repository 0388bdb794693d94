//! `tollgate policy check`: whether a gate would take this file, by all that it looks at first.

use serde_json::json;

use super::file::{Loaded, PolicyArguments};
use crate::{
    app::check_policy_file,
    cli::{
        Format,
        output::{self, Failure},
    },
    policy::Hook,
    wasm::BUILT_IN,
};

pub(super) fn check(arguments: &PolicyArguments, format: Format) -> Result<(), Failure> {
    let unusable = |problem: String| Failure::failed(format!("{} can't be used: {problem}", arguments.file.display()));
    check_policy_file(&arguments.file).map_err(unusable)?;
    let loaded = arguments.load()?;
    if let Some(hook) = missing_hook(&loaded)? {
        let problem = format!("it takes the place of a built-in policy, and must export the hook `{}`", hook.as_str());
        return Err(unusable(problem));
    }
    let cases = arguments.cases(None)?;
    let reports = cases.map_or_else(Vec::new, |cases| loaded.runtime.run_cases(loaded.policy(), &cases));
    let failed: Vec<&str> =
        reports.iter().filter(|report| !report.holds()).map(|report| report.name.as_str()).collect();
    if !failed.is_empty() {
        let problem = format!("these cases fail: {}; see `tollgate policy test`", failed.join(", "));
        return Err(unusable(problem));
    }
    let Loaded { name, started, .. } = loaded;
    let policy = started.warm().map_err(|error| arguments.unusable(&error))?;
    let hooks: Vec<&str> = policy.inspection().hooks.iter().map(|hook| hook.as_str()).collect();
    match format {
        Format::Json => output::json(&json!({ "name": name, "hooks": hooks, "cases": reports.len() })),
        Format::Table => {
            let cases =
                if reports.is_empty() { "it has no cases".to_owned() } else { format!("{} cases hold", reports.len()) };
            output::result(&format!("{name}: can be used at {}; {cases}", hooks.join(", ")));
            Ok(())
        }
    }
}

/// The hook that the built-in policy of this name decides and this one doesn't.
fn missing_hook(loaded: &Loaded) -> Result<Option<Hook>, Failure> {
    let Some(built_in) = BUILT_IN.iter().find(|built_in| *built_in.name == *loaded.name) else { return Ok(None) };
    let replaced = loaded
        .runtime
        .compile(built_in.bytes)
        .map_err(|error| Failure::failed(format!("built-in policy '{}': {error}", built_in.name)))?;
    let found = &loaded.compiled.inspection().hooks;
    Ok(replaced.inspection().hooks.iter().find(|hook| !found.contains(hook)).copied())
}
