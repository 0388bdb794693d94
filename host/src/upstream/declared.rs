//! What backends there shall be, and how that becomes the set of those there are.

use std::{ops::RangeInclusive, sync::Arc};

use super::backend::Backend;
use crate::config;

/// Who wants a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration.
    Config,
    /// The store: it was added by command.
    Store,
}

impl Origin {
    /// The word for it in lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Store => "store",
        }
    }
}

/// A backend that there shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredBackend {
    /// Where it is, and what it is.
    pub config: config::Backend,
    /// Who wants it.
    pub origin: Origin,
    /// Whether it gets no new calls.
    pub is_drained: bool,
}

impl DeclaredBackend {
    /// A backend of the configuration that isn't drained.
    pub fn of_config(config: &config::Backend) -> Self {
        Self { config: config.clone(), origin: Origin::Config, is_drained: false }
    }
}

/// The set after a change, by id. What stays as it was is the same backend, with all that is known of it; anything else
/// is a new one. Of two with one name the first counts. Nothing is changed on the backends themselves.
pub(super) fn next<'a>(
    present: &[Arc<Backend>],
    declared: &'a [DeclaredBackend],
    ids: &mut RangeInclusive<u32>,
) -> Vec<(Arc<Backend>, &'a DeclaredBackend)> {
    let mut next: Vec<(Arc<Backend>, &DeclaredBackend)> = Vec::with_capacity(declared.len());
    for wanted in declared {
        if next.iter().any(|(backend, _)| **backend.name() == *wanted.config.name) {
            tracing::warn!(backend = wanted.config.name, "two backends have this name: the first counts");
            continue;
        }
        let kept = present.iter().find(|backend| backend.is(wanted)).map(Arc::clone);
        let Some(backend) = kept.or_else(|| Some(Arc::new(Backend::new(ids.next()?, wanted)))) else {
            tracing::error!(backend = wanted.config.name, "no ids are left for backends: restart the gate");
            continue;
        };
        next.push((backend, wanted));
    }
    next.sort_unstable_by_key(|(backend, _)| backend.id());
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendKind, BackendUrl};

    fn declared(name: &str, url: &str) -> DeclaredBackend {
        let url = BackendUrl::parse(url, false).unwrap();
        let config =
            config::Backend { name: name.to_owned(), url, kind: BackendKind::Ollama, weight: 1, anthropic: false };
        DeclaredBackend::of_config(&config)
    }

    fn backends(next: Vec<(Arc<Backend>, &DeclaredBackend)>) -> Vec<Arc<Backend>> {
        next.into_iter().map(|(backend, _)| backend).collect()
    }

    #[test]
    fn what_stays_as_it_was_stays_itself_and_no_id_is_used_twice() {
        let mut ids = 0..=u32::MAX;
        let (one, two, three) = (declared("a", "http://a"), declared("b", "http://b"), declared("c", "http://c"));
        let first = backends(next(&[], &[one.clone(), two.clone()], &mut ids));
        assert_eq!(first.iter().map(|backend| backend.id()).collect::<Vec<_>>(), [0, 1]);

        let moved = declared("a", "http://elsewhere");
        let second = backends(next(&first, &[three, moved, two.clone()], &mut ids));
        let names: Vec<(u32, &str)> = second.iter().map(|backend| (backend.id(), &**backend.name())).collect();
        assert_eq!(names, [(1, "b"), (2, "c"), (3, "a")]);
        assert!(Arc::ptr_eq(&first[1], &second[0]));

        let third = backends(next(&second, &[one, two], &mut ids));
        assert_eq!(third.iter().map(|backend| backend.id()).collect::<Vec<_>>(), [1, 4], "the old `a` is another one");
    }

    #[test]
    fn another_kind_makes_another_backend_and_another_weight_does_not() {
        let mut ids = 0..=u32::MAX;
        let was = declared("a", "http://a");
        let first = backends(next(&[], std::slice::from_ref(&was), &mut ids));
        let mut heavier = was.clone();
        heavier.config.weight = 9;
        assert!(Arc::ptr_eq(&first[0], &backends(next(&first, &[heavier], &mut ids))[0]));
        let mut other = was;
        other.config.kind = BackendKind::OpenAi;
        assert_eq!(backends(next(&first, &[other], &mut ids))[0].id(), 1);
    }

    #[test]
    fn the_first_of_two_with_one_name_counts_and_without_ids_nothing_new_comes() {
        let mut ids = 7..=7;
        let both = [declared("a", "http://a"), declared("a", "http://b"), declared("b", "http://b")];
        let only = backends(next(&[], &both, &mut ids));
        assert_eq!((only.len(), only[0].id(), only[0].url().to_string()), (1, 7, "http://a".to_owned()));
    }
}
