//! Refuses calls whose prompt is too long; has no opinion on others.

use tollgate_policy::{Admit, Call, Principal, Reason, admit::Decision, export_admit, rejection};

const MOST_INPUT_TOKENS: u32 = 100_000;

struct Policy;

impl Admit for Policy {
    fn decide(call: Call, _principal: Principal) -> Decision {
        if call.input_tokens <= MOST_INPUT_TOKENS {
            return Decision::Abstain;
        }
        Decision::Reject(rejection(Reason::Forbidden, "prompt_too_long", "the prompt is too long"))
    }
}

export_admit!(Policy);
