//! What is kept on disk: keys, users, what is used of budgets, and declared backends. One trait, so that another database can stand behind it.

use std::fmt::Debug;

use super::{
    budgets::{BudgetChange, StoredBudget},
    keys::{KeyRecord, KeyState, Scope, User, UserState},
    limits::LimitChange,
};

/// A key's keyed hash, as stored.
pub type SecretHash = [u8; 32];

/// A key with the hash that proves its secret; never leaves identity and store.
#[derive(Clone)]
pub struct StoredKey {
    /// What everyone may know.
    pub record: KeyRecord,
    /// Keyed hash over id and secret.
    pub hash: SecretHash,
    /// The secret before the last rotation, which may prove the key as well for a while.
    pub former: Option<FormerSecret>,
}

impl Debug for StoredKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StoredKey")
            .field("record", &self.record)
            .field("hash", &"…")
            .field("former", &self.former)
            .finish()
    }
}

/// What proves a key until its time is up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FormerSecret {
    /// Keyed hash over id and secret.
    pub hash: SecretHash,
    /// From when on it proves nothing, in Unix milliseconds.
    pub until_ms: u64,
}

impl Debug for FormerSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FormerSecret").field("hash", &"…").field("until_ms", &self.until_ms).finish()
    }
}

/// Named lists of texts, to be stored: at most 64 names of 1 to 64 characters, with at most 64 values of at most 1,024
/// characters each; no control characters.
pub type NewAttributes = Vec<(String, Vec<String>)>;

/// A key to be made.
#[derive(Clone)]
pub struct NewKey {
    /// Public id.
    pub id: String,
    /// What its creator calls it.
    pub name: String,
    /// Name of the user who owns it; made if there is none of this name.
    pub user: Option<String>,
    /// Its own limits.
    pub limits: Vec<LimitChange>,
    /// Which models it may use.
    pub scope: Scope,
    /// Whether it may use the operations that change a backend.
    pub may_manage: bool,
    /// What policies may ask of it.
    pub attributes: NewAttributes,
    /// Its end, in Unix milliseconds.
    pub expires_at_ms: Option<u64>,
    /// When it is made, in Unix milliseconds.
    pub created_at_ms: u64,
    /// Keyed hash over id and secret.
    pub hash: SecretHash,
}

impl Debug for NewKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NewKey").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A new secret for a key.
#[derive(Clone)]
pub struct Rotation {
    /// The key's id.
    pub id: String,
    /// Keyed hash over the id and the new secret.
    pub hash: SecretHash,
    /// Now, in Unix milliseconds.
    pub now_ms: u64,
    /// Until when the present secret proves the key beside the new one, in Unix milliseconds; none: no longer.
    pub former_until_ms: Option<u64>,
}

impl Debug for Rotation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Rotation")
            .field("id", &self.id)
            .field("former_until_ms", &self.former_until_ms)
            .finish_non_exhaustive()
    }
}

/// What a rotation did beside its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Whether the secret before the present one still proved the key; it doesn't any more.
    pub has_ended_former: bool,
}

/// A user to be made, active.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Unique name, 1 to 200 characters.
    pub name: String,
    /// What policies may ask of their keys.
    pub attributes: NewAttributes,
    /// What all of their keys together are limited to.
    pub limits: Vec<LimitChange>,
    /// When they are made, in Unix milliseconds.
    pub created_at_ms: u64,
}

/// What is to be said of a user from now on. Done as a whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct UserChanges {
    /// Values in place of those that the user has under these names; other names stay, and one without values goes.
    pub attributes: NewAttributes,
    /// Limits in place of those of the same name and model; others stay.
    pub limits: Vec<LimitChange>,
}

/// A user as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredUser {
    /// What everyone may know.
    pub user: User,
    /// How many of their keys are not revoked.
    pub live_keys: u64,
}

/// A backend that was added by command, beside those of the configuration.
///
/// Its texts are as they were checked when it was added; whoever uses it checks them again, because the configuration
/// may have changed since: its name may be taken there, or its address no longer be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBackend {
    /// Unique among stored backends.
    pub name: String,
    /// Its address in the usual form; unique among stored backends.
    pub url: String,
    /// What it speaks, in the configuration's words: `ollama` or `openai`.
    pub kind: String,
    /// What policies are told as its weight, 1 to 1000.
    pub weight: u32,
    /// Whether it answers in Anthropic's API too; only one of kind `openai` says so.
    pub anthropic: bool,
    /// When it was added, in Unix milliseconds.
    pub created_at_ms: u64,
}

/// What the store says about backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Those that were added by command, the oldest first.
    pub backends: Vec<StoredBackend>,
    /// Names of the drained ones, sorted: of the configuration and of the store. No new calls go to them.
    pub drained: Vec<String>,
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("the store failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What the database holds makes no sense.
    #[error("the store holds {what}, which this version can't read: was it written by a newer one?")]
    Unreadable {
        /// Which value.
        what: String,
    },
    /// The store may not be used where it is, or not with this value; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The same user has a key of this name.
    #[error("there is a key named '{name}' already: choose another name, or revoke that key first")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No key has this id or name.
    #[error("there is no key '{key}': `tollgate keys list` shows them")]
    NoSuchKey {
        /// What was asked for.
        key: String,
    },
    /// Several keys have this name.
    #[error("several keys are named '{key}': use the id, which `tollgate keys list` shows")]
    Ambiguous {
        /// What was asked for.
        key: String,
    },
    /// There is a user of this name.
    #[error("there is a user named '{name}' already: `tollgate users list` shows them")]
    UserTaken {
        /// The name.
        name: String,
    },
    /// No user has this name.
    #[error("there is no user '{user}': `tollgate users list` shows them")]
    NoSuchUser {
        /// Who was asked for.
        user: String,
    },
    /// A disabled user gets no new keys.
    #[error("user '{user}' is disabled: run `tollgate users enable` first")]
    UserDisabled {
        /// Whose key it would have been.
        user: String,
    },
    /// A user with live keys stays.
    #[error(
        "user '{user}' has keys that are not revoked ({live_keys}): revoke them first; `tollgate keys list` shows them"
    )]
    UserHasKeys {
        /// Who was to go.
        user: String,
        /// How many.
        live_keys: u64,
    },
    /// No backend has this name.
    #[error("there is no backend '{name}': `tollgate backends list` shows them")]
    NoSuchBackend {
        /// What was asked for.
        name: String,
    },
    /// Another backend has this name or address.
    #[error("there is a backend with this {what} already, '{name}': `tollgate backends list` shows them")]
    BackendTaken {
        /// `name` or `URL`.
        what: &'static str,
        /// The backend that has it.
        name: String,
    },
    /// A revoked key stays revoked.
    #[error("key '{key}' is revoked for good: create a new one")]
    Revoked {
        /// What was asked for.
        key: String,
    },
}

/// A promise of a store's answer.
pub type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keys, users and backends on disk. Every change but that of budgets raises the revision, so that other processes notice; what changes
/// nothing leaves it. A key is meant by its id, or by its name where only one live key has it.
pub trait Store: Debug + Send + Sync {
    /// A number that grows with every change.
    fn revision(&self) -> Answer<'_, i64>;

    /// All keys that are not revoked, and those that are: the revoked ones must still be known as such.
    fn keys(&self) -> Answer<'_, Vec<StoredKey>>;
    /// The key that is meant.
    fn key<'a>(&'a self, key: &'a str) -> Answer<'a, StoredKey>;
    /// Makes a key, and its user if need be. A disabled user gets none.
    fn create_key(&self, key: NewKey) -> Answer<'_, ()>;
    /// Changes the state of the key that is meant. Answers its id.
    fn set_key_state<'a>(&'a self, key: &'a str, state: KeyState) -> Answer<'a, String>;
    /// Changes limits of the key that is meant, if it is not revoked; others stay. At most 64 models of one key have limits
    /// of their own, and no more of a user's. Answers the key's id.
    fn change_key_limits<'a>(&'a self, key: &'a str, changes: Vec<LimitChange>) -> Answer<'a, String>;
    /// Gives a key that is not revoked a new secret. All else about it stays.
    fn rotate_key(&self, rotation: Rotation) -> Answer<'_, Rotated>;

    /// All users, by name.
    fn users(&self) -> Answer<'_, Vec<StoredUser>>;
    /// Makes a user.
    fn create_user(&self, user: NewUser) -> Answer<'_, ()>;
    /// Changes a user's state, and so the standing of all of their keys.
    fn set_user_state<'a>(&'a self, user: &'a str, state: UserState) -> Answer<'a, ()>;
    /// Changes a user's attributes and limits.
    fn change_user<'a>(&'a self, user: &'a str, changes: UserChanges) -> Answer<'a, ()>;
    /// Removes a user all of whose keys are revoked. The revoked keys stay, as nobody's.
    fn remove_user<'a>(&'a self, user: &'a str) -> Answer<'a, ()>;

    /// What is used of periods that are not over at this time.
    fn budgets(&self, now_unix_us: u64) -> Answer<'_, Vec<StoredBudget>>;
    /// Adds to what is used, all of it or nothing; a later period takes the place of an earlier one, and past ones go. Leaves
    /// the revision as it is.
    fn add_to_budgets<'a>(&'a self, changes: &'a [BudgetChange], now_unix_us: u64) -> Answer<'a, ()>;

    /// Backends that were added by command, and which backends are drained; both as of one moment.
    fn declared_backends(&self) -> Answer<'_, Declared>;
    /// Adds a backend; its texts are checked by the caller. At most 1,024 can be added.
    fn add_backend(&self, backend: StoredBackend) -> Answer<'_, ()>;
    /// Removes a backend that was added, and takes it for drained no longer.
    fn remove_backend<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
    /// Says whether a backend is drained. `configured` are the names of those in the configuration, which the store
    /// doesn't know.
    fn set_backend_drained<'a>(&'a self, name: &'a str, is_drained: bool, configured: &'a [String]) -> Answer<'a, ()>;
}
