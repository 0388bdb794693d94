//! A principal stays on the backend that served its model last, as long as that is a candidate; else it moves to the
//! least busy one. Remembered in this process only, so replicas may differ.

use tollgate_policy::{Backend, Call, Principal, Route, route::Decision, state};

/// How long a principal is remembered after its last call.
const TTL_MS: u32 = 30 * 60 * 1000;
/// The longest key that `state` takes.
const KEY_BYTES: usize = 256;

struct Sticky;

impl Route for Sticky {
    fn choose(call: Call, principal: Principal, mut backends: Vec<Backend>) -> Decision {
        let key = format!("{}/{}", principal.subject, call.model);
        if key.len() > KEY_BYTES {
            return Decision::Abstain;
        }
        let last = state::get(&key).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        backends.sort_by_key(|backend| (Some(backend.id) != last, backend.in_flight.saturating_add(backend.queued)));
        let order: Vec<u32> = backends.iter().map(|backend| backend.id).collect();
        if let Some(first) = order.first() {
            state::put(&key, &first.to_le_bytes(), TTL_MS);
        }
        Decision::Ranked(order)
    }
}
tollgate_policy::export_route!(Sticky);
