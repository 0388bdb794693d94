//! Backends that were added by command, and which backends are drained.

use sqlx::{Row, sqlite::SqliteRow};

use super::sqlite::SqliteStore;
use crate::ports::store::{Declared, StoreError, StoredBackend};

const SELECT_BACKENDS: &str = "SELECT name, url, kind, weight, created_at FROM backends ORDER BY created_at, name";
const SELECT_DRAINED: &str = "SELECT name FROM drained_backends ORDER BY name";

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
}

fn stored_backend(row: &SqliteRow) -> Result<StoredBackend, StoreError> {
    let name: String = row.try_get("name")?;
    let unreadable = |what: &str| StoreError::Unreadable { what: format!("the {what} of backend {name:?}") };
    Ok(StoredBackend {
        url: row.try_get("url")?,
        kind: row.try_get("kind")?,
        weight: u32::try_from(row.try_get::<i64, _>("weight")?).map_err(|_| unreadable("weight"))?,
        created_at_ms: u64::try_from(row.try_get::<i64, _>("created_at")?).map_err(|_| unreadable("creation time"))?,
        name,
    })
}
