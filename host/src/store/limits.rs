//! Limits of keys and users in the database: a row for each.

use std::collections::HashMap;

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::rows;
use crate::ports::{
    limits::{LARGEST_LIMIT, LIMITED_MODELS_MAX, LimitChange, LimitName, Limits},
    store::StoreError,
};

const KEY: &str = "key";
const USER: &str = "user";

const SELECT_ALL: &str = "SELECT holder, holder_id, model, name, value FROM limits";
const SELECT_OF_KEY_AND_USER: &str = "\
    SELECT holder, holder_id, model, name, value FROM limits \
    WHERE (holder = 'key' AND holder_id = $1) \
       OR (holder = 'user' AND holder_id = (SELECT user_id FROM keys WHERE id = $1))";
const SELECT_OF_USERS: &str = "SELECT holder, holder_id, model, name, value FROM limits WHERE holder = 'user'";
const SELECT_OF_ONE: &str = "\
    SELECT holder, holder_id, model, name, value FROM limits WHERE holder = $1 AND holder_id = $2";
const PUT: &str = "\
    INSERT INTO limits (holder, holder_id, model, name, value) VALUES ($1, $2, $3, $4, $5) \
    ON CONFLICT (holder, holder_id, model, name) DO UPDATE SET value = excluded.value";
const REMOVE: &str = "DELETE FROM limits WHERE holder = $1 AND holder_id = $2 AND model = $3 AND name = $4";
const REMOVE_OF_USER: &str = "DELETE FROM limits WHERE holder = 'user' AND holder_id = $1";

/// Whose limits, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder<'a> {
    Key(&'a str),
    User(&'a str),
}

impl<'a> Holder<'a> {
    fn words(self) -> (&'static str, &'a str) {
        match self {
            Self::Key(id) => (KEY, id),
            Self::User(id) => (USER, id),
        }
    }
}

/// The limits that were read, each to be taken once.
#[derive(Debug, Default)]
pub(super) struct Held {
    keys: HashMap<String, Limits>,
    users: HashMap<String, Limits>,
}

impl Held {
    /// Everybody's.
    pub(super) async fn by_all(connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        Self::of(&sqlx::query(SELECT_ALL).fetch_all(connection).await?)
    }

    /// Those of one key and of its user.
    pub(super) async fn by_key_and_user(connection: &mut SqliteConnection, id: &str) -> Result<Self, StoreError> {
        Self::of(&sqlx::query(SELECT_OF_KEY_AND_USER).bind(id).fetch_all(connection).await?)
    }

    /// Those of all users.
    pub(super) async fn by_users(connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        Self::of(&sqlx::query(SELECT_OF_USERS).fetch_all(connection).await?)
    }

    /// Takes out what a holder has.
    pub(super) fn take(&mut self, holder: Holder<'_>) -> Limits {
        match holder {
            Holder::Key(id) => self.keys.remove(id),
            Holder::User(id) => self.users.remove(id),
        }
        .unwrap_or_default()
    }

    fn of(rows: &[SqliteRow]) -> Result<Self, StoreError> {
        let mut held = Self::default();
        for row in rows {
            let (holder, id): (&str, String) = (row.try_get("holder")?, row.try_get("holder_id")?);
            let change = change(row, holder, &id)?;
            let holders = match holder {
                KEY => &mut held.keys,
                USER => &mut held.users,
                _ => return Err(StoreError::Unreadable { what: format!("limits of a {holder:?}") }),
            };
            holders.entry(id).or_default().apply(&change);
        }
        Ok(held)
    }
}

/// A row as the change that it makes to nothing.
fn change(row: &SqliteRow, holder: &str, id: &str) -> Result<LimitChange, StoreError> {
    let unreadable = |what: String| StoreError::Unreadable { what: format!("{what} of {holder} {id:?}") };
    let (word, model, value): (&str, &str, i64) = (row.try_get("name")?, row.try_get("model")?, row.try_get("value")?);
    let name = LimitName::from_word(word).ok_or_else(|| unreadable(format!("the limit {word:?}")))?;
    let limit = u64::try_from(value).ok().filter(|limit| *limit <= LARGEST_LIMIT);
    let limit = limit.ok_or_else(|| unreadable(format!("{value} as {word}")))?;
    Ok(LimitChange { model: (!model.is_empty()).then(|| model.to_owned()), name, limit: Some(limit) })
}

/// Does these changes to what a holder has; no when that changes nothing.
pub(super) async fn change_those_of(
    holder: Holder<'_>,
    changes: &[LimitChange],
    connection: &mut SqliteConnection,
) -> Result<bool, StoreError> {
    let (word, id) = holder.words();
    let rows = sqlx::query(SELECT_OF_ONE).bind(word).bind(id).fetch_all(&mut *connection).await?;
    let before = Held::of(&rows)?.take(holder);
    let mut after = before.clone();
    changes.iter().for_each(|change| after.apply(change));
    if after == before {
        return Ok(false);
    }
    if after.models().len() > LIMITED_MODELS_MAX {
        let text = format!("there are more than {LIMITED_MODELS_MAX} models with limits of their own: leave some out");
        return Err(StoreError::Refused(text));
    }
    for LimitChange { model, name, limit } in changes {
        let statement = sqlx::query(if limit.is_some() { PUT } else { REMOVE });
        let statement = statement.bind(word).bind(id).bind(model.as_deref().unwrap_or("")).bind(name.as_str());
        let statement = match limit {
            Some(limit) if *limit > LARGEST_LIMIT => {
                let text = format!("{limit} is too large for a limit: give at most {LARGEST_LIMIT}");
                return Err(StoreError::Refused(text));
            }
            Some(limit) => statement.bind(rows::signed("limit", *limit)?),
            None => statement,
        };
        statement.execute(&mut *connection).await?;
    }
    Ok(true)
}

/// The user is gone, and what limited them goes as well.
pub(super) async fn remove_those_of_user(id: &str, connection: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query(REMOVE_OF_USER).bind(id).execute(connection).await?;
    Ok(())
}
