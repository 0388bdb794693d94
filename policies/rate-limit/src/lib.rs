//! Charges inference what the limits of key, user and model say; `[limits]` stands in where neither key nor user has one.

mod decide;

use tollgate_policy::{Admit, Call, Principal, admit::Decision, principals};

struct RateLimit;

impl Admit for RateLimit {
    fn decide(call: Call, principal: Principal) -> Decision {
        decide::decide(&call, &principal, principals::limits)
    }
}

tollgate_policy::export_admit!(RateLimit);
// Most of what the hook does is to take its call and to give it back.
tollgate_policy::keep_small_blocks!();
