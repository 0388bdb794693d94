//! Backends in a random order, each in proportion to its configured weight; weight 0 is for failover only.

use tollgate_policy::{Backend, Call, Principal, Route, env, route::Decision};

struct Weights;

impl Route for Weights {
    fn choose(_: Call, _: Principal, mut backends: Vec<Backend>) -> Decision {
        let mut order = Vec::with_capacity(backends.len());
        while !backends.is_empty() {
            let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
            // A ticket of the lottery: each backend takes its weight off, and the one it doesn't outlast wins.
            let mut ticket = env::random() % total.max(1);
            let winner = backends.iter().position(|backend| match ticket.checked_sub(backend.weight.into()) {
                Some(rest) => {
                    ticket = rest;
                    false
                }
                None => true,
            });
            order.push(backends.remove(winner.unwrap_or(0)).id);
        }
        Decision::Ranked(order)
    }
}

tollgate_policy::export_route!(Weights);
