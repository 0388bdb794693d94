//! What the caller of shared limits names: charges, tokens, and how a call ended.
//!
//! Plain values. A charge's partition is hashed before it goes anywhere, and never shown.

use std::fmt;

use crate::policy::Rule;

/// One thing that a call is charged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charge<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// The limit's name, which may be shown.
    pub limit: &'a str,
    /// Whose counter; never shown.
    pub partition: &'a str,
    /// What is asked of the counter.
    pub rule: Rule,
}

impl fmt::Debug for Charge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("policy", &self.policy)
            .field("limit", &self.limit)
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

/// Tokens of one call, expected or used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those of the prompt.
    pub input: u64,
    /// Those of the answer.
    pub output: u64,
}

/// How a call ended, as far as its charges care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No byte of the request reached a backend: everything is given back.
    Refund,
    /// A backend refused or failed: the request counts, its tokens don't.
    RequestOnly,
    /// The call used so many tokens.
    Used(Tokens),
}
