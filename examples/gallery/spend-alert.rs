//! Warns in the gate's log when a principal has used a million tokens of a day (UTC), once for each principal and day.

use tollgate_policy::{Call, Principal, Settle, env, settle::Outcome, state};

const TOKENS_A_DAY: i64 = 1_000_000;
const DAY_MS: u32 = 86_400_000;

struct SpendAlert;

impl Settle for SpendAlert {
    fn done(_: Call, principal: Principal, outcome: Outcome) {
        let tokens = i64::from(outcome.input_tokens) + i64::from(outcome.output_tokens);
        let day = env::now_ms() / u64::from(DAY_MS);
        let used = state::add(&format!("{day}/{}", principal.subject), tokens, DAY_MS);
        // The call that goes over it, and none after that.
        if used >= TOKENS_A_DAY && used - tokens < TOKENS_A_DAY {
            let subject = principal.subject;
            env::log(env::Level::Warn, &format!("{subject} has used {used} tokens today"));
        }
    }
}

tollgate_policy::export_settle!(SpendAlert);
