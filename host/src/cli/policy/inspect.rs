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

#[derive(Debug, Serialize)]
struct Inspected<'a> {
    name: &'a str,
    bytes: usize,
    version: String,
    interface: Option<&'a str>,
    hooks: Vec<&'static str>,
    /// What the imports make possible, in words.
    capabilities: Vec<&'static str>,
    /// What the `.toml` beside it grants, where that differs from what every policy may.
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<String>,
    imports: &'a [String],
}

pub(super) fn inspect(arguments: &PolicyArguments, format: Format) -> Result<(), Failure> {
    let (name, (bytes, compiled)) = (arguments.name(), arguments.compile()?);
    let inspection = compiled.inspection();
    let inspected = Inspected {
        name: &name,
        bytes: bytes.len(),
        version: version_of(&bytes),
        interface: inspection.imports.iter().find_map(|import| version_in(import)),
        hooks: inspection.hooks.iter().map(|hook| hook.as_str()).collect(),
        capabilities: inspection.capabilities.iter().map(|capability| capability.as_str()).collect(),
        grants: arguments.terms()?.grants.text(),
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
    if let Some(grants) = &inspected.grants {
        output::result(&format!("granted: {grants}"));
    }
    for import in inspected.imports {
        output::result(&format!("import: {import}"));
    }
    Ok(())
}

fn version_in(import: &str) -> Option<&str> {
    import.strip_prefix("tollgate:policy/")?.split_once('@').map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn the_interface_s_version_stands_in_its_imports() {
        assert_eq!(version_in("tollgate:policy/types@0.1.0"), Some("0.1.0"));
        assert_eq!(version_in("wasi:cli/stderr@0.2.6"), None);
    }
}
