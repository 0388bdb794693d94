//! The shape of Rust files: their headers, their lengths, and the lints they silence.

use super::{
    repository::{Finding, Repository, TextFile},
    rust::{Split, is_test, test_files},
    tokens::{Token, begins_with, tokens},
};

const MOST_LINES: usize = 500;

/// Each file of the product and of the gallery says first what it is.
pub(crate) fn headers(repository: &Repository) -> Vec<Finding> {
    product(repository)
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| Finding::new(&file.path, 1, "open with `//!`: what it is, what it may assume, what it never does"))
        .collect()
}

/// No file has more lines than that outside tests.
pub(crate) fn lengths(repository: &Repository) -> Vec<Finding> {
    let tests = test_files(repository);
    product(repository)
        .filter(|file| !is_test(&file.path, &tests))
        .filter_map(|file| {
            let lines = file.text.lines().count().saturating_sub(Split::of(&file.text).test_lines);
            let advice = format!("{lines} lines outside tests, {MOST_LINES} at most: split it by idea");
            (lines > MOST_LINES).then(|| Finding::new(&file.path, MOST_LINES + 1, advice))
        })
        .collect()
}

/// Each attribute that silences a lint says why.
pub(crate) fn reasons(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        let tokens = tokens(&file.text);
        let mut rest = tokens.as_slice();
        while let Some((_, after)) = rest.split_first() {
            if let Some(line) = silenced_without_reason(rest) {
                findings.push(Finding::new(
                    &file.path,
                    line,
                    "say why: `#[expect(lint, reason = \"...\")]`, or mend it",
                ));
            }
            rest = after;
        }
    }
    findings
}

fn product(repository: &Repository) -> impl Iterator<Item = &TextFile> {
    repository.rust_files().filter(|file| {
        let in_a_policy = file.path.strip_prefix("policies/").is_some_and(|inside| inside.contains("/src/"));
        file.path.starts_with("host/src/") || file.path.starts_with("examples/gallery/") || in_a_policy
    })
}

/// The line of an attribute that stands first in the list and silences a lint without a reason.
fn silenced_without_reason(tokens: &[Token]) -> Option<usize> {
    let is_attribute = begins_with(tokens, &["#", "["]) || begins_with(tokens, &["#", "!", "["]);
    let first = tokens.first().filter(|_| is_attribute)?;
    let mut depth = 0_usize;
    let mut silences = false;
    let mut has_reason = false;
    let followers = tokens.iter().skip(1).map(|token| token.text.as_str()).chain([""]);
    for (token, next) in tokens.iter().zip(followers) {
        match token.text.as_str() {
            "[" | "(" => depth += 1,
            ")" => depth -= 1,
            "]" if depth == 1 => break,
            "]" => depth -= 1,
            "allow" | "expect" => silences |= next == "(",
            "reason" => has_reason |= next == "=",
            _ => {}
        }
    }
    (silences && !has_reason).then_some(first.line)
}

#[cfg(test)]
mod tests {
    use super::{Repository, headers, lengths, reasons};

    fn silenced(text: &str) -> usize {
        reasons(&Repository::of(&[("host/src/a.rs", text)])).len()
    }

    #[test]
    fn a_reason_is_asked_of_every_silenced_lint() {
        assert_eq!(silenced("#[allow(dead_code)] fn f() {}"), 1);
        assert_eq!(silenced("#![cfg_attr(test, expect(\n    dead_code\n))]"), 1);
        assert_eq!(silenced("#[expect(dead_code, reason = \"why\")] fn f() { x.expect(\"y\") }"), 0);
        assert_eq!(silenced("// #[allow(dead_code)]\n#[derive(Debug)] struct S;"), 0);
    }

    #[test]
    fn lines_of_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(500);
        let with_tests = format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n");
        let files = [("policies/a/src/b.rs", with_tests.as_str()), ("host/tests/c.rs", &long)];
        assert_eq!(lengths(&Repository::of(&files)).len(), 0);
        assert_eq!(lengths(&Repository::of(&[("host/src/a.rs", &format!("{long}\n"))])).len(), 1);
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        let files = [("host/src/a.rs", "use b::c;"), ("host/src/d.rs", "//! D."), ("host/build.rs", "")];
        assert_eq!(headers(&Repository::of(&files)).len(), 1);
    }
}
