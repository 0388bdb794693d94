//! `tollgate check`: everything that `serve` would need, without serving. Makes what `serve` would make in the state folder.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{
    output::{self, Failure},
    serve::failure,
};
use crate::{
    app::{self, policies::Policies},
    clock::Clock,
    config::Config,
    policy::Hook,
    usage::metrics::Metrics,
};

pub(super) async fn check(config: &Config) -> Result<(), Failure> {
    let clock = Clock::system();
    let parts = app::CheckedParts::build(config, &clock, &TaskTracker::new()).await.map_err(|error| failure(&error))?;
    let policies = Policies::load(parts.runtime, &config.policies, &clock, &Arc::new(Metrics::default()))
        .map_err(|problems| Failure::configuration(problems.to_string()))?;
    let chains = policies.chains().load_full();
    for hook in Hook::ALL {
        let names: Vec<&str> =
            chains.policies().iter().filter(|policy| policy.decides(hook)).map(|policy| &**policy.name()).collect();
        output::result(&format!("{}: {}", hook.as_str(), names.join(", ")));
    }
    for backend in parts.fleet.backends() {
        output::result(&format!("backend {}: {}", backend.name(), backend.url()));
    }
    output::result("the configuration can be used");
    Ok(())
}
