//! Why nothing was reserved, and where the counters stand.

use thiserror::Error;

use super::{Label, MAX_CHARGES, Unit, Wait};
use crate::policy::Rule;

/// Where one counter of a call stands: what a caller, or an operator, may be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit's name.
    pub limit: Label,
    /// What is counted.
    pub unit: Unit,
    /// Units it admits.
    pub capacity: u64,
    /// Units that are free; none while something is owed.
    pub remaining: u64,
    /// Units that running calls have reserved and not settled.
    pub reserved: u64,
    /// Microseconds until all of it is free if nothing else happens, or the period ends; none where nobody knows.
    pub reset_after_us: Option<u64>,
    /// Microseconds over which the capacity holds: a window's length, a period's, or the time in which an empty bucket
    /// fills; none where time has no part in it.
    pub window_us: Option<u64>,
}

/// A limit that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The policy's name.
    pub policy: String,
    /// The limit's name.
    pub limit: String,
    /// What was asked of the counter.
    pub rule: Rule,
    /// When all charges of the call are admitted if nothing else happens.
    pub wait: Wait,
    /// Where all counters of the call stand, in the order in which they were charged.
    pub standings: Vec<Standing>,
}

impl Exceeded {
    /// Where the counters stand, the one in the way no later than the moment at which the call is admitted: whoever is told to
    /// wait for one time should not read of another.
    pub fn until_retry(self) -> Vec<Standing> {
        let Wait::Micros(wait_us) = self.wait else { return self.standings };
        let mut standings = self.standings;
        for standing in standings.iter_mut().filter(|standing| *standing.limit == *self.limit) {
            standing.reset_after_us = standing.reset_after_us.map(|reset_us| reset_us.min(wait_us));
        }
        standings
    }
}

/// Why nothing was reserved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// A limit is used up. Of several, the one with the longest wait; of equal waits, the one charged first.
    #[error("limit `{}` of policy `{}` has no room for this call: wait until it has", .0.limit, .0.policy)]
    Exceeded(Box<Exceeded>),
    /// A bad answer of the policy: two charges name the same counter.
    #[error("policy `{policy}` charges a counter of limit `{limit}` twice in one call: add the amounts up")]
    Repeated {
        /// The policy's name.
        policy: String,
        /// The limit's name.
        limit: String,
    },
    /// A bad answer of the policy: a rule that makes no sense.
    #[error("limit `{limit}` of policy `{policy}` is {wrong}")]
    BadRule {
        /// The policy's name.
        policy: String,
        /// The limit's name.
        limit: String,
        /// What is wrong with it, and what to do.
        wrong: &'static str,
    },
    /// A bad answer of the policies: more than [`MAX_CHARGES`].
    #[error("the call has {count} charges: at most {MAX_CHARGES} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// The principal has as many live counters as one may have under this policy. Only it is refused.
    #[error("the principal has all the counters it may have under policy `{policy}`: charge fewer partitions")]
    TooManyCounters {
        /// The policy's name.
        policy: String,
    },
    /// There is no memory for another counter, and none of those held is empty.
    #[error("every counter is in use: raise the bound on counters, or charge fewer partitions")]
    Full,
}
