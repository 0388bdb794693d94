//! `tollgate policy`: what is in a policy file.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use clap::Subcommand;
use serde::Serialize;

use super::{
    Format,
    output::{self, Failure},
};
use crate::{
    clock::Clock,
    policy::Grants,
    ports::{catalogue::NoBackends, limits::LimitSet},
    wasm::{MAX_COMPONENT_BYTES, Runtime, RuntimeConfig},
};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say which hooks a policy decides and what it imports, or why it can't be used
    Inspect {
        /// The component, as it would lie in the policy folder
        file: PathBuf,
    },
}

#[derive(Debug, Serialize)]
struct Inspected<'a> {
    name: &'a str,
    bytes: usize,
    hooks: Vec<&'static str>,
    imports: &'a [String],
    /// What the imports make possible, in words.
    capabilities: Vec<&'static str>,
}

pub(super) fn answer(command: PolicyCommand, format: Format) -> Result<(), Failure> {
    let PolicyCommand::Inspect { file } = command;
    let unreadable = |error: std::io::Error| Failure::failed(format!("{} can't be read: {error}", file.display()));
    let size = fs::metadata(&file).map_err(unreadable)?.len();
    if usize::try_from(size).is_ok_and(|size| size > MAX_COMPONENT_BYTES) {
        return Err(Failure::failed(format!("{} has more than {MAX_COMPONENT_BYTES} bytes", file.display())));
    }
    let bytes = fs::read(&file).map_err(unreadable)?;
    let config = RuntimeConfig {
        cpu_budget: Duration::from_millis(2),
        memory_bytes: 64 << 20,
        masked_headers: Vec::new(),
        default_limits: LimitSet::default(),
        ready_instances: 1,
        recheck_every: 0,
        cache: None,
    };
    let runtime = Runtime::start(config, Clock::system(), Arc::new(NoBackends))
        .map_err(|error| Failure::failed(error.to_string()))?;
    let name: Arc<str> = file.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default().into();
    let policy = runtime
        .load(&name, &bytes, "{}", Grants::ALL)
        .map_err(|error| Failure::failed(format!("{} can't be used as a policy: {error}", file.display())))?;
    let inspection = policy.inspection();
    let hooks: Vec<&str> = inspection.hooks.iter().map(|hook| hook.as_str()).collect();
    let capabilities = inspection.capabilities.iter().map(|capability| capability.as_str()).collect();
    let inspected = Inspected { name: &name, bytes: bytes.len(), hooks, imports: &inspection.imports, capabilities };
    if format == Format::Json {
        return output::json(&inspected);
    }
    output::result(&format!(
        "name: {}\nbytes: {}\nhooks: {}",
        inspected.name,
        inspected.bytes,
        inspected.hooks.join(", ")
    ));
    for capability in inspected.capabilities {
        output::result(&format!("can: {capability}"));
    }
    for import in inspected.imports {
        output::result(&format!("import: {import}"));
    }
    Ok(())
}
