//! Values as the database keeps them, both ways.
//!
//! A row may have been written by another version or by hand: every value is checked, and what can't be read is an
//! error, never a default.

use std::{collections::HashMap, sync::Arc};

use sqlx::{Row, sqlite::SqliteRow};

use super::limits::{Held, Holder};
use crate::ports::{
    keys::{Attributes, KeyRecord, KeyState, Scope, User, UserState},
    store::{FormerSecret, NewAttributes, NewKey, SecretHash, StoreError, StoredKey},
};

/// Bounds of attributes: names of one holder, values of one name, and characters of each.
const NAMES_MAX: usize = 64;
const VALUES_MAX: usize = 64;
const NAME_LENGTH_MAX: usize = 64;
const VALUE_LENGTH_MAX: usize = 1024;

/// The values of a new key that the database keeps in another form.
#[derive(Debug)]
pub(super) struct Columns {
    /// JSON list of names; none: all models.
    pub(super) models: Option<String>,
    /// JSON list of pairs of a name and its values.
    pub(super) attributes: String,
    pub(super) expires_at: Option<i64>,
    pub(super) created_at: i64,
}

impl Columns {
    pub(super) fn of(key: &NewKey) -> Result<Self, StoreError> {
        let models = match &key.scope {
            Scope::AllModels => None,
            Scope::Models(names) => Some(json(names)?),
        };
        Ok(Self {
            models,
            attributes: attributes_text(&key.attributes)?,
            expires_at: key.expires_at_ms.map(|number| signed("end", number)).transpose()?,
            created_at: signed("creation time", key.created_at_ms)?,
        })
    }
}

/// Reads rows of keys. Keys of one user share what is known of that user.
#[derive(Debug)]
pub(super) struct KeyReader {
    users: HashMap<String, Arc<User>>,
    held: Held,
}

impl KeyReader {
    /// A reader that gives these limits to their holders.
    pub(super) fn with(held: Held) -> Self {
        Self { users: HashMap::new(), held }
    }

    /// A key from the columns that [`super::keys`] selects.
    pub(super) fn read(&mut self, row: &SqliteRow) -> Result<StoredKey, StoreError> {
        let id: String = row.try_get("id")?;
        let owner = Owner::Key(&id);
        let record = KeyRecord {
            name: row.try_get::<String, _>("name")?.into(),
            user: self.user(row)?,
            state: key_state(row.try_get("state")?, &id)?,
            expires_at_ms: owner.unsigned_or_none(row, "expires_at")?,
            limits: self.held.take(Holder::Key(&id)),
            scope: scope(row.try_get("models")?, owner)?,
            may_manage: row.try_get("may_manage")?,
            attributes: attributes(row.try_get("attributes")?, owner)?,
            created_at_ms: owner.unsigned(row, "created_at")?,
            id: id.as_str().into(),
        };
        let former = match (hash(row.try_get("former_hash")?, owner)?, owner.unsigned_or_none(row, "former_until")?) {
            (Some(hash), Some(until_ms)) => Some(FormerSecret { hash, until_ms }),
            _ => None,
        };
        let hash = hash(row.try_get("hash")?, owner)?.ok_or_else(|| owner.unreadable("the missing hash"))?;
        Ok(StoredKey { record, hash, former })
    }

    fn user(&mut self, row: &SqliteRow) -> Result<Option<Arc<User>>, StoreError> {
        let Some(name) = row.try_get::<Option<&str>, _>("user_name")? else { return Ok(None) };
        if let Some(known) = self.users.get(name) {
            return Ok(Some(Arc::clone(known)));
        }
        let user = Arc::new(user(row, &mut self.held)?);
        self.users.insert(name.to_owned(), Arc::clone(&user));
        Ok(Some(user))
    }
}

/// A user from the columns `user_id`, `user_name`, `user_state`, `user_attributes` and `user_created_at`.
pub(super) fn user(row: &SqliteRow, held: &mut Held) -> Result<User, StoreError> {
    let name: String = row.try_get("user_name")?;
    let owner = Owner::User(&name);
    Ok(User {
        state: user_state(row.try_get("user_state")?, &name)?,
        attributes: attributes(row.try_get("user_attributes")?, owner)?,
        limits: held.take(Holder::User(row.try_get("user_id")?)),
        created_at_ms: owner.unsigned(row, "user_created_at")?,
        name: name.as_str().into(),
    })
}

pub(super) fn key_state(word: &str, id: &str) -> Result<KeyState, StoreError> {
    KeyState::from_word(word).ok_or_else(|| Owner::Key(id).unreadable(&format!("the state {word:?}")))
}

pub(super) fn user_state(word: &str, name: &str) -> Result<UserState, StoreError> {
    UserState::from_word(word).ok_or_else(|| Owner::User(name).unreadable(&format!("the state {word:?}")))
}

/// Whose value it is, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner<'a> {
    Key(&'a str),
    User(&'a str),
    Backend(&'a str),
}

impl Owner<'_> {
    pub(super) fn unsigned(self, row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
        self.positive(row.try_get(column)?, column)
    }

    fn unsigned_or_none(self, row: &SqliteRow, column: &str) -> Result<Option<u64>, StoreError> {
        row.try_get::<Option<i64>, _>(column)?.map(|number| self.positive(number, column)).transpose()
    }

    fn positive(self, number: i64, column: &str) -> Result<u64, StoreError> {
        u64::try_from(number).map_err(|_| self.unreadable(&format!("{number} as {column}")))
    }

    pub(super) fn unreadable(self, what: &str) -> StoreError {
        let of = match self {
            Self::Key(id) => format!("key {id:?}"),
            Self::User(name) => format!("user {name:?}"),
            Self::Backend(name) => format!("backend {name:?}"),
        };
        StoreError::Unreadable { what: format!("{what} of {of}") }
    }
}

fn hash(bytes: Option<Vec<u8>>, owner: Owner<'_>) -> Result<Option<SecretHash>, StoreError> {
    bytes.map(SecretHash::try_from).transpose().map_err(|_| owner.unreadable("a hash of another length"))
}

/// Sorted here too, because [`Scope::allows`] rests on it.
fn scope(models: Option<&str>, owner: Owner<'_>) -> Result<Scope, StoreError> {
    let Some(models) = models else { return Ok(Scope::AllModels) };
    let mut names: Vec<Box<str>> = serde_json::from_str(models).map_err(|_| owner.unreadable("the models"))?;
    names.sort_unstable();
    names.dedup();
    Ok(Scope::Models(names.into()))
}

pub(super) fn attributes(text: &str, owner: Owner<'_>) -> Result<Attributes, StoreError> {
    serde_json::from_str(text).map_err(|_| owner.unreadable("the attributes"))
}

/// Attributes as text, if they are within their bounds.
pub(super) fn attributes_text(attributes: &NewAttributes) -> Result<String, StoreError> {
    let refused = |text: String| Err(StoreError::Refused(text));
    if attributes.len() > NAMES_MAX {
        return refused(format!("there are more than {NAMES_MAX} attributes: leave some out"));
    }
    for (name, values) in attributes {
        if !is_plain(name, NAME_LENGTH_MAX) || name.is_empty() {
            return refused(format!(
                "the name of an attribute has 1 to {NAME_LENGTH_MAX} characters, none of them a control character: \
                 choose another"
            ));
        }
        if values.len() > VALUES_MAX {
            return refused(format!("attribute '{name}' has more than {VALUES_MAX} values: leave some out"));
        }
        if !values.iter().all(|value| is_plain(value, VALUE_LENGTH_MAX)) {
            return refused(format!(
                "a value of attribute '{name}' has more than {VALUE_LENGTH_MAX} characters, or a control character: \
                 choose another"
            ));
        }
    }
    json(attributes)
}

fn is_plain(text: &str, longest: usize) -> bool {
    text.chars().count() <= longest && !text.chars().any(char::is_control)
}

pub(super) fn signed(what: &str, number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Refused(format!("{number} is too large for a {what}: give a smaller one")))
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Database(Box::new(error)))
}
