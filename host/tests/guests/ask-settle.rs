//! Logs what `settle` was told, and asks what the principal's attribute `ask` says: the request is gone.

use tollgate_policy::{Call, Principal, Settle, env, principals, settle::Outcome};

struct Ask;

impl Settle for Ask {
    fn done(call: Call, principal: Principal, outcome: Outcome) {
        env::log(env::Level::Info, &format!("settled {call:?} {principal:?} {outcome:?}"));
        for asked in principals::attribute("ask") {
            env::log(env::Level::Info, &format!("asked {asked}: {}", guests::answers(&asked)));
        }
    }
}

tollgate_policy::export_settle!(Ask);
