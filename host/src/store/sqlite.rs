//! The store on SQLite: one file in WAL mode, one connection that writes, and a few that read.
//!
//! Several processes on one host may share the file. A change takes the write lock when it begins, so that it waits
//! for its turn instead of failing half-way, and raises the revision in the same transaction. A commit is on the disk
//! before it is answered (`synchronous=FULL`): a power cut must not bring a revoked key back. SQL is static text;
//! values are bound, never written into it.

use std::{path::Path, time::Duration};

use sqlx::{
    ConnectOptions, Row, Sqlite, SqlitePool, Transaction,
    migrate::{MigrateError, Migrator},
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::place::Place;
use crate::ports::{
    budgets::{BudgetChange, StoredBudget},
    keys::{KeyState, UserState},
    limits::LimitChange,
    store::{
        Answer, Declared, NewKey, NewUser, Rotated, Rotation, Store, StoreError, StoredBackend, StoredKey, StoredUser,
        UserChanges,
    },
};

/// How the tables came to be. A released file never changes; a change of the tables is a new file.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a connection waits for another process to finish its change.
const BUSY: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection of this process.
const TURN: Duration = Duration::from_secs(10);
const READERS: u32 = 3;

/// Keys, users and backends in one SQLite file. What it does to each stands in the files beside this one.
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

    /// Begins a change; dropping it without [`commit`] undoes it.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
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

    fn key<'a>(&'a self, key: &'a str) -> Answer<'a, StoredKey> {
        Box::pin(self.read_key(key))
    }

    fn create_key(&self, key: NewKey) -> Answer<'_, ()> {
        Box::pin(self.insert_key(key))
    }

    fn set_key_state<'a>(&'a self, key: &'a str, state: KeyState) -> Answer<'a, String> {
        Box::pin(self.change_key_state(key, state))
    }

    fn change_key_limits<'a>(&'a self, key: &'a str, changes: Vec<LimitChange>) -> Answer<'a, String> {
        Box::pin(self.update_key_limits(key, changes))
    }

    fn rotate_key(&self, rotation: Rotation) -> Answer<'_, Rotated> {
        Box::pin(self.change_secret(rotation))
    }

    fn users(&self) -> Answer<'_, Vec<StoredUser>> {
        Box::pin(self.read_users())
    }

    fn create_user(&self, user: NewUser) -> Answer<'_, ()> {
        Box::pin(self.insert_user(user))
    }

    fn set_user_state<'a>(&'a self, user: &'a str, state: UserState) -> Answer<'a, ()> {
        Box::pin(self.change_user_state(user, state))
    }

    fn change_user<'a>(&'a self, user: &'a str, changes: UserChanges) -> Answer<'a, ()> {
        Box::pin(self.update_user(user, changes))
    }

    fn remove_user<'a>(&'a self, user: &'a str) -> Answer<'a, ()> {
        Box::pin(self.delete_user(user))
    }

    fn budgets(&self, now_unix_us: u64) -> Answer<'_, Vec<StoredBudget>> {
        Box::pin(self.read_budgets(now_unix_us))
    }

    fn add_to_budgets<'a>(&'a self, changes: &'a [BudgetChange], now_unix_us: u64) -> Answer<'a, ()> {
        Box::pin(self.add_to_budgets(changes, now_unix_us))
    }

    fn declared_backends(&self) -> Answer<'_, Declared> {
        Box::pin(self.read_declared())
    }

    fn add_backend(&self, backend: StoredBackend) -> Answer<'_, ()> {
        Box::pin(self.insert_backend(backend))
    }

    fn remove_backend<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.delete_backend(name))
    }

    fn set_backend_drained<'a>(&'a self, name: &'a str, is_drained: bool, configured: &'a [String]) -> Answer<'a, ()> {
        Box::pin(self.change_drained(name, is_drained, configured))
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

/// The only way a change is kept, save those of budgets: with a higher revision.
pub(super) async fn commit(mut change: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
    sqlx::query("UPDATE revision SET number = number + 1").execute(&mut *change).await?;
    Ok(change.commit().await?)
}
