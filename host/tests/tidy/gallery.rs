//! The gallery shows how little a policy needs, so each of its policies stays that small.

use super::repository::{Finding, Repository};

const FOLDER: &str = "examples/gallery/";
const MOST_LINES: usize = 30;

/// Each policy has few lines, is built with the others, and is listed on the gallery's page.
pub(crate) fn policies(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let page = format!("{FOLDER}README.md");
    let manifest = format!("{FOLDER}Cargo.toml");
    for path in [&page, &manifest] {
        if repository.file(path).is_none() {
            findings.push(Finding::new(path, 1, "this file is missing: write it"));
        }
    }
    for file in repository.rust_files() {
        let name = file.path.strip_prefix(FOLDER).and_then(|name| name.strip_suffix(".rs"));
        let Some(name) = name.filter(|name| !name.contains('/')) else { continue };
        let lines = file.text.lines().count();
        if lines > MOST_LINES {
            let advice = format!("{lines} lines, {MOST_LINES} at most: let the policy do less");
            findings.push(Finding::new(&file.path, MOST_LINES + 1, advice));
        }
        if repository.file(&manifest).is_some_and(|file| !file.text.contains(&format!("path = \"{name}.rs\""))) {
            findings.push(Finding::new(&file.path, 1, format!("nothing builds it: add an [[example]] to {manifest}")));
        }
        let is_listed = |text: &str| text.contains(&format!("`{name}`")) || text.contains(&format!("({name}.rs)"));
        if repository.file(&page).is_some_and(|file| !is_listed(&file.text)) {
            findings.push(Finding::new(&file.path, 1, format!("list `{name}` in {page}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Repository, policies};

    #[test]
    fn a_long_unbuilt_unlisted_policy_is_found_three_times() {
        let long = "\n".repeat(31);
        let page = ("examples/gallery/README.md", "`good`");
        let manifest = ("examples/gallery/Cargo.toml", "path = \"good.rs\"");
        let good = ("examples/gallery/good.rs", "//! Good.");
        assert_eq!(policies(&Repository::of(&[page, manifest, good])).len(), 0);
        assert_eq!(policies(&Repository::of(&[page, manifest, ("examples/gallery/bad.rs", &long)])).len(), 3);
        assert_eq!(policies(&Repository::of(&[good])).len(), 2);
    }
}
