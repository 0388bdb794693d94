//! Ranks backends by how much of what they serve at once is taken: 2 calls of 8 are less than 1 of 2. Where nobody knows how
//! much a backend serves, it counts as one call at a time. Among equals: where the model is loaded, then where fewer calls fail.

use std::cmp::Reverse;

use tollgate_policy::{Backend, Call, Principal, Route, export_route, route::Decision};

struct LeastBusy;

/// Thousandths of a backend's places that are taken, those who wait included.
fn taken(backend: &Backend) -> u64 {
    let calls = u64::from(backend.in_flight) + u64::from(backend.queued);
    calls * 1000 / u64::from(backend.capacity.unwrap_or(1).max(1))
}

impl Route for LeastBusy {
    fn choose(_call: Call, _principal: Principal, mut backends: Vec<Backend>) -> Decision {
        backends.sort_by_key(|backend| (taken(backend), Reverse(backend.resident), backend.errors_permille));
        Decision::Ranked(backends.iter().map(|backend| backend.id).collect())
    }
}

export_route!(LeastBusy);
