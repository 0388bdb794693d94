//! Keys, users and backends on disk: what stands behind [`crate::ports::store::Store`].
//!
//! Today this is SQLite: one file, shared by the processes of one host. Nothing outside this folder knows of SQL.

mod backends;
mod budgets;
mod keys;
mod limits;
mod place;
mod rows;
pub mod sqlite;
#[cfg(test)]
mod tests;
mod users;

pub use sqlite::SqliteStore;
