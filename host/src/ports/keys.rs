//! Keys and their users as the rest of the program sees them: records without secrets.

use std::sync::Arc;

use super::limits::{LimitName, LimitSet, Limits};

/// What may be done with a key now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Used.
    Active,
    /// Switched off; may come back.
    Disabled,
    /// Past its end.
    Expired,
    /// Withdrawn for good.
    Revoked,
}

impl Standing {
    /// The word for it in tables and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// What somebody decided about a key; time decides the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Used.
    Active,
    /// Switched off; may come back.
    Disabled,
    /// Withdrawn for good.
    Revoked,
}

impl KeyState {
    /// The word for it in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
        }
    }

    /// The state that a word of the store stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "active" => Some(Self::Active),
            "disabled" => Some(Self::Disabled),
            "revoked" => Some(Self::Revoked),
            _ => None,
        }
    }
}

/// What somebody decided about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserState {
    /// Their keys are used.
    Active,
    /// None of their keys is; they may come back.
    Disabled,
}

impl UserState {
    /// The word for it in tables and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
        }
    }

    /// The state that a word of the store stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "active" => Some(Self::Active),
            "disabled" => Some(Self::Disabled),
            _ => None,
        }
    }
}

/// Who owns keys. Immutable; their keys share it by [`Arc`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Unique name.
    pub name: Box<str>,
    /// What somebody decided about them.
    pub state: UserState,
    /// What policies may ask of their keys where a key itself says nothing of that name.
    pub attributes: Attributes,
    /// What all of their keys together are limited to.
    pub limits: Limits,
    /// When they were made, in Unix milliseconds.
    pub created_at_ms: u64,
}

/// Which models a caller may use, by canonical name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every model.
    #[default]
    AllModels,
    /// These only; canonical names, sorted.
    Models(Box<[Box<str>]>),
}

impl Scope {
    /// Whether a model is in scope. `canonical` is its canonical name.
    pub fn allows(&self, canonical: &str) -> bool {
        match self {
            Self::AllModels => true,
            Self::Models(names) => names.binary_search_by(|name| (**name).cmp(canonical)).is_ok(),
        }
    }
}

/// Named lists of texts.
pub type Attributes = Box<[(Box<str>, Box<[Box<str>]>)]>;

/// One key, without its secret. Immutable; shared by [`Arc`].
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Public id: what stands between `op_` and the secret.
    pub id: Box<str>,
    /// What its creator called it.
    pub name: Box<str>,
    /// The user who owns it.
    pub user: Option<Arc<User>>,
    /// What somebody decided about it.
    pub state: KeyState,
    /// Its end, in Unix milliseconds.
    pub expires_at_ms: Option<u64>,
    /// Its own limits. See [`Self::limit`].
    pub limits: Limits,
    /// Which models it may use.
    pub scope: Scope,
    /// Whether it may use the operations that change a backend.
    pub may_manage: bool,
    /// What policies may ask of it, by name; e.g. `groups`. See [`Self::attribute`].
    pub attributes: Attributes,
    /// When it was made, in Unix milliseconds.
    pub created_at_ms: u64,
}

impl KeyRecord {
    /// What may be done with the key at this moment. A disabled user's keys are disabled.
    pub fn standing(&self, now_unix_ms: u64) -> Standing {
        match self.state {
            KeyState::Revoked => Standing::Revoked,
            KeyState::Disabled => Standing::Disabled,
            KeyState::Active if self.is_of_disabled_user() => Standing::Disabled,
            KeyState::Active if self.expires_at_ms.is_some_and(|end| end <= now_unix_ms) => Standing::Expired,
            KeyState::Active => Standing::Active,
        }
    }

    /// Name of the user who owns it.
    pub fn user_name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| &*user.name)
    }

    /// Whether its user, if it has one, is disabled.
    pub fn is_of_disabled_user(&self) -> bool {
        self.user.as_ref().is_some_and(|user| user.state == UserState::Disabled)
    }

    /// What all models together are limited to for this key: its own limit; where neither it nor its user has one of
    /// this name, the default. A user's own limit is charged besides, and none of it here.
    pub fn limit(&self, name: LimitName, defaults: &LimitSet) -> Option<u64> {
        let has_user = || self.user.as_ref().is_some_and(|user| user.limits.overall().of(name).is_some());
        self.limits.overall().of(name).or_else(|| if has_user() { None } else { defaults.of(name) })
    }

    /// The values of this name: the key's own; where the key doesn't have the name, its user's. So a key can be given
    /// less than its user has.
    pub fn attribute(&self, name: &str) -> &[Box<str>] {
        let user = self.user.as_ref().map_or(&[][..], |user| &user.attributes);
        let found = [&self.attributes[..], user].into_iter().flatten().find(|(known, _)| **known == *name);
        found.map_or(&[][..], |(_, values)| values)
    }
}

/// What became of checking a presented credential against the key table.
#[derive(Clone, Debug)]
pub enum Proof {
    /// No key was presented.
    NotAKey,
    /// Unknown id or wrong secret: nobody may tell which.
    Unproven,
    /// The secret is the key's.
    Proven(Arc<KeyRecord>),
    /// The key table is too old to trust: nobody can be proven.
    Stale,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::limits::LimitChange;

    fn key(state: KeyState, expires_at_ms: Option<u64>) -> KeyRecord {
        KeyRecord {
            id: "k1".into(),
            name: "laptop".into(),
            user: None,
            state,
            expires_at_ms,
            limits: Limits::default(),
            scope: Scope::AllModels,
            may_manage: false,
            attributes: Box::default(),
            created_at_ms: 0,
        }
    }

    #[test]
    fn a_key_expires_at_its_end_and_stays_revoked_or_disabled_whatever_the_time() {
        assert_eq!(key(KeyState::Active, Some(10)).standing(9), Standing::Active);
        assert_eq!(key(KeyState::Active, Some(10)).standing(10), Standing::Expired);
        assert_eq!(key(KeyState::Revoked, Some(10)).standing(99), Standing::Revoked);
        assert_eq!(key(KeyState::Disabled, None).standing(0), Standing::Disabled);
    }

    /// A list of one name with one value.
    fn attributes(name: &str, value: &str) -> Attributes {
        [(name.into(), [value.into()].into())].into()
    }

    fn key_of(state: UserState) -> KeyRecord {
        let user = User {
            name: "ann".into(),
            state,
            attributes: attributes("groups", "staff"),
            limits: Limits::default(),
            created_at_ms: 0,
        };
        KeyRecord { user: Some(Arc::new(user)), ..key(KeyState::Active, Some(10)) }
    }

    #[test]
    fn a_disabled_users_keys_are_disabled_and_revoked_ones_stay_revoked() {
        let disabled = key_of(UserState::Disabled);
        assert_eq!((disabled.standing(9), disabled.standing(10)), (Standing::Disabled, Standing::Disabled));
        let revoked = KeyRecord { state: KeyState::Revoked, ..disabled };
        assert_eq!(revoked.standing(9), Standing::Revoked);
        assert_eq!(key_of(UserState::Active).standing(9), Standing::Active);
    }

    #[test]
    fn a_keys_own_attribute_hides_its_users() {
        let check = |own: Attributes, expected: &[&str]| {
            let key = KeyRecord { attributes: own, ..key_of(UserState::Active) };
            let found: Vec<&str> = key.attribute("groups").iter().map(|value| &**value).collect();
            assert_eq!(found, expected);
            assert!(key.attribute("Groups").is_empty());
        };
        check(Box::default(), &["staff"]);
        check(attributes("team", "x"), &["staff"]);
        check(attributes("groups", "guests"), &["guests"]);
        check([("groups".into(), Box::default())].into(), &[]);
        assert!(key(KeyState::Active, None).attribute("groups").is_empty());
    }

    /// Limits for all models together.
    fn limits(limit: Option<u64>) -> Limits {
        let mut limits = Limits::default();
        limits.apply(&LimitChange { model: None, name: LimitName::Concurrent, limit });
        limits
    }

    #[test]
    fn a_default_limit_counts_where_neither_key_nor_user_has_one() {
        let defaults: LimitSet = [(LimitName::Concurrent, 9), (LimitName::TokensPerDay, 8)].into_iter().collect();
        let check = |own: Option<u64>, users: Option<u64>, expected: Option<u64>| {
            let mut key = key_of(UserState::Active);
            key.limits = limits(own);
            key.user = key.user.map(|user| Arc::new(User { limits: limits(users), ..(*user).clone() }));
            assert_eq!(key.limit(LimitName::Concurrent, &defaults), expected, "{own:?} {users:?}");
            assert_eq!(key.limit(LimitName::TokensPerDay, &defaults), Some(8), "each name stands for itself");
            assert_eq!(key.limit(LimitName::TokensPerMonth, &defaults), None);
        };
        check(None, None, Some(9));
        check(Some(3), None, Some(3));
        check(Some(30), None, Some(30));
        check(None, Some(4), None);
        check(Some(3), Some(4), Some(3));
        assert_eq!(key(KeyState::Active, None).limit(LimitName::Concurrent, &defaults), Some(9), "without a user");
    }

    #[test]
    fn a_scope_of_models_allows_these_only() {
        let scope = Scope::Models(["a:latest".into(), "b:latest".into()].into());
        assert!(scope.allows("b:latest") && !scope.allows("c:latest") && Scope::AllModels.allows("c:latest"));
    }
}
