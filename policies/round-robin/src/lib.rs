//! Takes the backends of a model in turn; the others follow in order, for failover.

mod decide;

use tollgate_policy::{Backend, Call, Principal, Route, route::Decision, state};

struct RoundRobin;

impl Route for RoundRobin {
    fn choose(call: Call, _: Principal, backends: Vec<Backend>) -> Decision {
        // One counter per model, kept by the host: instances come and go, and each model's calls alternate by themselves.
        let turn = if backends.len() > 1 { state::add(&call.model, 1, 0) } else { 0 };
        Decision::Ranked(decide::rotation(turn, &backends))
    }
}

tollgate_policy::export_route!(RoundRobin);
// Most of what the hook does is to take its call and to give it back.
tollgate_policy::keep_small_blocks!();
