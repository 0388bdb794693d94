//! Says in the log which calls failed.

use tollgate_policy::{Call, Principal, Settle, env, export_settle, settle::Outcome};

struct Policy;

impl Settle for Policy {
    fn done(_call: Call, principal: Principal, outcome: Outcome) {
        if outcome.status >= 500 {
            let line = format!("a call of {} ended with status {}", principal.subject, outcome.status);
            env::log(env::Level::Warn, &line);
        }
    }
}

export_settle!(Policy);
