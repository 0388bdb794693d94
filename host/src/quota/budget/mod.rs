//! What of a calendar's counter must outlive this process: its name in words, and what was counted since it was last
//! written down. Counters of other shapes are worth nothing after a restart and keep no name.

mod written;

pub(super) use self::written::Written;

use std::{borrow::Cow, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};

use super::charge::{Charge, Span, Terms, Unit};
use crate::{
    policy::{Amount, Period, Rule, Shape, TokenKind},
    ports::budgets::{BudgetChange, BudgetName},
};

/// Longest partition that is kept as it is, in bytes: as long as the hash of any other.
const PARTITION_MAX: usize = 64;

const UNITS: [(Unit, &str); 4] = [
    (Unit::Requests, "requests"),
    (Unit::Tokens(TokenKind::Input), "input-tokens"),
    (Unit::Tokens(TokenKind::Output), "output-tokens"),
    (Unit::Tokens(TokenKind::All), "tokens"),
];

const PERIODS: [(Period, &str); 4] =
    [(Period::Hour, "hour"), (Period::Day, "day"), (Period::Week, "week"), (Period::Month, "month")];

/// What is kept with a calendar's counter.
#[derive(Debug)]
pub struct Budget {
    name: Arc<BudgetName>,
    /// The period in which `unsaved` was counted, by its end.
    end_us: u64,
    /// Units that were counted, or given back, and not taken to be written.
    unsaved: i64,
    /// Whether the shard knows that there is something to write.
    is_listed: bool,
}

impl Budget {
    /// For the counter that this charge names; none for other shapes.
    pub(super) fn of(charge: &Charge<'_>, terms: &Terms) -> Option<Self> {
        name(charge, terms).map(|name| Self::named(name, 0))
    }

    /// For a counter whose period ends there, with nothing to write.
    pub(super) fn named(name: BudgetName, end_us: u64) -> Self {
        Self { name: Arc::new(name), end_us, unsaved: 0, is_listed: false }
    }

    /// The counter went from one number of units to another, in this period. Tells whether that must be listed.
    pub(super) fn moved(&mut self, end_us: u64, before: u64, after: u64) -> bool {
        let units = signed(after).saturating_sub(signed(before));
        if units == 0 {
            return false;
        }
        if end_us != self.end_us {
            // What is left of a period that is over matters to nobody.
            (self.end_us, self.unsaved) = (end_us, 0);
        }
        self.unsaved = self.unsaved.saturating_add(units);
        !std::mem::replace(&mut self.is_listed, true)
    }

    /// What is to be written, once; none where that is nothing, or of a period that is over.
    pub(super) fn take(&mut self, now_unix_us: u64) -> Option<BudgetChange> {
        self.is_listed = false;
        let units = std::mem::take(&mut self.unsaved);
        let change = || BudgetChange { name: Arc::clone(&self.name), period_end_us: self.end_us, units };
        (units != 0 && now_unix_us < self.end_us).then(change)
    }
}

/// How the counter is called that this charge names; none for shapes other than the calendar's.
pub(super) fn name(charge: &Charge<'_>, terms: &Terms) -> Option<BudgetName> {
    let Span::Calendar(of) = terms.span else { return None };
    let (_, unit) = UNITS.into_iter().find(|(unit, _)| *unit == terms.settling.unit())?;
    let (_, period) = PERIODS.into_iter().find(|(period, _)| *period == of)?;
    let (policy, limit) = (charge.policy.into(), charge.limit.into());
    let partition = kept_partition(charge.partition).as_ref().into();
    Some(BudgetName { policy, limit, partition, unit: unit.into(), period: period.into() })
}

/// No counter counts as far as the largest number with a sign.
pub(super) fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

/// A partition in at most 64 bytes: itself, or its SHA-256 in hex. Counters go by this form, so that the name on disk finds
/// the counter.
pub(super) fn kept_partition(partition: &str) -> Cow<'_, str> {
    if partition.len() <= PARTITION_MAX {
        return Cow::Borrowed(partition);
    }
    let hash = digest(&SHA256, partition.as_bytes());
    Cow::Owned(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A rule whose counter has this name, and its period; none for words of another version.
pub(super) fn rule(name: &BudgetName) -> Option<(Rule, Period)> {
    let (unit, _) = UNITS.into_iter().find(|(_, word)| **word == *name.unit)?;
    let (period, _) = PERIODS.into_iter().find(|(_, word)| **word == *name.period)?;
    let amount = match unit {
        Unit::Requests => Amount::Requests(1),
        Unit::Tokens(kind) => Amount::Tokens { kind, weight_permille: 1_000 },
        Unit::Calls => return None,
    };
    Some((Rule::Metered { amount, shape: Shape::Calendar { capacity: 0, period } }, period))
}

#[cfg(test)]
mod tests;
