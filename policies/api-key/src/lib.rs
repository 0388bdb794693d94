//! Lets in who presents a valid `op_…` key, and abstains on every other credential.

mod decide;

use tollgate_policy::{Authenticate, Head, Presented, authenticate::Decision, keys};

struct ApiKey;

impl Authenticate for ApiKey {
    fn check(_: Head, presented: Option<Presented>) -> Decision {
        decide::decide(presented.as_ref(), keys::verify)
    }
}

tollgate_policy::export_authenticate!(ApiKey);
// Most of what the hook does is to take its call and to give it back.
tollgate_policy::keep_small_blocks!();
