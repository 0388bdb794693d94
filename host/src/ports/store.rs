//! What is kept on disk: keys, users and declared backends. One trait, so that another database can stand behind it.

use std::fmt::Debug;

use super::keys::{KeyRecord, KeyState, Scope};

/// A key's keyed hash, as stored.
pub type SecretHash = [u8; 32];

/// A key with the hash that proves its secret; never leaves identity and store.
#[derive(Clone)]
pub struct StoredKey {
    /// What everyone may know.
    pub record: KeyRecord,
    /// Keyed hash over id and secret.
    pub hash: SecretHash,
}

impl Debug for StoredKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StoredKey").field("record", &self.record).field("hash", &"…").finish()
    }
}

/// A key to be made.
#[derive(Clone)]
pub struct NewKey {
    /// Public id.
    pub id: String,
    /// What its creator calls it.
    pub name: String,
    /// Name of the user who owns it; made if there is none of this name.
    pub user: Option<String>,
    /// Its own limit.
    pub requests_per_minute: Option<u64>,
    /// Which models it may use.
    pub scope: Scope,
    /// What policies may ask of it.
    pub attributes: Vec<(String, Vec<String>)>,
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
    /// A revoked key stays revoked.
    #[error("key '{key}' is revoked for good: create a new one")]
    Revoked {
        /// What was asked for.
        key: String,
    },
}

/// A promise of a store's answer.
pub type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keys, users and backends on disk. Every change raises the revision, so that other processes notice.
pub trait Store: Debug + Send + Sync {
    /// A number that grows with every change.
    fn revision(&self) -> Answer<'_, i64>;
    /// All keys that are not revoked, and those that are: the revoked ones must still be known as such.
    fn keys(&self) -> Answer<'_, Vec<StoredKey>>;
    /// Makes a key, and its user if need be.
    fn create_key(&self, key: NewKey) -> Answer<'_, ()>;
    /// Changes a key's state; `key` is its id, or its name where only one has it. Answers the key's id.
    fn set_key_state<'a>(&'a self, key: &'a str, state: KeyState) -> Answer<'a, String>;
    /// Backends that were added by command, and which backends are drained; both as of one moment.
    fn declared_backends(&self) -> Answer<'_, Declared>;
}
