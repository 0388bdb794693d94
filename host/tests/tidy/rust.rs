//! What a Rust file names: the paths in it outside tests, and which of its lines and modules are tests.
//!
//! It assumes source that compiles, and reads tokens only: a path that a macro puts together stays unseen.

use super::{
    repository::Repository,
    tokens::{Token, begins_with, tokens},
};

/// A file under `host/src` that is no test, without the tests in it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    /// Where it stands in the crate; empty for `lib.rs` and `main.rs`.
    pub(crate) module: Vec<String>,
    pub(crate) tokens: Vec<Token>,
}

/// A path as written, with what it needs to be resolved.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// How many `mod name { … }` of the same file it stands in.
    pub(crate) depth: usize,
}

/// All sources of the host.
pub(crate) fn sources(repository: &Repository) -> Vec<Source> {
    let tests = test_files(repository);
    repository
        .rust_files()
        .filter(|file| file.path.starts_with("host/src/") && !is_test(&file.path, &tests))
        .map(|file| Source {
            path: file.path.clone(),
            module: module_of(&file.path),
            tokens: Split::of(&file.text).kept,
        })
        .collect()
}

/// The stems (`host/src/a/tests`) of modules that are declared for tests only.
pub(crate) fn test_files(repository: &Repository) -> Vec<String> {
    let stems_of = |path: &str, text: &str| -> Vec<String> {
        let folder = path
            .strip_suffix("/mod.rs")
            .or_else(|| path.strip_suffix("/lib.rs"))
            .or_else(|| path.strip_suffix("/main.rs"))
            .or_else(|| path.strip_suffix(".rs"))
            .unwrap_or(path);
        Split::of(text).test_modules.into_iter().map(|name| format!("{folder}/{name}")).collect()
    };
    repository.rust_files().flat_map(|file| stems_of(&file.path, &file.text)).collect()
}

/// Whether a path is one of these modules or lies in one.
pub(crate) fn is_test(path: &str, stems: &[String]) -> bool {
    stems.iter().filter_map(|stem| path.strip_prefix(stem.as_str())).any(|tail| tail == ".rs" || tail.starts_with('/'))
}

fn module_of(path: &str) -> Vec<String> {
    let inside = path.strip_prefix("host/src/").unwrap_or(path);
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// A file cut in two: what is built, and what is built for tests only.
#[derive(Debug, Default)]
pub(crate) struct Split {
    pub(crate) kept: Vec<Token>,
    /// Lines that belong to tests.
    pub(crate) test_lines: usize,
    /// Names in `#[cfg(test)] mod name;`.
    pub(crate) test_modules: Vec<String>,
}

impl Split {
    pub(crate) fn of(source: &str) -> Self {
        let tokens = tokens(source);
        let mut split = Self::default();
        let mut rest = tokens.as_slice();
        while let Some((first, after)) = rest.split_first() {
            let is_test = begins_with(rest, &["#", "[", "cfg", "(", "test", ")", "]"])
                || begins_with(rest, &["#", "[", "cfg", "(", "all", "(", "test", ","]);
            if !is_test {
                split.kept.push(first.clone());
                rest = after;
                continue;
            }
            let (item, after) = rest.split_at(item_length(rest));
            if let (Some(first), Some(last)) = (item.first(), item.last()) {
                split.test_lines += last.line - first.line + 1;
            }
            if let [.., keyword, name, end] = item
                && keyword.text == "mod"
                && end.text == ";"
            {
                split.test_modules.push(name.text.clone());
            }
            rest = after;
        }
        split
    }
}

/// How many tokens an item takes, its attributes included.
fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    let mut is_use = false;
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "use" if depth == 0 => is_use = true,
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return index,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_use {
                    return index + 1;
                }
            }
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// All paths of two segments or more; each branch of a `use` tree is a path of its own.
pub(crate) fn paths(tokens: &[Token]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut braces: Vec<bool> = Vec::new();
    let mut before: [&str; 2] = ["", ""];
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        let depth = braces.iter().filter(|opens_module| **opens_module).count();
        let [two_before, one_before] = before;
        let mut eaten = 1;
        match first.text.as_str() {
            "use" if !begins_with(after, &["<"]) => {
                let end = after.iter().position(|token| token.text == ";").unwrap_or(after.len());
                branches(after.get(..end).unwrap_or_default(), depth, &mut found);
                eaten += end;
            }
            "{" => braces.push(two_before == "mod"),
            "}" => {
                braces.pop();
            }
            _ if first.is_word() && !(one_before == "::" && continues(two_before)) => {
                let (segments, length) = chain(rest);
                eaten = length;
                if segments.len() > 1 {
                    found.push(Named { segments, line: first.line, depth });
                }
            }
            _ => {}
        }
        let (done, left) = rest.split_at(eaten);
        for token in done {
            before = [before[1], &token.text];
        }
        rest = left;
    }
    found
}

/// Whether a `::` after this text goes on with a path, and doesn't begin one.
fn continues(text: &str) -> bool {
    text == ">" || text.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// `a::b::c` at the start of the list, and how many tokens it takes.
fn chain(tokens: &[Token]) -> (Vec<String>, usize) {
    let mut segments = Vec::new();
    let mut length = 0;
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first().filter(|(first, _)| first.is_word()) {
        segments.push(first.text.clone());
        length += 1;
        match after.split_first() {
            Some((sign, next)) if sign.text == "::" && next.first().is_some_and(Token::is_word) => {
                length += 1;
                rest = next;
            }
            _ => break,
        }
    }
    (segments, length)
}

/// The branches of a `use` tree, without its keyword and its end.
fn branches(tokens: &[Token], depth: usize, found: &mut Vec<Named>) {
    let mut outer: Vec<Vec<String>> = Vec::new();
    let mut segments: Vec<String> = Vec::new();
    let mut line = None;
    let mut is_renamed = false;
    for token in tokens {
        match token.text.as_str() {
            "::" => {}
            "as" => is_renamed = true,
            "{" => outer.push(segments.clone()),
            "," | "}" => {
                // A branch ends once: after an inner tree, or a comma before the brace, nothing is left to keep.
                if let Some(line) = line.take() {
                    found.push(Named { segments: segments.clone(), line, depth });
                }
                is_renamed = false;
                let prefix = if token.text == "}" { outer.pop() } else { outer.last().cloned() };
                segments = prefix.unwrap_or_default();
            }
            _ if is_renamed => {}
            _ => {
                segments.push(token.text.clone());
                line = Some(token.line);
            }
        }
    }
    if let Some(line) = line {
        found.push(Named { segments, line, depth });
    }
}

#[cfg(test)]
mod tests {
    use super::{Split, paths};

    fn check(source: &str, expected: &[&str]) {
        let found = paths(&Split::of(source).kept);
        let mut written: Vec<String> = found.iter().map(|named| named.segments.join("::")).collect();
        written.sort();
        assert_eq!(written, expected, "{source}");
    }

    #[test]
    fn every_branch_of_a_use_tree_is_a_path() {
        check("use crate::a::B;", &["crate::a::B"]);
        check(
            "pub use crate::{a::{self, B as C}, b::*, d};",
            &["crate::a::B", "crate::a::self", "crate::b::*", "crate::d"],
        );
        check("use {x::Y, ::z::W,};", &["x::Y", "z::W"]);
        check("fn f() -> impl Fn() + use<'_> { g::h() }", &["g::h"]);
    }

    #[test]
    fn a_path_in_an_expression_or_a_type_is_seen_once() {
        check("let x: a::B<c::D> = a::b::<e::F>::new();", &["a::B", "a::b", "c::D", "e::F"]);
        check("m!(::y::z, $crate::q::r)", &["crate::q::r", "y::z"]);
    }

    #[test]
    fn what_is_built_for_tests_only_is_not_seen() {
        check("#[cfg(test)] use a::{b, c}; use d::e;", &["d::e"]);
        check("#[cfg(test)] #[path = \"x\"] mod t { use a::b; fn f() {} } mod u { use c::d; }", &["c::d"]);
        check("#[cfg(all(test, unix))] fn f(x: [u8; 2]) { a::b() } fn g() { c::d() }", &["c::d"]);
    }

    #[test]
    fn a_module_for_tests_is_known_by_its_name() {
        let split = Split::of("#[cfg(test)]\npub(crate) mod samples;\nmod kept;");
        assert_eq!(split.test_modules, ["samples"]);
        assert_eq!(split.test_lines, 2);
    }
}
