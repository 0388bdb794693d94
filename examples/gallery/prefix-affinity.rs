//! Prompts that begin alike go to the same backend, where that beginning is still in the cache. Rendezvous hashing over
//! the backends' names: replicas agree, and a backend that comes or goes moves only its own prompts.

use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use tollgate_policy::{Backend, Call, Principal, Route, catalogue, request, route::Decision};

/// How much of the prompt must be alike. Longer than your system prompt, or all callers share one backend.
const PREFIX_BYTES: u32 = 2048;

struct PrefixAffinity;

impl Route for PrefixAffinity {
    fn choose(_: Call, _: Principal, mut backends: Vec<Backend>) -> Decision {
        let Some(prefix) = request::prefix_hash(PREFIX_BYTES) else { return Decision::Abstain };
        backends.sort_by_cached_key(|backend| {
            // A new hasher starts the same everywhere, unlike that of a `HashMap`.
            let mut score = DefaultHasher::new();
            (prefix, catalogue::backend_name(backend.id)).hash(&mut score);
            // Waiting costs more than a cold cache: full backends come last.
            let full = backend.capacity.is_some_and(|capacity| backend.model_in_flight >= capacity);
            (full, Reverse(score.finish()))
        });
        Decision::Ranked(backends.iter().map(|backend| backend.id).collect())
    }
}
tollgate_policy::export_route!(PrefixAffinity);
