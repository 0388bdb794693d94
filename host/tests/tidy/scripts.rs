//! What people and CI run: it can be run, it stops at its first error, and the README names nothing else.

use super::repository::{Finding, Repository, TextFile};
use std::os::unix::fs::PermissionsExt;

const SHEBANG: &str = "#!/usr/bin/env bash";
const STRICT: &str = "set -euo pipefail";
/// Read by the other scripts, never run.
const SHARED: &str = "scripts/lib.sh";

/// Each script is executable, runs in bash wherever that lies, and is strict before it does anything.
pub(crate) fn sound(repository: &Repository) -> Vec<Finding> {
    // What lies deeper is no script: the sources of the benchmark, and its results.
    let is_script = |path: &str| {
        let inside = path.strip_prefix("scripts/").or_else(|| path.strip_prefix(".ci/"));
        inside.is_some_and(|inside| !inside.contains('/') && !inside.ends_with(".md"))
    };
    repository
        .files()
        .filter(|file| is_script(&file.path))
        .flat_map(|file| {
            let is_executable = std::fs::metadata(repository.root().join(&file.path))
                .is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0o111);
            let closed = (!is_executable && file.path != SHARED)
                .then(|| Finding::new(&file.path, 1, format!("make it executable: chmod +x {}", file.path)));
            closed.into_iter().chain(manners(file))
        })
        .collect()
}

fn manners(file: &TextFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.text.lines().next() != Some(SHEBANG) {
        findings.push(Finding::new(&file.path, 1, format!("begin with `{SHEBANG}`")));
    }
    let first = file.lines().find(|(_, text)| !text.is_empty() && !text.starts_with('#'));
    if first.is_none_or(|(_, text)| text != STRICT) {
        let line = first.map_or(1, |(line, _)| line);
        findings.push(Finding::new(&file.path, line, format!("the first command is `{STRICT}`")));
    }
    findings
}

/// Each `./scripts/…` in a block of shell commands is there.
pub(crate) fn named_in_the_readme(repository: &Repository) -> Vec<Finding> {
    let Some(page) = repository.file("README.md") else {
        return vec![Finding::new("README.md", 1, "this file is missing: write it")];
    };
    let mut findings = Vec::new();
    let mut is_shell = false;
    let mut is_fenced = false;
    for (line, text) in page.lines() {
        if let Some(language) = text.trim_start().strip_prefix("```") {
            is_fenced = !is_fenced;
            is_shell = is_fenced && language.split_whitespace().next() == Some("sh");
            continue;
        }
        let words = text.split_whitespace().filter(|_| is_shell).take_while(|word| !word.starts_with('#'));
        for script in words.filter_map(|word| word.strip_prefix("./")).filter(|word| word.starts_with("scripts/")) {
            if repository.file(script).is_none() {
                findings.push(Finding::new(
                    &page.path,
                    line,
                    format!("there is no ./{script}: write it, or mend the command"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Repository, manners, named_in_the_readme};

    fn check(text: &str, expected: usize) {
        let repository = Repository::of(&[("scripts/a", text)]);
        assert_eq!(repository.files().flat_map(manners).count(), expected, "{text}");
    }

    #[test]
    fn a_script_names_bash_and_is_strict_first() {
        check("#!/usr/bin/env bash\n# What it does.\n\nset -euo pipefail\ncd /\n", 0);
        check("#!/bin/sh\ncd /\nset -euo pipefail\n", 2);
        check("", 2);
    }

    #[test]
    fn a_script_that_is_not_there_is_found_in_shell_blocks_only() {
        let page = "./scripts/a\n```sh\nA=1 ./scripts/b # ./scripts/c\n./scripts/d x\n```\n```text\n./scripts/e\n```\n";
        let repository = Repository::of(&[("README.md", page), ("scripts/d", "")]);
        assert_eq!(named_in_the_readme(&repository).len(), 1);
    }
}
