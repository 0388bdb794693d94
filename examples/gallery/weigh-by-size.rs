//! A day's budget of tokens in which those of a big model weigh more: one unit for each billion parameters.

use tollgate_policy::charges::{Period, TokenKind};
use tollgate_policy::{Admit, Call, Principal, admit::Decision, catalogue, charge, is_inference};

/// Units of one principal in a day: a million tokens of a model with 8 billion parameters.
const CAPACITY: u64 = 8_000_000;
/// What a model of unknown size counts as.
const UNKNOWN: u64 = 70_000_000_000;

struct WeighBySize;

impl Admit for WeighBySize {
    fn decide(call: Call, principal: Principal) -> Decision {
        if !is_inference(call.operation) {
            return Decision::Abstain;
        }
        // In thousandths, so that models under a billion count too.
        let weight = catalogue::parameters(&call.model).unwrap_or(UNKNOWN).div_ceil(1_000_000);
        let amount = charge::weighted_tokens(TokenKind::All, u32::try_from(weight).unwrap_or(u32::MAX).max(1));
        let shape = charge::budget(CAPACITY, Period::Day);
        Decision::Admit(vec![charge::metered("weighted-tokens", principal.subject, amount, shape)])
    }
}
tollgate_policy::export_admit!(WeighBySize);
