//! Model names as Ollama reads them: `[host/][namespace/]model[:tag]`.
//!
//! The text is a caller's and may be anything. Two names that Ollama takes for one model have one canonical form; rules
//! and limits compare only that form. A name that could be read in two ways is refused, never repaired.

use thiserror::Error;

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// The longest name, in bytes, as written and in its canonical form.
const MAX_LENGTH_BYTES: usize = 256;

/// A model's name: how the caller wrote it, and the one form by which it is compared.
#[derive(Clone, Debug)]
pub struct ModelName {
    spelling: String,
    canonical: String,
}

/// Why a text is no model name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ModelNameError {
    /// Nothing but spaces, or nothing at all.
    #[error("the model name is empty; write one, such as `llama3` or `llama3:8b`")]
    Empty,
    /// The name, with its tag, is over 256 bytes.
    #[error("the model name with its tag is longer than {MAX_LENGTH_BYTES} bytes; write a shorter one")]
    TooLong,
    /// The name starts with, or holds, a scheme such as `https://`.
    #[error("the model name holds a URL; write it without `scheme://`, as `[host/][namespace/]model[:tag]`")]
    Url,
    /// The name asks for a digest instead of a tag.
    #[error("the model name holds a digest (`@`); name the model by its tag, as `model:tag`")]
    Digest,
    /// Spaces, tabs and the like between two parts or within one.
    #[error("the model name holds white space; write it without")]
    Whitespace,
    /// A character that cannot be seen.
    #[error("the model name holds a control character; write it without")]
    Control,
    /// A character that means something else in a path or an address.
    #[error("the model name holds `{0}`; use letters, digits, `.`, `_` and `-`")]
    Forbidden(char),
    /// More than host, namespace and model.
    #[error("the model name has more than three parts between `/`; write `[host/][namespace/]model[:tag]`")]
    TooManyParts,
    /// Nothing before, after or between two separators.
    #[error("the model name has an empty part; remove the `/` or `:` too many, or fill in what is missing")]
    EmptyPart,
    /// `.` or `..`, which a path would resolve.
    #[error("the model name has a part `.` or `..`; write `[host/][namespace/]model[:tag]`")]
    DotPart,
}

impl ModelName {
    /// Reads a caller's text; spaces around it do not count.
    ///
    /// # Errors
    /// The first thing that is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, ModelNameError> {
        let spelling = text.trim();
        if spelling.is_empty() {
            return Err(ModelNameError::Empty);
        }
        if spelling.len() > MAX_LENGTH_BYTES {
            return Err(ModelNameError::TooLong);
        }
        // Nearly all names; looking for what is wrong with a text takes longer than all else here.
        let is_plain = spelling.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte));
        if !is_plain {
            if spelling.contains("://") {
                return Err(ModelNameError::Url);
            }
            spelling.chars().try_for_each(check_character)?;
        }
        spelling.as_bytes().split(|byte| matches!(byte, b'/' | b':')).try_for_each(check_piece)?;

        let canonical = Parts::of(spelling)?.canonical();
        if canonical.len() > MAX_LENGTH_BYTES {
            return Err(ModelNameError::TooLong);
        }
        Ok(Self { spelling: spelling.to_owned(), canonical })
    }

    /// The shortest form with a tag, in lower case: `llama3:latest`, `bob/llama3:latest`, `hf.co/bob/m:q4`.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The name as the caller wrote it, without the spaces around it.
    pub fn spelling(&self) -> &str {
        &self.spelling
    }

    /// Whether Ollama would run this model on ollama.com, with the account of the backend's owner.
    ///
    /// True when the tag is `cloud` or ends in `-cloud`, in any case. In a name with several `:` each tag counts:
    /// Ollama peels source suffixes off one by one.
    pub fn is_cloud(&self) -> bool {
        let model = self.canonical.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        model.split(|byte| *byte == b':').skip(1).any(|tag| tag == b"cloud" || tag.ends_with(b"-cloud"))
    }
}

/// The four parts of a name, in the caller's spelling; what was left out stands at its default.
#[derive(Debug)]
struct Parts<'a> {
    host: &'a str,
    namespace: &'a str,
    model: &'a str,
    tag: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Self, ModelNameError> {
        let mut parts = text.rsplit('/');
        let last = parts.next().unwrap_or(text);
        let namespace = parts.next().unwrap_or(DEFAULT_NAMESPACE);
        let host = parts.next().unwrap_or(DEFAULT_HOST);
        if parts.next().is_some() {
            return Err(ModelNameError::TooManyParts);
        }
        let (model, tag) = last.rsplit_once(':').unwrap_or((last, DEFAULT_TAG));
        Ok(Self { host, namespace, model, tag })
    }

    fn canonical(&self) -> String {
        let host = Some(self.host).filter(|host| !host.eq_ignore_ascii_case(DEFAULT_HOST));
        // A host stands first of three parts, so the namespace must be spelled out behind it.
        let namespace =
            Some(self.namespace).filter(|name| host.is_some() || !name.eq_ignore_ascii_case(DEFAULT_NAMESPACE));

        let length: usize = [host, namespace, Some(self.model), Some(self.tag)].into_iter().flatten().map(room).sum();
        let mut canonical = String::with_capacity(length);
        for part in [host, namespace].into_iter().flatten() {
            push_lowercase(&mut canonical, part);
            canonical.push('/');
        }
        push_lowercase(&mut canonical, self.model);
        canonical.push(':');
        push_lowercase(&mut canonical, self.tag);
        canonical
    }
}

/// The most bytes that a part and its separator can take in lower case: no character grows by more than a half.
fn room(part: &str) -> usize {
    let growth = if part.is_ascii() { 0 } else { part.len().div_ceil(2) };
    part.len() + growth + 1
}

/// Appends a part in lower case, one character at a time, so that a letter's neighbours never change it.
fn push_lowercase(canonical: &mut String, part: &str) {
    if part.is_ascii() {
        let start = canonical.len();
        canonical.push_str(part);
        if let Some(pushed) = canonical.get_mut(start..) {
            pushed.make_ascii_lowercase();
        }
    } else {
        canonical.extend(part.chars().flat_map(char::to_lowercase));
    }
}

fn check_character(character: char) -> Result<(), ModelNameError> {
    match character {
        '@' => Err(ModelNameError::Digest),
        '\\' | '%' | '?' | '#' => Err(ModelNameError::Forbidden(character)),
        _ if character.is_control() => Err(ModelNameError::Control),
        _ if character.is_whitespace() => Err(ModelNameError::Whitespace),
        _ => Ok(()),
    }
}

fn check_piece(piece: &[u8]) -> Result<(), ModelNameError> {
    match piece {
        b"" => Err(ModelNameError::EmptyPart),
        b"." | b".." => Err(ModelNameError::DotPart),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::{ModelName, ModelNameError};

    fn canonical(text: &str) -> String {
        let name = ModelName::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        name.canonical().to_owned()
    }

    #[test]
    fn a_short_name_and_its_full_forms_are_one_model() {
        for text in [
            "llama3",
            "llama3:latest",
            "library/llama3",
            "registry.ollama.ai/library/llama3:latest",
            "Registry.Ollama.AI/Library/LLAMA3:Latest",
            "  llama3\t",
        ] {
            assert_eq!(canonical(text), "llama3:latest", "{text:?}");
        }
    }

    #[test]
    fn names_have_the_shortest_form_with_a_tag_in_lower_case() {
        fn check(text: &str, expected: &str) {
            assert_eq!(canonical(text), expected, "{text:?}");
        }
        check("llama3:8B", "llama3:8b");
        check("bob/llama3", "bob/llama3:latest");
        check("registry.ollama.ai/bob/llama3", "bob/llama3:latest");
        check("hf.co/bob/M:Q4", "hf.co/bob/m:q4");
        check("hf.co/library/m", "hf.co/library/m:latest");
        check("meta-llama/Llama-3.1-8B", "meta-llama/llama-3.1-8b:latest");
        // A colon before the last slash is a port, not a tag.
        check("localhost:5000/bob/m", "localhost:5000/bob/m:latest");
        check("localhost:5000/bob/m:q4", "localhost:5000/bob/m:q4");
        check("ft:gpt-4:org:id", "ft:gpt-4:org:id");
        check("МОДЕЛЬ", "модель:latest");
    }

    #[test]
    fn the_spelling_stays_as_it_was_written() {
        let name = ModelName::parse("  Library/LLama3 ").expect("a good name");
        assert_eq!(name.spelling(), "Library/LLama3");
    }

    #[test]
    fn a_name_that_could_be_read_in_two_ways_is_refused() {
        fn check(text: &str, expected: ModelNameError) {
            assert_eq!(ModelName::parse(text).err(), Some(expected), "{text:?}");
        }
        check("", ModelNameError::Empty);
        check(" \u{a0}\n", ModelNameError::Empty);
        check("llama3@sha256:abc", ModelNameError::Digest);
        check("@", ModelNameError::Digest);
        check("https://ollama.com/library/llama3", ModelNameError::Url);
        check("http://llama3", ModelNameError::Url);
        check("hf+x://a/b", ModelNameError::Url);
        check("://llama3", ModelNameError::Url);
        check("llama 3", ModelNameError::Whitespace);
        check("llama\u{2003}3", ModelNameError::Whitespace);
        check("llama\u{0}3", ModelNameError::Control);
        check("llama\n3", ModelNameError::Control);
        check("llama\u{85}3", ModelNameError::Control);
        check("a\\b", ModelNameError::Forbidden('\\'));
        check("a%2fb", ModelNameError::Forbidden('%'));
        check("a?b", ModelNameError::Forbidden('?'));
        check("a#b", ModelNameError::Forbidden('#'));
        check("a/b/c/d", ModelNameError::TooManyParts);
        for text in ["/", "a/", "/a", "a//b", ":", "a:", ":latest", "a::b", "a/:b", "h:/n/m", "a/b/"] {
            check(text, ModelNameError::EmptyPart);
        }
        for text in [".", "..", "../a", "a/..", "a/./b", "a:..", "a:.", "..:a"] {
            check(text, ModelNameError::DotPart);
        }
    }

    #[test]
    fn a_name_has_at_most_256_bytes_with_its_tag() {
        assert!(ModelName::parse(&"a".repeat(249)).is_ok());
        assert_eq!(ModelName::parse(&"a".repeat(250)).err(), Some(ModelNameError::TooLong));
        assert!(ModelName::parse(&format!("{}:x", "a".repeat(254))).is_ok());
        assert_eq!(ModelName::parse(&format!("{}:x", "a".repeat(255))).err(), Some(ModelNameError::TooLong));
        assert!(ModelName::parse(&format!("{}a{}", " ".repeat(300), " ".repeat(300))).is_ok());
        // This letter takes two bytes, and three in lower case.
        assert_eq!(ModelName::parse(&"Ⱥ".repeat(120)).err(), Some(ModelNameError::TooLong));
    }

    #[test]
    fn cloud_models_are_told_by_their_tag_in_any_case() {
        fn check(text: &str, expected: bool) {
            let name = ModelName::parse(text).expect("a good name");
            assert_eq!(name.is_cloud(), expected, "{text:?}");
        }
        check("gpt-oss:cloud", true);
        check("gpt-oss:Cloud ", true);
        check("gpt-oss:120b-CLOUD", true);
        check("bob/gpt-oss:120b-cloud", true);
        check("gpt-oss:120b:cloud", true);
        check("gpt-oss:cloud:local", true);
        check("cloud", false);
        check("my-cloud", false);
        check("gpt-oss:cloudy", false);
        check("gpt-oss:mycloud", false);
        check("host:cloud/bob/m", false);
    }

    fn hostile_text() -> impl Strategy<Value = String> {
        proptest::prop_oneof![
            any::<String>(),
            "[a-cA-C./:@ _Ⱥİ-]{0,24}",
            "(registry.ollama.ai/)?(library/)?[a-zA-Z0-9]{1,8}(:[a-zA-Z-]{1,8})?",
        ]
    }

    proptest! {
        #[test]
        fn a_canonical_name_is_its_own_canonical_form(text in hostile_text()) {
            if let Ok(name) = ModelName::parse(&text) {
                let again = ModelName::parse(name.canonical());
                prop_assert_eq!(again.as_ref().map(ModelName::canonical), Ok(name.canonical()));
                prop_assert_eq!(again.map(|again| again.is_cloud()), Ok(name.is_cloud()));
                prop_assert_eq!(name.spelling(), text.trim());
                prop_assert!(name.canonical().len() <= super::MAX_LENGTH_BYTES);
            }
        }

        #[test]
        fn the_case_of_a_name_never_matters(text in "[a-zA-Z0-9./:_-]{1,24}") {
            let upper = ModelName::parse(&text.to_uppercase()).map(|name| name.canonical().to_owned());
            let lower = ModelName::parse(&text.to_lowercase()).map(|name| name.canonical().to_owned());
            prop_assert_eq!(upper, lower);
        }

        #[test]
        fn lower_case_fits_the_room_reserved_for_it(text in any::<String>()) {
            let mut lower = String::new();
            super::push_lowercase(&mut lower, &text);
            prop_assert!(lower.len() < super::room(&text));
        }
    }
}
