//! What no text file may hold, whatever its language.

use super::repository::{Finding, Repository};

/// Written in halves, so that this file doesn't hold them itself.
const MARKERS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// Notes to come back later.
pub(crate) fn markers(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.files() {
        for (line, text) in file.lines() {
            for marker in MARKERS.into_iter().filter(|marker| has_word(text, marker)) {
                findings.push(Finding::new(&file.path, line, format!("`{marker}`: do it now, or open an issue")));
            }
        }
    }
    findings
}

/// Tabs in Rust, and spaces at the end of a line anywhere.
pub(crate) fn blanks(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.files() {
        for (line, text) in file.lines() {
            if text.ends_with([' ', '\t']) {
                findings.push(Finding::new(&file.path, line, "take the blanks at the end of the line away"));
            }
            if file.path.ends_with(".rs") && text.contains('\t') {
                findings.push(Finding::new(&file.path, line, "write spaces for the tab, `\\t` in a literal"));
            }
        }
    }
    findings
}

/// Whether a text holds this as a word, not as a part of one (`mktemp` templates are rows of one letter).
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, from) = text.split_at(at);
        let after = from.strip_prefix(word).unwrap_or(from);
        !before.ends_with(is_part) && (word.ends_with('(') || !after.starts_with(is_part))
    })
}

#[cfg(test)]
mod tests {
    use super::{MARKERS, Repository, blanks, has_word, markers};

    #[test]
    fn each_marker_is_found_as_a_word_only() {
        for marker in MARKERS {
            let text = format!("fine\n// {marker} mend this");
            assert_eq!(markers(&Repository::of(&[("a.rs", &text)])).len(), 1, "{marker}");
            assert!(!has_word(&format!("a{marker}"), marker));
        }
        assert!(!has_word(&"X".repeat(6), MARKERS[2]));
    }

    #[test]
    fn blanks_are_found_where_they_hurt() {
        assert_eq!(blanks(&Repository::of(&[("a.md", "fine\nnot \n\tfine\n"), ("a.rs", "\tx")])).len(), 2);
    }
}
