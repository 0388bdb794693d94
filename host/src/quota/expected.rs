//! What a call is expected to take, before it runs.

use super::{Charge, Tokens};
use crate::policy::{Amount, Rule, Shape, TokenKind};

/// Tokens that a call is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// So many.
    pub tokens: Tokens,
    /// Whether nobody set a cap on the output, so that its number is a guess.
    pub is_guess: bool,
}

impl Expected {
    /// What is reserved for these charges. A guess may be wrong, and must not refuse for good: no more output than the limits
    /// admit at all.
    pub(super) fn fitting<'c>(self, charges: impl IntoIterator<Item = Charge<'c>>) -> Tokens {
        let Self { tokens, is_guess } = self;
        if !is_guess {
            return tokens;
        }
        let most = charges.into_iter().filter_map(|charge| most_output(charge.rule, tokens.input));
        Tokens { output: most.fold(tokens.output, u64::min), ..tokens }
    }
}

impl From<Tokens> for Expected {
    /// Of a call with a cap.
    fn from(tokens: Tokens) -> Self {
        Self { tokens, is_guess: false }
    }
}

/// The most output that a rule ever admits beside so much input, and at least one token; none where it counts none.
fn most_output(rule: Rule, input: u64) -> Option<u64> {
    let Rule::Metered { amount: Amount::Tokens { kind, weight_permille }, shape } = rule else { return None };
    let capacity = match shape {
        Shape::Window { capacity, .. } | Shape::Calendar { capacity, .. } => capacity,
        Shape::Bucket { burst, .. } => burst,
    };
    let tokens = u128::from(capacity) * 1_000 / u128::from(weight_permille.max(1));
    let tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
    match kind {
        TokenKind::Input => None,
        TokenKind::Output => Some(tokens.max(1)),
        TokenKind::All => Some(tokens.saturating_sub(input).max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_shrinks_to_what_the_limits_admit_and_a_cap_does_not() {
        let tokens = Tokens { input: 30, output: 256 };
        let check = |kind, weight_permille, capacity, expected| {
            let shape = Shape::Window { capacity, length_ms: 1 };
            let rule = Rule::Metered { amount: Amount::Tokens { kind, weight_permille }, shape };
            let charge = Charge { policy: "p", limit: "l", partition: "x", rule };
            let wide = Charge { rule: Rule::Concurrent(1), ..charge };
            let guess = Expected { tokens, is_guess: true };
            assert_eq!(guess.fitting([wide, charge]).output, expected, "{kind:?} {weight_permille} {capacity}");
            assert_eq!(Expected::from(tokens).fitting([charge]), tokens);
        };
        check(TokenKind::All, 1_000, 1_000, 256);
        check(TokenKind::All, 1_000, 100, 70);
        check(TokenKind::All, 2_000, 100, 20);
        check(TokenKind::All, 1_000, 10, 1);
        check(TokenKind::Output, 500, 100, 200);
        check(TokenKind::Input, 1_000, 10, 256);
    }
}
