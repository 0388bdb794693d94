//! Budgets of the calendar in the database: a row for each counter and its latest period.
//!
//! They change every second while calls come, so they leave the revision alone: nobody who follows that needs to know.

use sqlx::{Row, sqlite::SqliteRow};

use super::{rows, sqlite::SqliteStore};
use crate::ports::{
    budgets::{BudgetChange, BudgetName, StoredBudget},
    limits::LARGEST_LIMIT,
    store::StoreError,
};

const SELECT: &str = "\
    SELECT policy, limit_name, partition, unit, period, period_end_us, used FROM budgets WHERE period_end_us > $1";

/// A later period begins with this change; one that is over already takes none.
const ADD: &str = "\
    INSERT INTO budgets (policy, limit_name, partition, unit, period, period_end_us, used) \
    VALUES ($1, $2, $3, $4, $5, $6, min(max($7, 0), $8)) \
    ON CONFLICT (policy, limit_name, partition, unit, period) DO UPDATE SET \
        used = CASE \
            WHEN excluded.period_end_us > period_end_us THEN excluded.used \
            WHEN excluded.period_end_us = period_end_us THEN min(max(used + $7, 0), $8) \
            ELSE used END, \
        period_end_us = max(period_end_us, excluded.period_end_us)";

const REMOVE_PAST: &str = "DELETE FROM budgets WHERE period_end_us <= $1";

impl SqliteStore {
    pub(super) async fn read_budgets(&self, now_unix_us: u64) -> Result<Vec<StoredBudget>, StoreError> {
        let now = rows::signed("time", now_unix_us)?;
        sqlx::query(SELECT).bind(now).fetch_all(&self.readers).await?.iter().map(stored).collect()
    }

    pub(super) async fn add_to_budgets(&self, changes: &[BudgetChange], now_unix_us: u64) -> Result<(), StoreError> {
        let (now, most) = (rows::signed("time", now_unix_us)?, rows::signed("budget", LARGEST_LIMIT)?);
        let mut change = self.begin().await?;
        for BudgetChange { name, period_end_us, units } in changes {
            let BudgetName { policy, limit, partition, unit, period } = &**name;
            let added = sqlx::query(ADD).bind(&**policy).bind(&**limit).bind(&**partition).bind(&**unit);
            let added = added.bind(&**period).bind(rows::signed("period's end", *period_end_us)?);
            added.bind(*units).bind(most).execute(&mut *change).await?;
        }
        sqlx::query(REMOVE_PAST).bind(now).execute(&mut *change).await?;
        Ok(change.commit().await?)
    }
}

fn stored(row: &SqliteRow) -> Result<StoredBudget, StoreError> {
    let text = |column: &str| row.try_get::<String, _>(column).map(Box::<str>::from);
    let number = |column: &str| {
        let number: i64 = row.try_get(column)?;
        let unreadable = |_| StoreError::Unreadable { what: format!("{number} as {column} of a budget") };
        u64::try_from(number).map_err(unreadable)
    };
    let name = BudgetName {
        policy: text("policy")?,
        limit: text("limit_name")?,
        partition: text("partition")?,
        unit: text("unit")?,
        period: text("period")?,
    };
    Ok(StoredBudget { name, period_end_us: number("period_end_us")?, used: number("used")? })
}
