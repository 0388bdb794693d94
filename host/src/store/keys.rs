//! Keys in the database.

use sqlx::{Row, SqliteConnection};

use super::{
    limits::{self, Held, Holder},
    rows::{self, Columns, KeyReader},
    sqlite::{SqliteStore, commit},
    users,
};
use crate::ports::{
    keys::KeyState,
    limits::LimitChange,
    store::{NewKey, Rotated, Rotation, StoreError, StoredKey},
};

/// Keys with their users; what is given stands behind.
macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT keys.id, keys.name, keys.hash, keys.former_hash, keys.former_until, keys.state, \
                    keys.models, keys.may_manage, keys.attributes, keys.expires_at, keys.created_at, \
                    users.id AS user_id, users.name AS user_name, users.state AS user_state, \
                    users.attributes AS user_attributes, users.created_at AS user_created_at \
             FROM keys LEFT JOIN users ON users.id = keys.user_id ",
            $rest
        )
    };
}

const SELECT_KEYS: &str = select_keys!("ORDER BY keys.created_at, keys.id");
const SELECT_KEY: &str = select_keys!("WHERE keys.id = $1");

/// Makes no row when the name is taken; any other conflict fails.
const INSERT_KEY: &str = "\
    INSERT INTO keys (id, name, user_id, hash, state, models, may_manage, attributes, expires_at, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
    ON CONFLICT (name, coalesce(user_id, '')) WHERE state <> 'revoked' DO NOTHING";

/// The key of this id stands first, then live keys of this name, then revoked ones. Two rows tell whether it is one.
const FIND_KEY: &str = "\
    SELECT id, state FROM keys WHERE id = $1 OR name = $1 \
    ORDER BY CASE WHEN id = $1 THEN 0 WHEN state <> 'revoked' THEN 1 ELSE 2 END, id \
    LIMIT 2";

/// What stands on the right is the row as it was.
const ROTATE_KEY: &str = "\
    UPDATE keys \
    SET hash = $1, former_hash = CASE WHEN $2 IS NULL THEN NULL ELSE hash END, former_until = $2 \
    WHERE id = $3";

impl SqliteStore {
    pub(super) async fn read_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        let mut reading = self.readers.begin().await?;
        let rows = sqlx::query(SELECT_KEYS).fetch_all(&mut *reading).await?;
        let mut reader = KeyReader::with(Held::by_all(&mut reading).await?);
        reading.commit().await?;
        rows.iter().map(|row| reader.read(row)).collect()
    }

    pub(super) async fn read_key(&self, key: &str) -> Result<StoredKey, StoreError> {
        let mut reading = self.readers.begin().await?;
        let (id, _) = find(&mut reading, key).await?;
        let row = sqlx::query(SELECT_KEY).bind(&id).fetch_one(&mut *reading).await?;
        let held = Held::by_key_and_user(&mut reading, &id).await?;
        reading.commit().await?;
        KeyReader::with(held).read(&row)
    }

    pub(super) async fn insert_key(&self, key: NewKey) -> Result<(), StoreError> {
        let columns = Columns::of(&key)?;
        let mut change = self.begin().await?;
        let user_id = match &key.user {
            Some(name) => Some(users::find_or_make(&mut change, name, columns.created_at).await?),
            None => None,
        };
        let made = sqlx::query(INSERT_KEY)
            .bind(&key.id)
            .bind(&key.name)
            .bind(user_id)
            .bind(key.hash.as_slice())
            .bind(KeyState::Active.as_str())
            .bind(columns.models)
            .bind(key.may_manage)
            .bind(columns.attributes)
            .bind(columns.expires_at)
            .bind(columns.created_at)
            .execute(&mut *change)
            .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::NameTaken { name: key.name });
        }
        limits::change_those_of(Holder::Key(&key.id), &key.limits, &mut change).await?;
        commit(change).await
    }

    pub(super) async fn change_key_state(&self, key: &str, state: KeyState) -> Result<String, StoreError> {
        let mut change = self.begin().await?;
        let (id, found) = find(&mut change, key).await?;
        if found == state {
            return Ok(id);
        }
        if found == KeyState::Revoked {
            return Err(StoreError::Revoked { key: key.to_owned() });
        }
        sqlx::query("UPDATE keys SET state = $1 WHERE id = $2")
            .bind(state.as_str())
            .bind(&id)
            .execute(&mut *change)
            .await?;
        commit(change).await?;
        Ok(id)
    }

    pub(super) async fn update_key_limits(&self, key: &str, changes: Vec<LimitChange>) -> Result<String, StoreError> {
        let mut change = self.begin().await?;
        let (id, found) = find(&mut change, key).await?;
        if found == KeyState::Revoked {
            return Err(StoreError::Revoked { key: key.to_owned() });
        }
        if limits::change_those_of(Holder::Key(&id), &changes, &mut change).await? {
            commit(change).await?;
        }
        Ok(id)
    }

    pub(super) async fn change_secret(&self, rotation: Rotation) -> Result<Rotated, StoreError> {
        let now = rows::signed("time", rotation.now_ms)?;
        let until = rotation.former_until_ms.map(|until| rows::signed("time", until)).transpose()?;
        let mut change = self.begin().await?;
        let found = sqlx::query("SELECT state, former_until FROM keys WHERE id = $1")
            .bind(&rotation.id)
            .fetch_optional(&mut *change)
            .await?;
        let Some(row) = found else { return Err(StoreError::NoSuchKey { key: rotation.id }) };
        if rows::key_state(row.try_get("state")?, &rotation.id)? == KeyState::Revoked {
            return Err(StoreError::Revoked { key: rotation.id });
        }
        let former_until: Option<i64> = row.try_get("former_until")?;
        sqlx::query(ROTATE_KEY)
            .bind(rotation.hash.as_slice())
            .bind(until)
            .bind(&rotation.id)
            .execute(&mut *change)
            .await?;
        commit(change).await?;
        Ok(Rotated { has_ended_former: former_until.is_some_and(|end| end > now) })
    }
}

/// The one key that a person means by an id or a name. A live key hides revoked ones of its name.
async fn find(connection: &mut SqliteConnection, key: &str) -> Result<(String, KeyState), StoreError> {
    let rows = sqlx::query(FIND_KEY).bind(key).fetch_all(connection).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let id: String = row.try_get(0)?;
        let state = rows::key_state(row.try_get(1)?, &id)?;
        found.push((id, state));
    }
    let mut found = found.into_iter();
    let Some(first) = found.next() else { return Err(StoreError::NoSuchKey { key: key.to_owned() }) };
    if first.0 == key {
        return Ok(first);
    }
    match (first.1, found.next()) {
        (KeyState::Revoked, Some(_)) => Err(StoreError::Revoked { key: key.to_owned() }),
        (KeyState::Active | KeyState::Disabled, Some((_, KeyState::Active | KeyState::Disabled))) => {
            Err(StoreError::Ambiguous { key: key.to_owned() })
        }
        _ => Ok(first),
    }
}
