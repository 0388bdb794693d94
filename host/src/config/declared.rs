//! A backend that was declared outside the configuration, checked as one of the configuration is.

use figment::value::Value;

use super::{
    check::{KINDS, WEIGHTS, backend_name, backend_url, speaks_anthropic},
    sections::{Backend, BackendKind},
    values::{self, Checked},
};

/// Why a backend that was declared outside the configuration can't be used. It never repeats a URL, which may hold a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {what} can't be used: {reason}")]
pub struct BackendProblem {
    /// `name`, `URL`, `kind`, `weight` or `anthropic`.
    what: &'static str,
    reason: String,
}

/// A backend as it was written elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct WrittenBackend<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub url: &'a str,
    /// What it speaks: `ollama` or `openai`.
    pub kind: &'a str,
    /// Its weight.
    pub weight: u32,
    /// Whether it answers in Anthropic's API too.
    pub anthropic: bool,
}

impl Backend {
    /// Checks what was written elsewhere by the rules of `[[backends]]`.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do.
    pub fn declared(written: &WrittenBackend<'_>, allow_link_local: bool) -> Result<Self, BackendProblem> {
        let name = of("name", backend_name(&Value::from(written.name)))?;
        let url = of("URL", backend_url(&Value::from(written.url), allow_link_local))?;
        let kind = of("kind", values::choice(KINDS)(&Value::from(written.kind)))?;
        let weight = of("weight", values::whole(WEIGHTS)(&Value::from(written.weight)))?;
        let anthropic = of("anthropic", speaks_anthropic(written.anthropic, kind))?;
        Ok(Self { name, url, kind, weight, anthropic })
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
        fn written<'a>(name: &'a str, url: &'a str, kind: &'a str, weight: u32) -> WrittenBackend<'a> {
            WrittenBackend { name, url, kind, weight, anthropic: false }
        }
        let gpu = WrittenBackend { anthropic: true, ..written("gpu-1", "HTTP://GPU:80/", "openai", 3) };
        let good = Backend::declared(&gpu, false).unwrap();
        assert_eq!((good.name.as_str(), good.url.to_string().as_str(), good.weight), ("gpu-1", "http://gpu", 3));
        assert_eq!((good.kind, good.anthropic), (BackendKind::OpenAi, true));
        let told = Backend::declared(&WrittenBackend { kind: "ollama", ..gpu }, false).unwrap_err().to_string();
        assert!(told.contains("its anthropic") && told.contains("leave it out"), "{told}");
        let check = |name: &str, url: &str, kind: &str, weight, words: &[&str]| {
            let text = Backend::declared(&written(name, url, kind, weight), false).unwrap_err().to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        };
        check("GPU 1", "http://a", "ollama", 1, &["its name", "small letters", "gpu-1"]);
        check("", "http://a", "ollama", 1, &["its name"]);
        check("a", "http://user:hunter2@a", "ollama", 1, &["its URL", "password", "leave that part out"]);
        check("a", "http://169.254.169.254", "ollama", 1, &["its URL", "upstream.allow_link_local"]);
        check("a", "http://a", "olama", 1, &["its kind", "did you mean \"ollama\"?"]);
        check("a", "http://a", "ollama", 0, &["its weight", "from 1 to 1000"]);
        assert!(Backend::declared(&written("a", "http://169.254.169.254", "ollama", 1), true).is_ok());
    }

    #[test]
    fn a_kind_has_the_word_that_is_read() {
        for (word, kind) in KINDS {
            assert_eq!(kind.as_str(), *word);
        }
    }
}
