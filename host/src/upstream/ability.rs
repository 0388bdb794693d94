//! Which version of Ollama brought which operation. What is older than the oldest Ollama in use is not told apart.
//!
//! Versions are a backend's text and may be anything: one that says nothing leaves the benefit of the doubt, because the
//! backend refuses by itself what it doesn't have.

use crate::llm::{Operation, Surface};

/// Major, minor and patch.
type Version = [u32; 3];

const RESPONSES: Version = [0, 13, 3];
const MESSAGES: Version = [0, 14, 0];

/// What Ollama calls itself when somebody built it without saying a version.
const UNSTATED: Version = [0, 0, 0];

/// Whether an Ollama of this version has such an operation.
pub(super) fn ollama_has(version: &str, surface: Surface, operation: Operation) -> bool {
    let since = match (surface, operation) {
        (Surface::Anthropic, _) => MESSAGES,
        (_, Operation::Respond) => RESPONSES,
        _ => return true,
    };
    parse(version).is_none_or(|version| version == UNSTATED || version >= since)
}

/// The three numbers before any word: a release candidate counts as its release.
fn parse(text: &str) -> Option<Version> {
    let numbers = text.strip_prefix('v').unwrap_or(text).split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_there_from_its_version_on() {
        let check = |version: &str, responds: bool, speaks_anthropic: bool| {
            assert_eq!(ollama_has(version, Surface::OpenAi, Operation::Respond), responds, "{version}");
            assert_eq!(ollama_has(version, Surface::Anthropic, Operation::Chat), speaks_anthropic, "{version}");
            for operation in [Operation::Chat, Operation::Complete, Operation::Embed] {
                assert!(ollama_has(version, Surface::OpenAi, operation), "{version}");
            }
            assert!(ollama_has(version, Surface::Ollama, Operation::Show), "{version}");
        };
        check("0.9.1", false, false);
        check("0.13.2", false, false);
        check("0.13.3", true, false);
        check("0.13.3-rc1", true, false);
        check("0.13.10", true, false);
        check("0.14.0", true, true);
        check("v0.14.0", true, true);
        check("0.14.0-rc2+build", true, true);
        check("0.100.0", true, true);
        check("1.0.0", true, true);
        for unknown in ["", "0.0.0", "0.0.0-simulated", "main", "0.14", "0.x.1", "99999999999.0.0"] {
            check(unknown, true, true);
        }
    }
}
