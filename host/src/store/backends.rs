//! Backends that were added by command, and which backends are drained.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    rows::{self, Owner},
    sqlite::{SqliteStore, commit},
};
use crate::ports::store::{Declared, StoreError, StoredBackend};

/// As many as a configuration may have.
const BACKENDS_MAX: i64 = 1024;

const SELECT_BACKENDS: &str = "\
    SELECT name, url, kind, weight, anthropic, created_at FROM backends ORDER BY created_at, name";
const SELECT_DRAINED: &str = "SELECT name FROM drained_backends ORDER BY name";
const INSERT_BACKEND: &str = "\
    INSERT INTO backends (name, url, kind, weight, anthropic, created_at) VALUES ($1, $2, $3, $4, $5, $6)";

impl SqliteStore {
    /// Both tables in one transaction, so that they are of one moment.
    pub(super) async fn read_declared(&self) -> Result<Declared, StoreError> {
        let mut reading = self.readers.begin().await?;
        let backends = sqlx::query(SELECT_BACKENDS).fetch_all(&mut *reading).await?;
        let drained = sqlx::query(SELECT_DRAINED).fetch_all(&mut *reading).await?;
        reading.commit().await?;
        Ok(Declared {
            backends: backends.iter().map(stored_backend).collect::<Result<_, _>>()?,
            drained: drained.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
        })
    }

    pub(super) async fn insert_backend(&self, backend: StoredBackend) -> Result<(), StoreError> {
        let created_at = rows::signed("creation time", backend.created_at_ms)?;
        let mut change = self.begin().await?;
        refuse_taken(&mut change, &backend).await?;
        let row = sqlx::query("SELECT count(*) FROM backends").fetch_one(&mut *change).await?;
        if row.try_get::<i64, _>(0)? >= BACKENDS_MAX {
            return Err(StoreError::Refused(format!(
                "there are {BACKENDS_MAX} added backends already: remove one with `tollgate backends remove`"
            )));
        }
        sqlx::query(INSERT_BACKEND)
            .bind(backend.name)
            .bind(backend.url)
            .bind(backend.kind)
            .bind(i64::from(backend.weight))
            .bind(backend.anthropic)
            .bind(created_at)
            .execute(&mut *change)
            .await?;
        commit(change).await
    }

    pub(super) async fn delete_backend(&self, name: &str) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let gone = sqlx::query("DELETE FROM backends WHERE name = $1").bind(name).execute(&mut *change).await?;
        if gone.rows_affected() == 0 {
            return Err(StoreError::NoSuchBackend { name: name.to_owned() });
        }
        sqlx::query("DELETE FROM drained_backends WHERE name = $1").bind(name).execute(&mut *change).await?;
        commit(change).await
    }

    pub(super) async fn change_drained(
        &self,
        name: &str,
        is_drained: bool,
        configured: &[String],
    ) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        let row = sqlx::query(
            "SELECT EXISTS (SELECT 1 FROM backends WHERE name = $1) AS is_added, \
                    EXISTS (SELECT 1 FROM drained_backends WHERE name = $1) AS was_drained",
        )
        .bind(name)
        .fetch_one(&mut *change)
        .await?;
        let (is_added, was_drained): (bool, bool) = (row.try_get("is_added")?, row.try_get("was_drained")?);
        // A mark that a backend of the configuration has left behind can still be taken away.
        if !is_added && !was_drained && !configured.iter().any(|known| known == name) {
            return Err(StoreError::NoSuchBackend { name: name.to_owned() });
        }
        if is_drained == was_drained {
            return Ok(());
        }
        let statement = if is_drained {
            "INSERT INTO drained_backends (name) VALUES ($1)"
        } else {
            "DELETE FROM drained_backends WHERE name = $1"
        };
        sqlx::query(statement).bind(name).execute(&mut *change).await?;
        commit(change).await
    }
}

async fn refuse_taken(change: &mut SqliteConnection, backend: &StoredBackend) -> Result<(), StoreError> {
    let taken = sqlx::query("SELECT name FROM backends WHERE name = $1 OR url = $2 ORDER BY name <> $1")
        .bind(&backend.name)
        .bind(&backend.url)
        .fetch_optional(change)
        .await?;
    let Some(row) = taken else { return Ok(()) };
    let name: String = row.try_get(0)?;
    let what = if name == backend.name { "name" } else { "URL" };
    Err(StoreError::BackendTaken { what, name })
}

fn stored_backend(row: &SqliteRow) -> Result<StoredBackend, StoreError> {
    let name: String = row.try_get("name")?;
    let owner = Owner::Backend(&name);
    let weight = owner.unsigned(row, "weight")?;
    Ok(StoredBackend {
        url: row.try_get("url")?,
        kind: row.try_get("kind")?,
        weight: u32::try_from(weight).map_err(|_| owner.unreadable(&format!("{weight} as weight")))?,
        anthropic: row.try_get("anthropic")?,
        created_at_ms: owner.unsigned(row, "created_at")?,
        name,
    })
}
