//! Charges inference with one request on the key's requests per minute: its own limit, else `[limits]`.

mod decide;

use tollgate_policy::{Admit, Call, Principal, admit::Decision, principals};

struct RateLimit;

impl Admit for RateLimit {
    fn decide(call: Call, principal: Principal) -> Decision {
        decide::decide(call.operation, principal.subject, || {
            principals::limit(principals::Holder::Key, "requests-per-minute", None)
        })
    }
}

tollgate_policy::export_admit!(RateLimit);
