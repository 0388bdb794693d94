//! The store on SQLite: one file in WAL mode, one connection that writes, and a few that read.
//!
//! Several processes on one host may share the file. A change takes the write lock when it begins, so that it waits
//! for its turn instead of failing half-way, and raises the revision in the same transaction. A commit is on the disk
//! before it is answered (`synchronous=FULL`): a power cut must not bring a revoked key back. SQL is static text;
//! values are bound, never written into it.

use std::{path::Path, time::Duration};

use sqlx::{
    ConnectOptions, Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{MigrateError, Migrator},
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    place::Place,
    rows::{self, Columns},
};
use crate::ports::{
    keys::KeyState,
    store::{Answer, Declared, NewKey, Store, StoreError, StoredKey},
};

/// How the tables came to be. A released file never changes; a change of the tables is a new file.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a connection waits for another process to finish its change.
const BUSY: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection of this process.
const TURN: Duration = Duration::from_secs(10);
const READERS: u32 = 3;

const SELECT_KEYS: &str = "\
    SELECT keys.id, keys.name, users.name AS user_name, keys.hash, keys.state, keys.requests_per_minute, \
           keys.models, keys.attributes, keys.expires_at, keys.created_at \
    FROM keys LEFT JOIN users ON users.id = keys.user_id \
    ORDER BY keys.created_at, keys.id";

/// Makes no row when the name is taken; any other conflict fails.
const INSERT_KEY: &str = "\
    INSERT INTO keys (id, name, user_id, hash, state, requests_per_minute, models, attributes, expires_at, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
    ON CONFLICT (name, coalesce(user_id, '')) WHERE state <> 'revoked' DO NOTHING";

/// The key of this id stands first, then live keys of this name, then revoked ones. Two rows tell whether it is one.
const FIND_KEY: &str = "\
    SELECT id, state FROM keys WHERE id = $1 OR name = $1 \
    ORDER BY CASE WHEN id = $1 THEN 0 WHEN state <> 'revoked' THEN 1 ELSE 2 END, id \
    LIMIT 2";

/// Keys and users in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the database, makes it if there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when other users could write to its folder or open the file, or when it lies on a
    /// network file system; [`StoreError::Unreadable`] when a newer version made its tables; otherwise
    /// [`StoreError::Database`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let place = Place::prepare(path).await?;
        let options = SqliteConnectOptions::new()
            .filename(&place.path)
            .busy_timeout(BUSY)
            .foreign_keys(true)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let writing = options.clone().journal_mode(SqliteJournalMode::Wal);
        let writer = PoolOptions::new().max_connections(1).acquire_timeout(TURN).connect_with(writing).await?;
        migrate(&writer).await?;
        let reading = options.read_only(true);
        let readers = PoolOptions::new().max_connections(READERS).acquire_timeout(TURN).connect_with(reading).await?;
        Ok(Self { writer, readers })
    }

    /// Ends all connections. Readers go first, so that the last one can fold the log into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn read_revision(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query("SELECT number FROM revision").fetch_one(&self.readers).await?.try_get(0)?)
    }

    async fn read_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        sqlx::query(SELECT_KEYS).fetch_all(&self.readers).await?.iter().map(rows::stored_key).collect()
    }

    async fn insert_key(&self, key: NewKey) -> Result<(), StoreError> {
        let columns = Columns::of(&key)?;
        let mut change = self.begin().await?;
        let user_id = match &key.user {
            Some(name) => Some(find_or_make_user(&mut change, name, columns.created_at).await?),
            None => None,
        };
        let made = sqlx::query(INSERT_KEY)
            .bind(&key.id)
            .bind(&key.name)
            .bind(user_id)
            .bind(key.hash.as_slice())
            .bind(KeyState::Active.as_str())
            .bind(columns.requests_per_minute)
            .bind(columns.models)
            .bind(columns.attributes)
            .bind(columns.expires_at)
            .bind(columns.created_at)
            .execute(&mut *change)
            .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::NameTaken { name: key.name });
        }
        commit(change).await
    }

    async fn change_key_state(&self, key: &str, state: KeyState) -> Result<String, StoreError> {
        let mut change = self.begin().await?;
        let (id, found) = find_key(&mut change, key).await?;
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

    /// Begins a change; dropping it without [`commit`] undoes it.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

impl Store for SqliteStore {
    fn revision(&self) -> Answer<'_, i64> {
        Box::pin(self.read_revision())
    }

    fn keys(&self) -> Answer<'_, Vec<StoredKey>> {
        Box::pin(self.read_keys())
    }

    fn declared_backends(&self) -> Answer<'_, Declared> {
        Box::pin(self.read_declared())
    }

    fn create_key(&self, key: NewKey) -> Answer<'_, ()> {
        Box::pin(self.insert_key(key))
    }

    fn set_key_state<'a>(&'a self, key: &'a str, state: KeyState) -> Answer<'a, String> {
        Box::pin(self.change_key_state(key, state))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

/// Runs in one transaction that holds the write lock, because SQLite has no lock for migrations alone: two processes
/// that start together would both run them.
async fn migrate(writer: &SqlitePool) -> Result<(), StoreError> {
    let mut change = writer.begin_with("BEGIN IMMEDIATE").await?;
    match MIGRATIONS.run_direct(None, &mut *change, false).await {
        Ok(()) => Ok(change.commit().await?),
        Err(MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version)) => {
            Err(StoreError::Unreadable { what: format!("tables of version {version}") })
        }
        Err(error) => Err(StoreError::Database(Box::new(error))),
    }
}

/// The only way a change is kept: with a higher revision.
async fn commit(mut change: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
    sqlx::query("UPDATE revision SET number = number + 1").execute(&mut *change).await?;
    Ok(change.commit().await?)
}

/// The id of the user of this name.
async fn find_or_make_user(change: &mut SqliteConnection, name: &str, now_unix_ms: i64) -> Result<String, StoreError> {
    sqlx::query("INSERT INTO users (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING")
        .bind(fresh_user_id()?)
        .bind(name)
        .bind(now_unix_ms)
        .execute(&mut *change)
        .await?;
    let row = sqlx::query("SELECT id FROM users WHERE name = $1").bind(name).fetch_one(change).await?;
    Ok(row.try_get(0)?)
}

fn fresh_user_id() -> Result<String, StoreError> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|error| StoreError::Database(Box::new(error)))?;
    Ok(format!("usr_{:032x}", u128::from_be_bytes(random)))
}

/// The one key that a person means by an id or a name. A live key hides revoked ones of its name.
async fn find_key(change: &mut SqliteConnection, key: &str) -> Result<(String, KeyState), StoreError> {
    let rows = sqlx::query(FIND_KEY).bind(key).fetch_all(change).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let state = KeyState::from_word(&state)
            .ok_or_else(|| StoreError::Unreadable { what: format!("the state {state:?} of key {id:?}") })?;
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
