//! Budgets of the calendar as they are kept on disk: names, changes and sums. What the words mean is `quota`'s business.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    sync::Arc,
};

use super::store::Answer;

/// Which counter it is. Its partition is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BudgetName {
    /// The policy's name.
    pub policy: Box<str>,
    /// The limit's name.
    pub limit: Box<str>,
    /// Whose counter; at most 64 bytes.
    pub partition: Box<str>,
    /// What it counts.
    pub unit: Box<str>,
    /// Which stretch of the calendar.
    pub period: Box<str>,
}

impl Debug for BudgetName {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter
            .debug_struct("BudgetName")
            .field("policy", &self.policy)
            .field("limit", &self.limit)
            .field("unit", &self.unit)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

/// What one process counted since it last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetChange {
    /// Which counter.
    pub name: Arc<BudgetName>,
    /// The end of the period in which it was counted, in Unix microseconds.
    pub period_end_us: u64,
    /// Units; fewer than none where more was given back than taken.
    pub units: i64,
}

/// What all processes together used of one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBudget {
    /// Which counter.
    pub name: BudgetName,
    /// The end of the period, in Unix microseconds.
    pub period_end_us: u64,
    /// Units.
    pub used: u64,
}

/// What is written of budgets, for whoever has lost what it counted.
pub trait WrittenBudgets: Debug + Send + Sync {
    /// What all processes together used of every period that isn't over. What this one counted is written first.
    fn all(&self) -> Answer<'_, Vec<StoredBudget>>;
}
