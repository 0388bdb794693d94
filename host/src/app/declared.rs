//! All backends there are: those of the configuration, and those that the store adds to them.
//!
//! The configuration goes first. What the store holds was right when it was added; it is checked again here, because
//! the configuration may have changed since. Nothing here asks a backend how it is.

pub use crate::upstream::declared::{DeclaredBackend, Origin};
use crate::{
    config::{Backend, Config, WrittenBackend},
    ports::store::{Declared, StoredBackend},
};

/// A backend of the store that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What is stored.
    pub stored: StoredBackend,
    /// Why, and what to do.
    pub reason: String,
}

/// All backends there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllBackends {
    /// Those to be used: first those of the configuration, in its order, then the stored ones, the oldest first. Names
    /// and URLs are unique.
    pub usable: Vec<DeclaredBackend>,
    /// Those of the store that can't be used; the others serve without them.
    pub left_out: Vec<LeftOut>,
    /// Names that are marked as drained and that no usable backend has.
    pub drained_unknown: Vec<String>,
}

/// Puts together what the configuration and the store say.
pub fn all_backends(config: &Config, declared: Declared) -> AllBackends {
    let Declared { backends, drained } = declared;
    let is_drained = |name: &str| drained.iter().any(|drained| drained == name);
    let mut known = AllBackends::default();
    for backend in &config.backends {
        let (config, is_drained) = (backend.clone(), is_drained(&backend.name));
        known.usable.push(DeclaredBackend { config, origin: Origin::Config, is_drained });
    }
    for stored in backends {
        let StoredBackend { name, url, kind, weight, anthropic, .. } = &stored;
        let written = WrittenBackend { name, url, kind, weight: *weight, anthropic: *anthropic };
        let checked = Backend::declared(&written, config.upstream.allow_link_local);
        let taken = |backend: Backend| match conflict(&known.usable, &backend) {
            None => Ok(backend),
            Some(reason) => Err(reason),
        };
        match checked.map_err(|problem| problem.to_string()).and_then(taken) {
            Ok(config) => {
                let is_drained = is_drained(&config.name);
                known.usable.push(DeclaredBackend { config, origin: Origin::Store, is_drained });
            }
            Err(reason) => known.left_out.push(LeftOut { stored, reason }),
        }
    }
    let is_unknown = |name: &String| !known.usable.iter().any(|known| known.config.name == *name);
    known.drained_unknown = drained.into_iter().filter(is_unknown).collect();
    known
}

/// Why a backend can't stand beside these.
pub(crate) fn conflict(usable: &[DeclaredBackend], backend: &Backend) -> Option<String> {
    let other = usable.iter().find(|known| known.config.name == backend.name || known.config.url == backend.url)?;
    let what = if other.config.name == backend.name { "name" } else { "URL" };
    let (of, way_out) = match other.origin {
        Origin::Config => ("of the configuration", "choose another, or edit the configuration"),
        Origin::Store => ("that was added", "choose another, or remove that one with `tollgate backends remove`"),
    };
    Some(format!("backend '{}' {of} has this {what} already: {way_out}", other.config.name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn stored(name: &str, url: &str, kind: &str) -> StoredBackend {
        let (name, url, kind) = (name.to_owned(), url.to_owned(), kind.to_owned());
        StoredBackend { name, url, kind, weight: 1, anthropic: false, created_at_ms: 0 }
    }

    fn config() -> Config {
        let main = WrittenBackend { name: "main", url: "http://a", kind: "ollama", weight: 1, anthropic: false };
        let main = Backend::declared(&main, false).unwrap();
        Config { backends: vec![main], ..Config::defaults_in(Path::new("/")) }
    }

    fn names(known: &AllBackends) -> Vec<(&str, Origin, bool)> {
        known.usable.iter().map(|known| (known.config.name.as_str(), known.origin, known.is_drained)).collect()
    }

    #[test]
    fn stored_backends_stand_behind_those_of_the_configuration_and_any_can_be_drained() {
        let declared = Declared {
            backends: vec![stored("z", "http://b", "ollama"), stored("b", "http://c", "openai")],
            drained: vec!["b".into(), "gone".into(), "main".into()],
        };
        let known = all_backends(&config(), declared);
        assert_eq!(
            names(&known),
            [("main", Origin::Config, true), ("z", Origin::Store, false), ("b", Origin::Store, true)]
        );
        assert_eq!((known.left_out.len(), known.drained_unknown), (0, vec!["gone".to_owned()]));
    }

    #[test]
    fn a_stored_backend_that_the_configuration_rules_out_is_left_out_with_the_reason() {
        let check = |backend: StoredBackend, words: &str| {
            let declared =
                Declared { backends: vec![backend, stored("good", "http://good", "ollama")], drained: Vec::new() };
            let known = all_backends(&config(), declared);
            assert_eq!(names(&known).len(), 2, "the other one serves");
            let [left_out] = &known.left_out[..] else { panic!("{known:?}") };
            assert!(left_out.reason.contains(words), "{left_out:?}");
        };
        check(stored("main", "http://b", "ollama"), "'main' of the configuration has this name");
        check(stored("b", "http://a", "ollama"), "'main' of the configuration has this URL");
        check(stored("b", "http://A:80/", "ollama"), "'main' of the configuration has this URL");
        check(stored("b", "http://169.254.169.254", "ollama"), "allow_link_local");
        check(stored("b", "http://b", "tgi"), "its kind");
        check(StoredBackend { anthropic: true, ..stored("b", "http://b", "ollama") }, "its anthropic");
    }
}
