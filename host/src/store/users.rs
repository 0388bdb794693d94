//! Users in the database.

use sqlx::{Row, SqliteConnection};

use super::{
    limits::{self, Held, Holder},
    rows::{self, Owner},
    sqlite::{SqliteStore, commit},
};
use crate::ports::{
    keys::UserState,
    store::{NewAttributes, NewUser, StoreError, StoredUser, UserChanges},
};

const SELECT_USERS: &str = "\
    SELECT users.id AS user_id, users.name AS user_name, users.state AS user_state, \
           users.attributes AS user_attributes, users.created_at AS user_created_at, \
           (SELECT count(*) FROM keys WHERE keys.user_id = users.id AND keys.state <> 'revoked') AS live_keys \
    FROM users ORDER BY users.name";

/// Makes no row when the name is taken; any other conflict fails.
const INSERT_USER: &str = "\
    INSERT INTO users (id, name, state, attributes, created_at) VALUES ($1, $2, 'active', $3, $4) \
    ON CONFLICT (name) DO NOTHING";

const NO_ATTRIBUTES: &str = "[]";

impl SqliteStore {
    pub(super) async fn read_users(&self) -> Result<Vec<StoredUser>, StoreError> {
        let mut reading = self.readers.begin().await?;
        let rows = sqlx::query(SELECT_USERS).fetch_all(&mut *reading).await?;
        let mut held = Held::by_users(&mut reading).await?;
        reading.commit().await?;
        let stored = |row| {
            let user = rows::user(row, &mut held)?;
            let live_keys = Owner::User(&user.name).unsigned(row, "live_keys")?;
            Ok(StoredUser { user, live_keys })
        };
        rows.iter().map(stored).collect()
    }

    pub(super) async fn insert_user(&self, user: NewUser) -> Result<(), StoreError> {
        let attributes = rows::attributes_text(&user.attributes)?;
        let created_at = rows::signed("creation time", user.created_at_ms)?;
        let mut change = self.begin().await?;
        if !make(&mut change, &user.name, &attributes, created_at).await? {
            return Err(StoreError::UserTaken { name: user.name });
        }
        if !user.limits.is_empty() {
            let id = find(&mut change, &user.name).await?.id;
            limits::change_those_of(Holder::User(&id), &user.limits, &mut change).await?;
        }
        commit(change).await
    }

    pub(super) async fn change_user_state(&self, user: &str, state: UserState) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let found = find(&mut change, user).await?;
        if found.state == state {
            return Ok(());
        }
        sqlx::query("UPDATE users SET state = $1 WHERE id = $2")
            .bind(state.as_str())
            .bind(found.id)
            .execute(&mut *change)
            .await?;
        commit(change).await
    }

    pub(super) async fn update_user(&self, user: &str, changes: UserChanges) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let found = find(&mut change, user).await?;
        let has_new_limits = limits::change_those_of(Holder::User(&found.id), &changes.limits, &mut change).await?;
        let before: NewAttributes =
            serde_json::from_str(&found.attributes).map_err(|_| Owner::User(user).unreadable("the attributes"))?;
        let attributes = with(before.clone(), changes.attributes);
        if attributes != before {
            sqlx::query("UPDATE users SET attributes = $1 WHERE id = $2")
                .bind(rows::attributes_text(&attributes)?)
                .bind(found.id)
                .execute(&mut *change)
                .await?;
        } else if !has_new_limits {
            return Ok(());
        }
        commit(change).await
    }

    pub(super) async fn delete_user(&self, user: &str) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let id = find(&mut change, user).await?.id;
        let row = sqlx::query("SELECT count(*) AS live_keys FROM keys WHERE user_id = $1 AND state <> 'revoked'")
            .bind(&id)
            .fetch_one(&mut *change)
            .await?;
        let live_keys = Owner::User(user).unsigned(&row, "live_keys")?;
        if live_keys > 0 {
            return Err(StoreError::UserHasKeys { user: user.to_owned(), live_keys });
        }
        sqlx::query("UPDATE keys SET user_id = NULL WHERE user_id = $1").bind(&id).execute(&mut *change).await?;
        limits::remove_those_of_user(&id, &mut change).await?;
        sqlx::query("DELETE FROM users WHERE id = $1").bind(id).execute(&mut *change).await?;
        commit(change).await
    }
}

/// The attributes with these in place of their namesakes; a name without values goes.
fn with(mut attributes: NewAttributes, changes: NewAttributes) -> NewAttributes {
    for (name, values) in changes {
        let place = attributes.iter().position(|(known, _)| *known == name);
        match place.and_then(|place| attributes.get_mut(place)) {
            Some((_, known)) => *known = values,
            None => attributes.push((name, values)),
        }
    }
    attributes.retain(|(_, values)| !values.is_empty());
    attributes
}

/// The id of the user of this name, who is made if there is none, and who may have keys.
pub(super) async fn find_or_make(
    change: &mut SqliteConnection,
    name: &str,
    now_unix_ms: i64,
) -> Result<String, StoreError> {
    make(change, name, NO_ATTRIBUTES, now_unix_ms).await?;
    let found = find(change, name).await?;
    match found.state {
        UserState::Active => Ok(found.id),
        UserState::Disabled => Err(StoreError::UserDisabled { user: name.to_owned() }),
    }
}

/// Makes a user; no when the name is taken.
async fn make(
    change: &mut SqliteConnection,
    name: &str,
    attributes: &str,
    now_unix_ms: i64,
) -> Result<bool, StoreError> {
    let made = sqlx::query(INSERT_USER)
        .bind(fresh_id()?)
        .bind(name)
        .bind(attributes)
        .bind(now_unix_ms)
        .execute(change)
        .await?;
    Ok(made.rows_affected() != 0)
}

/// A user's row, as far as changes need it.
#[derive(Debug)]
struct Found {
    id: String,
    state: UserState,
    attributes: String,
}

async fn find(change: &mut SqliteConnection, name: &str) -> Result<Found, StoreError> {
    let found = sqlx::query("SELECT id, state, attributes FROM users WHERE name = $1").bind(name);
    let Some(row) = found.fetch_optional(change).await? else {
        return Err(StoreError::NoSuchUser { user: name.to_owned() });
    };
    let state = rows::user_state(row.try_get("state")?, name)?;
    Ok(Found { id: row.try_get("id")?, state, attributes: row.try_get("attributes")? })
}

fn fresh_id() -> Result<String, StoreError> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|error| StoreError::Database(Box::new(error)))?;
    Ok(format!("usr_{:032x}", u128::from_be_bytes(random)))
}
