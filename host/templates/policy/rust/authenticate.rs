//! Refuses callers from other networks; has no opinion on those from within, so that keys decide.

use tollgate_policy::{
    Authenticate, Head, Presented, Reason, authenticate::Decision, export_authenticate, rejection, request,
};

const OWN_NETWORKS: [&str; 2] = ["127.0.0.0/8", "10.0.0.0/8"];

struct Policy;

impl Authenticate for Policy {
    fn check(_head: Head, _presented: Option<Presented>) -> Decision {
        if OWN_NETWORKS.iter().any(|network| request::peer_in(network)) {
            return Decision::Abstain;
        }
        Decision::Reject(rejection(Reason::Forbidden, "unknown_network", "call from the own network"))
    }
}

export_authenticate!(Policy);
