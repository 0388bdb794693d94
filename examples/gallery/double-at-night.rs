//! The limits of keys and users, with twice as many requests and tokens a minute at night. Takes the place of the built-in
//! policy: lay it into the folder as `rate-limit.wasm`; beside the built-in both would charge, and the smaller limit hold.

use tollgate_policy::principals::{LimitName, limits};
use tollgate_policy::{Admit, Call, Principal, admit::Decision, charge, env, is_inference};

const ZONE: &str = "UTC";
const IS_NIGHT: fn(u8) -> bool = |hour| matches!(hour, 22.. | ..6);

struct DoubleAtNight;

impl Admit for DoubleAtNight {
    fn decide(call: Call, principal: Principal) -> Decision {
        if !is_inference(call.operation) {
            return Decision::Abstain;
        }
        // A zone that doesn't exist has no night.
        let factor = if env::local_now(ZONE).is_ok_and(|now| IS_NIGHT(now.hour)) { 2 } else { 1 };
        let mut limits = limits(&call.model);
        for limit in &mut limits {
            if matches!(limit.name, LimitName::RequestsPerMinute | LimitName::TokensPerMinute) {
                limit.value = limit.value.saturating_mul(factor);
            }
        }
        Decision::Admit(limits.iter().map(|limit| charge::stored(limit, &principal, &call.model)).collect())
    }
}
tollgate_policy::export_admit!(DoubleAtNight);
