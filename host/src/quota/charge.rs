//! What a call is charged, and how many units that is.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    num::{NonZeroU32, NonZeroU64},
};

use super::bucket::Pace;
use crate::policy::{Amount, MOST_UNITS, Period, Rule, Shape, TokenKind};

/// One thing that a call is charged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charge<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// The limit's name, which may be shown.
    pub limit: &'a str,
    /// Whose counter; never shown. It is hashed whole, so its length costs time but no memory.
    pub partition: &'a str,
    /// What is asked of the counter. Its capacity is no part of the counter's name: when it changes, what was counted still
    /// counts.
    pub rule: Rule,
}

impl Debug for Charge<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.debug_struct("Charge")
            .field("policy", &self.policy)
            .field("limit", &self.limit)
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

/// Tokens of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those of the prompt.
    pub input: u64,
    /// Those of the answer.
    pub output: u64,
}

/// How a call ended, as far as its charges are concerned. A place among the concurrent calls is free again in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No byte of the request reached a backend: all is given back.
    Refund,
    /// A backend got the call and made nothing of it: requests stay, tokens are given back.
    RequestOnly,
    /// Requests stay, and tokens are settled by what was used.
    Used(Tokens),
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens of this kind, weighted.
    Tokens(TokenKind),
    /// Calls that run at the same time.
    Calls,
}

/// How a charge is reserved and settled. Its weight is no part of the counter's name: a token of a large model may
/// weigh more in the same budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settling {
    /// So many requests; they stay.
    Requests(u32),
    /// Tokens, in thousandths of a unit each.
    Tokens { kind: TokenKind, weight_permille: u32 },
    /// A place; it is given back.
    Place,
}

impl Settling {
    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Requests(_) => Unit::Requests,
            Self::Tokens { kind, .. } => Unit::Tokens(kind),
            Self::Place => Unit::Calls,
        }
    }

    /// Units to reserve for a call that is expected to take so many tokens.
    pub(super) fn reserves(self, expected: Tokens) -> u64 {
        match self {
            Self::Requests(requests) => requests.into(),
            Self::Tokens { kind, weight_permille } => weigh(kind, weight_permille, expected),
            Self::Place => 1,
        }
    }

    /// Of these reserved units, how many the call has used; it may be more.
    pub(super) fn uses(self, reserved: u64, outcome: Outcome) -> u64 {
        match (self, outcome) {
            (_, Outcome::Refund) | (Self::Place, _) | (Self::Tokens { .. }, Outcome::RequestOnly) => 0,
            (Self::Requests(_), Outcome::RequestOnly | Outcome::Used(_)) => reserved,
            (Self::Tokens { kind, weight_permille }, Outcome::Used(tokens)) => weigh(kind, weight_permille, tokens),
        }
    }
}

/// Units that these tokens are, rounded up.
fn weigh(kind: TokenKind, weight_permille: u32, tokens: Tokens) -> u64 {
    let tokens = match kind {
        TokenKind::Input => tokens.input,
        TokenKind::Output => tokens.output,
        TokenKind::All => tokens.input.saturating_add(tokens.output),
    };
    let units = (u128::from(tokens) * u128::from(weight_permille)).div_ceil(1_000);
    u64::try_from(units).map_or(MOST_UNITS, |units| units.min(MOST_UNITS))
}

/// Which shape a counter has, with all that is part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Window { length_ms: NonZeroU32 },
    Bucket { refill: NonZeroU64, every_ms: NonZeroU32, pace: Pace },
    Calendar(Period),
    Concurrent,
}

/// A rule that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) settling: Settling,
    pub(super) capacity: u64,
    pub(super) span: Span,
}

impl Terms {
    /// The terms of a rule; the error says what is wrong with it.
    pub(super) fn of(rule: &Rule) -> Result<Self, &'static str> {
        let (amount, shape) = match *rule {
            Rule::Concurrent(most) => {
                return Ok(Self { settling: Settling::Place, capacity: most.into(), span: Span::Concurrent });
            }
            Rule::Metered { amount, shape } => (amount, shape),
        };
        let settling = match amount {
            Amount::Requests(requests) => Settling::Requests(requests),
            Amount::Tokens { kind, weight_permille } => Settling::Tokens { kind, weight_permille },
        };
        let (capacity, span) = match shape {
            Shape::Window { capacity, length_ms } => {
                let length_ms = NonZeroU32::new(length_ms).ok_or("a window of 0 ms: give it a length")?;
                (capacity, Span::Window { length_ms })
            }
            Shape::Bucket { burst, refill, every_ms } => (burst, bucket(burst, refill, every_ms)?),
            Shape::Calendar { capacity, period } => (capacity, Span::Calendar(period)),
        };
        Ok(Self { settling, capacity: capacity.min(MOST_UNITS), span })
    }
}

fn bucket(burst: u64, refill: u64, every_ms: u32) -> Result<Span, &'static str> {
    const NOTHING: &str = "a bucket that gets nothing back: give it a refill and a time";
    let refill = NonZeroU64::new(refill).ok_or(NOTHING)?;
    let every_ms = NonZeroU32::new(every_ms).ok_or(NOTHING)?;
    let pace = Pace::new(refill, every_ms);
    if !pace.can_hold(burst) {
        return Err("a bucket too large to count exactly: lower its burst, or state its refill in rounder numbers");
    }
    Ok(Span::Bucket { refill, every_ms, pace })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_weighed_and_rounded_up() {
        let tokens = Tokens { input: 3, output: 10 };
        for (kind, weight_permille, units) in [
            (TokenKind::Input, 1_000, 3),
            (TokenKind::Output, 1_000, 10),
            (TokenKind::All, 1_000, 13),
            (TokenKind::Input, 1, 1),
            (TokenKind::Input, 334, 2),
            (TokenKind::All, 1_500, 20),
            (TokenKind::Output, 0, 0),
        ] {
            assert_eq!(weigh(kind, weight_permille, tokens), units, "{kind:?} {weight_permille}");
        }
        let all = Tokens { input: u64::MAX, output: u64::MAX };
        assert_eq!(weigh(TokenKind::All, u32::MAX, all), MOST_UNITS);
        assert_eq!(weigh(TokenKind::All, 1, all), MOST_UNITS);
    }

    #[test]
    fn each_outcome_keeps_what_it_says() {
        let tokens = Settling::Tokens { kind: TokenKind::All, weight_permille: 2_000 };
        let used = Outcome::Used(Tokens { input: 1, output: 2 });
        for (settling, outcome, uses) in [
            (Settling::Requests(5), Outcome::Refund, 0),
            (Settling::Requests(5), Outcome::RequestOnly, 5),
            (Settling::Requests(5), used, 5),
            (tokens, Outcome::Refund, 0),
            (tokens, Outcome::RequestOnly, 0),
            (tokens, used, 6),
            (Settling::Place, Outcome::Refund, 0),
            (Settling::Place, Outcome::RequestOnly, 0),
            (Settling::Place, used, 0),
        ] {
            assert_eq!(settling.uses(5, outcome), uses, "{settling:?} {outcome:?}");
        }
    }

    #[test]
    fn rules_that_make_no_sense_are_named() {
        let metered = |shape| Rule::Metered { amount: Amount::Requests(1), shape };
        for (shape, says) in [
            (Shape::Window { capacity: 1, length_ms: 0 }, "0 ms"),
            (Shape::Bucket { burst: 1, refill: 0, every_ms: 1 }, "nothing back"),
            (Shape::Bucket { burst: 1, refill: 1, every_ms: 0 }, "nothing back"),
            (Shape::Bucket { burst: 1 << 40, refill: 1, every_ms: 86_400_000 }, "too large"),
            (Shape::Bucket { burst: MOST_UNITS, refill: 999, every_ms: 1 }, "too large"),
        ] {
            let error = Terms::of(&metered(shape)).expect_err("it makes no sense");
            assert!(error.contains(says), "{shape:?}: {error}");
        }
        let large = metered(Shape::Bucket { burst: MOST_UNITS, refill: 1_000, every_ms: 1 });
        assert_eq!(Terms::of(&large).map(|terms| terms.capacity), Ok(MOST_UNITS));
        let window = metered(Shape::Window { capacity: u64::MAX, length_ms: 1 });
        assert_eq!(Terms::of(&window).map(|terms| terms.capacity), Ok(MOST_UNITS), "no counter counts further");
    }
}
