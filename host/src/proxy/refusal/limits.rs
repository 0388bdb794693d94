//! Refusals of calls whose limits are reached, or can't be counted.

use std::fmt::{Display, Formatter, Result as FmtResult};

use http::StatusCode;

use super::{Blame, NO_RETRY, Refusal};
use crate::{
    policy::{Amount, Period, Rule, Shape, TokenKind},
    quota::{Exceeded, Refused, Wait},
    usage::bound::Bound,
};

impl Refusal {
    /// A wait that nobody knows has no header. Budgets tell OpenAI's clients not to try again by themselves.
    pub(in crate::proxy) fn limit_exceeded(exceeded: &Exceeded) -> Self {
        let limit = LimitText(exceeded);
        let is_budget = matches!(exceeded.rule, Rule::Metered { shape: Shape::Calendar { .. }, .. });
        let code = if is_budget { "insufficient_quota" } else { "rate_limit_exceeded" };
        let refusal = |message| Self::client(StatusCode::TOO_MANY_REQUESTS, code, message);
        let (mut refusal, may_retry) = match exceeded.wait {
            Wait::Micros(us) => {
                let ms = us.div_ceil(1000);
                let seconds = ms.div_ceil(1000).max(1);
                let message = format!("{limit} is reached: try again in {seconds} seconds");
                (refusal(message).after_ms(ms), !is_budget)
            }
            Wait::UntilACallEnds => {
                (refusal(format!("{limit} is reached: try again when one of them has ended")), true)
            }
            Wait::Forever => (refusal(format!("{limit} is less than this call costs: no retry will help")), false),
        };
        if !may_retry {
            refusal.0.header = Some(NO_RETRY);
        }
        refusal
    }

    /// Limits are shared, and can't be asked now.
    pub(in crate::proxy) fn limits_unavailable() -> Self {
        let message = "limits can't be checked at the moment: try again soon";
        Self::new(Blame::Gate, StatusCode::SERVICE_UNAVAILABLE, "limits_unavailable", message).after_ms(1_000)
    }

    pub(in crate::proxy) fn counters_full() -> Self {
        let message = "the gate counts as many callers as it may: try again soon";
        Self::new(Blame::Gate, StatusCode::SERVICE_UNAVAILABLE, "counters_full", message)
            .at(Bound::Counters)
            .after_ms(5_000)
    }

    pub(in crate::proxy) fn too_many_counters(policy: &str) -> Self {
        let message = "this caller is counted in as many ways as it may be at once: stay with those that it uses";
        Self::client(StatusCode::TOO_MANY_REQUESTS, "too_many_counters", message)
            .with_private(format!("policy '{policy}' charges the principal more partitions than it may have counters"))
            .at(Bound::CountersPerPrincipal)
    }

    /// Several policies together charge more than can be counted; `refused` says how much that is.
    pub(in crate::proxy) fn too_many_charges(refused: &Refused) -> Self {
        Self::undecided().with_private(format!("all policies together: {refused}; have some of them charge less"))
    }
}

/// A limit in words: its name and what it admits.
struct LimitText<'a>(&'a Exceeded);

impl Display for LimitText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let Exceeded { limit, rule, .. } = self.0;
        let (amount, shape) = match *rule {
            Rule::Concurrent(most) => return write!(f, "limit '{limit}' of {most} calls at the same time"),
            Rule::Metered { amount, shape } => (amount, shape),
        };
        let unit = match amount {
            Amount::Requests(_) => "requests",
            Amount::Tokens { kind: TokenKind::Input, .. } => "input tokens",
            Amount::Tokens { kind: TokenKind::Output, .. } => "output tokens",
            Amount::Tokens { kind: TokenKind::All, .. } => "tokens",
        };
        match shape {
            Shape::Window { capacity, length_ms } => {
                write!(f, "limit '{limit}' of {capacity} {unit} in {} seconds", f64::from(length_ms) / 1000.0)
            }
            Shape::Bucket { burst, refill, every_ms } => {
                let seconds = f64::from(every_ms) / 1000.0;
                write!(f, "limit '{limit}' of {burst} {unit} at once and {refill} every {seconds} seconds")
            }
            Shape::Calendar { capacity, period } => {
                let period = match period {
                    Period::Hour => "hour",
                    Period::Day => "day",
                    Period::Week => "week",
                    Period::Month => "month",
                };
                write!(f, "limit '{limit}' of {capacity} {unit} in each {period} of UTC")
            }
        }
    }
}
