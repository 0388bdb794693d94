//! Limits that somebody set: what is limited, and how far, for all models together and for one model alone.
//!
//! Values only: what they mean for a call is a policy's business, and counting is `quota`'s.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeMap};

/// The largest limit: what a double holds exactly, because Redis' scripts count in doubles.
pub const LARGEST_LIMIT: u64 = (1 << 53) - 1;

/// Most models for which one key or user has limits of their own.
pub const LIMITED_MODELS_MAX: usize = 64;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitName {
    /// Requests in any minute.
    RequestsPerMinute,
    /// Tokens in any minute, input and output.
    TokensPerMinute,
    /// Calls at the same time.
    Concurrent,
    /// Tokens in a day, UTC.
    TokensPerDay,
    /// Tokens in a month, UTC.
    TokensPerMonth,
}

impl LimitName {
    /// All names, in the order in which they are shown.
    pub const ALL: [Self; 5] =
        [Self::RequestsPerMinute, Self::TokensPerMinute, Self::Concurrent, Self::TokensPerDay, Self::TokensPerMonth];

    /// The word for it in the store and towards policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests-per-minute",
            Self::TokensPerMinute => "tokens-per-minute",
            Self::Concurrent => "concurrent",
            Self::TokensPerDay => "tokens-per-day",
            Self::TokensPerMonth => "tokens-per-month",
        }
    }

    /// The word for it in `[limits]` and in JSON.
    pub fn key(self) -> String {
        self.as_str().replace('-', "_")
    }

    /// The name that a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == word)
    }
}

/// At most one limit of each name. Zero admits nothing; what isn't there limits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSet(Box<[(LimitName, u64)]>);

impl LimitSet {
    /// The limit of this name.
    pub fn of(&self, name: LimitName) -> Option<u64> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, limit)| *limit)
    }

    /// All limits that are there, in the order of [`LimitName::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (LimitName, u64)> {
        self.0.iter().copied()
    }

    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a limit in place of the one of this name, or takes that away.
    pub fn set(&mut self, name: LimitName, limit: Option<u64>) {
        let others = self.iter().filter(|(known, _)| *known != name);
        let mut limits: Vec<_> = others.chain(limit.map(|limit| (name, limit))).collect();
        limits.sort_unstable();
        self.0 = limits.into();
    }
}

impl FromIterator<(LimitName, u64)> for LimitSet {
    /// The last limit of a name counts.
    fn from_iter<I: IntoIterator<Item = (LimitName, u64)>>(limits: I) -> Self {
        let mut set = Self::default();
        limits.into_iter().for_each(|(name, limit)| set.set(name, Some(limit)));
        set
    }
}

/// The limits of one key or user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// For all models together.
    overall: LimitSet,
    /// For one model alone, sorted by its canonical name. None of these sets is empty.
    models: Box<[(Box<str>, LimitSet)]>,
}

impl Limits {
    /// Those for all models together.
    pub fn overall(&self) -> &LimitSet {
        &self.overall
    }

    /// Those for one model alone, by its canonical name; none when it has none.
    pub fn of_model(&self, canonical: &str) -> Option<&LimitSet> {
        let place = self.models.binary_search_by(|(model, _)| (**model).cmp(canonical)).ok()?;
        self.models.get(place).map(|(_, set)| set)
    }

    /// Every model that has limits of its own, by canonical name.
    pub fn models(&self) -> impl ExactSizeIterator<Item = (&str, &LimitSet)> {
        self.models.iter().map(|(model, set)| (&**model, set))
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.overall.is_empty() && self.models.is_empty()
    }

    /// Does what a change says.
    pub fn apply(&mut self, change: &LimitChange) {
        let Some(canonical) = &change.model else {
            self.overall.set(change.name, change.limit);
            return;
        };
        let mut models = std::mem::take(&mut self.models).into_vec();
        match models.binary_search_by(|(model, _)| (**model).cmp(canonical)) {
            Ok(place) => {
                if let Some((_, set)) = models.get_mut(place) {
                    set.set(change.name, change.limit);
                }
            }
            Err(place) => {
                let set = change.limit.map(|limit| (change.name, limit)).into_iter().collect();
                models.insert(place, (canonical.as_str().into(), set));
            }
        }
        models.retain(|(_, set)| !set.is_empty());
        self.models = models.into();
    }
}

impl Serialize for Limits {
    /// Every name, null for unlimited, and under `models` the limits of each model that has some.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(LimitName::ALL.len() + 1))?;
        for name in LimitName::ALL {
            map.serialize_entry(&name.key(), &self.overall.of(name))?;
        }
        let own = |set: &LimitSet| set.iter().map(|(name, limit)| (name.key(), limit)).collect();
        let models: BTreeMap<&str, BTreeMap<String, u64>> =
            self.models().map(|(model, set)| (model, own(set))).collect();
        map.serialize_entry("models", &models)?;
        map.end()
    }
}

/// One limit to be set or taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// The one model that it is for, by canonical name; none: all models together.
    pub model: Option<String>,
    /// What is limited.
    pub name: LimitName,
    /// How far, at most [`LARGEST_LIMIT`]; zero admits nothing. None: the limit goes.
    pub limit: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(model: Option<&str>, name: LimitName, limit: Option<u64>) -> LimitChange {
        LimitChange { model: model.map(str::to_owned), name, limit }
    }

    #[test]
    fn every_name_has_a_word_of_its_own() {
        for name in LimitName::ALL {
            assert_eq!(LimitName::from_word(name.as_str()), Some(name));
        }
        assert_eq!(LimitName::from_word("Concurrent"), None);
    }

    #[test]
    fn a_limit_takes_the_place_of_the_one_before_it_and_none_takes_it_away() {
        let mut set = LimitSet::default();
        for (name, limit) in [
            (LimitName::TokensPerDay, Some(5)),
            (LimitName::RequestsPerMinute, Some(0)),
            (LimitName::TokensPerDay, Some(7)),
        ] {
            set.set(name, limit);
        }
        let all: Vec<_> = set.iter().collect();
        assert_eq!(all, [(LimitName::RequestsPerMinute, 0), (LimitName::TokensPerDay, 7)]);
        assert_eq!((set.of(LimitName::RequestsPerMinute), set.of(LimitName::Concurrent)), (Some(0), None));
        set.set(LimitName::RequestsPerMinute, None);
        set.set(LimitName::TokensPerDay, None);
        assert_eq!(set, LimitSet::default());
    }

    #[test]
    fn as_json_every_name_is_told_and_of_models_only_what_they_have() {
        let mut limits = Limits::default();
        limits.apply(&change(None, LimitName::RequestsPerMinute, Some(0)));
        limits.apply(&change(Some("llama3:8b"), LimitName::TokensPerDay, Some(7)));
        assert_eq!(
            serde_json::to_value(limits).unwrap(),
            serde_json::json!({
                "requests_per_minute": 0, "tokens_per_minute": null, "concurrent": null, "tokens_per_day": null,
                "tokens_per_month": null, "models": { "llama3:8b": { "tokens_per_day": 7 } },
            })
        );
    }

    #[test]
    fn a_models_limits_are_its_own_and_go_with_the_last_of_them() {
        let mut limits = Limits::default();
        for model in ["m:latest", "a:latest", "z:latest"] {
            limits.apply(&change(Some(model), LimitName::Concurrent, Some(2)));
        }
        limits.apply(&change(None, LimitName::Concurrent, Some(9)));
        limits.apply(&change(Some("a:latest"), LimitName::TokensPerMinute, Some(3)));
        let models: Vec<&str> = limits.models().map(|(model, _)| model).collect();
        assert_eq!(models, ["a:latest", "m:latest", "z:latest"]);
        let of = |limits: &Limits, model: &str| limits.of_model(model).and_then(|set| set.of(LimitName::Concurrent));
        assert_eq!((of(&limits, "m:latest"), of(&limits, "b:latest")), (Some(2), None));
        assert_eq!(limits.overall().of(LimitName::Concurrent), Some(9));
        limits.apply(&change(Some("m:latest"), LimitName::Concurrent, None));
        limits.apply(&change(Some("never:there"), LimitName::Concurrent, None));
        assert_eq!((limits.models().len(), limits.of_model("m:latest")), (2, None));
    }
}
