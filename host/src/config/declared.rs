//! A backend that was declared outside the configuration, checked as one of the configuration is.

use figment::value::Value;

use super::{
    check::{KINDS, WEIGHTS, backend_name, backend_url},
    sections::{Backend, BackendKind},
    values::{self, Checked},
};

/// Why a backend that was declared outside the configuration can't be used. It never repeats a URL, which may hold a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {what} can't be used: {reason}")]
pub struct BackendProblem {
    /// `name`, `URL`, `kind` or `weight`.
    what: &'static str,
    reason: String,
}

impl Backend {
    /// Checks what was written elsewhere by the rules of `[[backends]]`.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do.
    pub fn declared(
        name: &str,
        url: &str,
        kind: &str,
        weight: u32,
        allow_link_local: bool,
    ) -> Result<Self, BackendProblem> {
        Ok(Self {
            name: of("name", backend_name(&Value::from(name)))?,
            url: of("URL", backend_url(&Value::from(url), allow_link_local))?,
            kind: of("kind", values::choice(KINDS)(&Value::from(kind)))?,
            weight: of("weight", values::whole(WEIGHTS)(&Value::from(weight)))?,
            anthropic: false,
        })
    }
}

impl BackendKind {
    /// The configuration's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::OpenAi => "openai",
        }
    }
}

fn of<T>(what: &'static str, checked: Checked<T>) -> Result<T, BackendProblem> {
    checked.map_err(|complaint| {
        let reason = match complaint.hint {
            Some(hint) => format!("{}; {hint}", complaint.message),
            None => complaint.message,
        };
        BackendProblem { what, reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_checked_as_what_is_configured() {
        let good = Backend::declared("gpu-1", "HTTP://GPU:80/", "openai", 3, false).unwrap();
        assert_eq!((good.name.as_str(), good.url.to_string().as_str(), good.weight), ("gpu-1", "http://gpu", 3));
        assert_eq!(good.kind, BackendKind::OpenAi);
        let check = |name: &str, url: &str, kind: &str, weight, words: &[&str]| {
            let text = Backend::declared(name, url, kind, weight, false).unwrap_err().to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        };
        check("GPU 1", "http://a", "ollama", 1, &["its name", "small letters", "gpu-1"]);
        check("", "http://a", "ollama", 1, &["its name"]);
        check("a", "http://user:hunter2@a", "ollama", 1, &["its URL", "password", "leave that part out"]);
        check("a", "http://169.254.169.254", "ollama", 1, &["its URL", "upstream.allow_link_local"]);
        check("a", "http://a", "olama", 1, &["its kind", "did you mean \"ollama\"?"]);
        check("a", "http://a", "ollama", 0, &["its weight", "from 1 to 1000"]);
        assert!(Backend::declared("a", "http://169.254.169.254", "ollama", 1, true).is_ok());
    }

    #[test]
    fn a_kind_has_the_word_that_is_read() {
        for (word, kind) in KINDS {
            assert_eq!(kind.as_str(), *word);
        }
    }
}
