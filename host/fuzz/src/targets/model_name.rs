//! Model names: what is taken has one canonical form, which is taken again and stays.

use crate::llm::model_name::ModelName;

/// Tries any text.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let name = match ModelName::parse(text) {
        Ok(name) => name,
        Err(error) => {
            assert!(error.to_string().len() < 300, "a message is short, whatever was sent");
            return;
        }
    };
    assert_eq!(name.spelling(), text.trim(), "the spelling survives");
    let canonical = name.canonical();
    let again = ModelName::parse(canonical).expect("a canonical name is a name");
    assert_eq!(again.canonical(), canonical, "and its own canonical form");
    assert_eq!(again.is_cloud(), name.is_cloud(), "a cloud model stays one");
    assert!(canonical.len() <= 256 && canonical.contains(':'), "it is short, and has a tag");
    assert!(
        !canonical.contains(|c: char| c.is_control() || c.is_whitespace() || "\\%?#@".contains(c)),
        "{canonical:?}"
    );
    assert!(canonical.split(['/', ':']).all(|part| !matches!(part, "" | "." | "..")), "{canonical:?}");
    let in_full = format!("registry.ollama.ai/library/{text}");
    if !text.contains('/')
        && !text.starts_with(char::is_whitespace)
        && let Ok(full) = ModelName::parse(&in_full)
    {
        assert_eq!(full.canonical(), canonical, "the full name of a short one is the same model");
    }
}
