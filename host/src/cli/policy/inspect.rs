//! `tollgate policy inspect`: what a policy decides, and what it can do.

use serde::Serialize;

use super::file::PolicyArguments;
use crate::{
    app::version_of,
    cli::{
        Format,
        output::{self, Failure},
    },
};

/// What an import lets a policy do, by interface. `types` and `charges` are data.
const CAPABILITIES: [(&str, &str); 9] = [
    ("tollgate:policy/request", "read the request: headers without credentials, the JSON body, the caller's address"),
    ("tollgate:policy/edits", "change the call: its model, its body, headers for the backend and for the caller"),
    ("tollgate:policy/catalogue", "ask which models and backends there are"),
    ("tollgate:policy/principals", "read the caller's limits and attributes"),
    ("tollgate:policy/keys", "learn whether the presented key is proven, and what is known of it"),
    ("tollgate:policy/credential", "read the credential itself, and set attributes of the caller"),
    ("tollgate:policy/state", "keep counters and values from one call to the next"),
    ("tollgate:policy/env", "tell the time, draw random numbers, write to the log"),
    ("wasi:", "start a language's runtime, which reaches no files, network or environment"),
];

#[derive(Debug, Serialize)]
struct Inspected<'a> {
    name: &'a str,
    bytes: usize,
    version: String,
    interface: Option<&'a str>,
    hooks: Vec<&'static str>,
    capabilities: Vec<&'static str>,
    imports: &'a [String],
}

pub(super) fn inspect(arguments: &PolicyArguments, format: Format) -> Result<(), Failure> {
    let loaded = arguments.load()?;
    let inspection = loaded.policy.inspection();
    let inspected = Inspected {
        name: &loaded.name,
        bytes: loaded.bytes.len(),
        version: version_of(&loaded.bytes),
        interface: inspection.imports.iter().find_map(|import| version_in(import)),
        hooks: inspection.hooks.iter().map(|hook| hook.as_str()).collect(),
        capabilities: capabilities(&inspection.imports),
        imports: &inspection.imports,
    };
    if format == Format::Json {
        return output::json(&inspected);
    }
    output::result(&format!("name: {}\nbytes: {}\nversion: {}", inspected.name, inspected.bytes, inspected.version));
    output::result(&format!("interface: {}", inspected.interface.unwrap_or("-")));
    output::result(&format!("hooks: {}", inspected.hooks.join(", ")));
    if inspected.capabilities.is_empty() {
        output::result("can: decide by what it is told, and nothing else");
    }
    for capability in &inspected.capabilities {
        output::result(&format!("can: {capability}"));
    }
    for import in inspected.imports {
        output::result(&format!("import: {import}"));
    }
    Ok(())
}

fn version_in(import: &str) -> Option<&str> {
    import.strip_prefix("tollgate:policy/")?.split_once('@').map(|(_, version)| version)
}

fn capabilities(imports: &[String]) -> Vec<&'static str> {
    let has = |interface: &str| {
        imports.iter().any(|import| {
            let name = import.split('@').next().unwrap_or_default();
            name == interface || interface.ends_with(':') && name.starts_with(interface)
        })
    };
    CAPABILITIES.iter().filter(|(interface, _)| has(interface)).map(|(_, capability)| *capability).collect()
}

#[cfg(test)]
mod tests {
    use super::{CAPABILITIES, capabilities, version_in};

    #[test]
    fn imports_read_as_what_they_allow() {
        let imports = ["tollgate:policy/types@0.1.0", "tollgate:policy/env@0.1.0", "wasi:cli/stderr@0.2.6"];
        let found = capabilities(&imports.map(str::to_owned));
        assert_eq!(found, [CAPABILITIES[7].1, CAPABILITIES[8].1]);
        assert_eq!(version_in(imports[0]), Some("0.1.0"));
        assert_eq!(version_in(imports[2]), None);
    }
}
