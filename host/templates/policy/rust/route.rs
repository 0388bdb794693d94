//! Ranks backends: the one with the fewest calls comes first, the others follow for failover.

use tollgate_policy::{Backend, Call, Principal, Route, export_route, route::Decision};

struct Policy;

impl Route for Policy {
    fn choose(_call: Call, _principal: Principal, mut backends: Vec<Backend>) -> Decision {
        backends.sort_by_key(|backend| backend.in_flight);
        Decision::Ranked(backends.iter().map(|backend| backend.id).collect())
    }
}

export_route!(Policy);
