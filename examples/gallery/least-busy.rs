//! The backend with the fewest calls, running or waiting, comes first; the others follow for failover.

use std::cmp::Reverse;
use tollgate_policy::{Backend, Call, Principal, Route, route::Decision};

struct LeastBusy;

impl Route for LeastBusy {
    fn choose(_: Call, _: Principal, mut backends: Vec<Backend>) -> Decision {
        // Among equals: where the model is loaded, then where fewer calls fail.
        backends.sort_by_key(|backend| {
            (backend.in_flight.saturating_add(backend.queued), Reverse(backend.resident), backend.errors_permille)
        });
        Decision::Ranked(backends.iter().map(|backend| backend.id).collect())
    }
}

tollgate_policy::export_route!(LeastBusy);
