//! Keys as rows, both ways.
//!
//! A row may have been written by another version or by hand: every value is checked, and what can't be read is an
//! error, never a default.

use sqlx::{Row, sqlite::SqliteRow};

use crate::ports::{
    keys::{Attributes, KeyRecord, KeyState, Scope},
    store::{NewKey, SecretHash, StoreError, StoredKey},
};

/// The values of a new key that the database keeps in another form.
#[derive(Debug)]
pub(super) struct Columns {
    /// JSON list of names; none: all models.
    pub(super) models: Option<String>,
    /// JSON list of pairs of a name and its values.
    pub(super) attributes: String,
    pub(super) requests_per_minute: Option<i64>,
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
            attributes: json(&key.attributes)?,
            requests_per_minute: key.requests_per_minute.map(|number| signed("limit", number)).transpose()?,
            expires_at: key.expires_at_ms.map(|number| signed("end", number)).transpose()?,
            created_at: signed("creation time", key.created_at_ms)?,
        })
    }
}

/// A key from the columns that [`super::sqlite`] selects.
pub(super) fn stored_key(row: &SqliteRow) -> Result<StoredKey, StoreError> {
    let id: String = row.try_get("id")?;
    let state: String = row.try_get("state")?;
    let state = KeyState::from_word(&state).ok_or_else(|| unreadable(format!("the state {state:?} of key {id:?}")))?;
    let hash: Vec<u8> = row.try_get("hash")?;
    let hash =
        SecretHash::try_from(hash).map_err(|_| unreadable(format!("a hash of another length for key {id:?}")))?;
    let record = KeyRecord {
        name: row.try_get::<String, _>("name")?.into(),
        user: row.try_get::<Option<String>, _>("user_name")?.map(Into::into),
        state,
        expires_at_ms: unsigned_or_none(row, &id, "expires_at")?,
        requests_per_minute: unsigned_or_none(row, &id, "requests_per_minute")?,
        scope: scope(row.try_get("models")?, &id)?,
        may_manage: false,
        attributes: attributes(row.try_get("attributes")?, &id)?,
        created_at_ms: unsigned(row.try_get("created_at")?, &id, "created_at")?,
        id: id.into(),
    };
    Ok(StoredKey { record, hash })
}

/// Sorted here too, because [`Scope::allows`] rests on it.
fn scope(models: Option<&str>, id: &str) -> Result<Scope, StoreError> {
    let Some(models) = models else { return Ok(Scope::AllModels) };
    let mut names: Vec<Box<str>> =
        serde_json::from_str(models).map_err(|_| unreadable(format!("the models of key {id:?}")))?;
    names.sort_unstable();
    names.dedup();
    Ok(Scope::Models(names.into()))
}

fn attributes(attributes: &str, id: &str) -> Result<Attributes, StoreError> {
    serde_json::from_str(attributes).map_err(|_| unreadable(format!("the attributes of key {id:?}")))
}

fn unsigned_or_none(row: &SqliteRow, id: &str, column: &str) -> Result<Option<u64>, StoreError> {
    row.try_get::<Option<i64>, _>(column)?.map(|number| unsigned(number, id, column)).transpose()
}

fn unsigned(number: i64, id: &str, column: &str) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| unreadable(format!("{number} as {column} of key {id:?}")))
}

fn signed(what: &str, number: u64) -> Result<i64, StoreError> {
    i64::try_from(number)
        .map_err(|_| StoreError::Refused(format!("{number} is too large for the {what} of a key: give a smaller one")))
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Database(Box::new(error)))
}

fn unreadable(what: String) -> StoreError {
    StoreError::Unreadable { what }
}
