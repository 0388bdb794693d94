//! Everything that a start would need, tried without serving: all that is wrong at once.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{
    build::{StartError, certificates, compiled_folder, fleet, open_store, refuse_lost_pepper, runtime},
    declared::{AllBackends, all_backends},
    policies::Policies,
    sharing,
};
use crate::{
    clock::Clock,
    config::Config,
    identity::{AdminToken, Pepper},
    ports::store::{Declared, Store},
    usage::metrics::Metrics,
};

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// The policies, if they can be used.
    pub policies: Option<Policies>,
    /// The backends of the configuration, and of the store where that can be read; none was asked how it is.
    pub backends: AllBackends,
    /// All that keeps a gate from starting.
    pub problems: Vec<StartError>,
}

impl Checked {
    /// Tries everything but listeners and backends. Makes what a start would make in the state folder.
    pub async fn of(config: &Config, clock: &Clock, tasks: &TaskTracker) -> Self {
        let mut found = Self { backends: all_backends(config, Declared::default()), ..Self::default() };
        // What is wrong with the folder is said once; what the policies are worth shows without it.
        let cache = match compiled_folder(config) {
            Ok(cache) => {
                found.state(config).await;
                Some(cache)
            }
            Err(error) => {
                found.problems.push(error);
                None
            }
        };
        found.keep(certificates(config, clock));
        found.keep(config.redis.as_ref().map(sharing::address).transpose());
        if let Some(fleet) = found.keep(fleet(config, clock, tasks)) {
            let loaded = runtime(config, clock, &fleet, cache)
                .and_then(|runtime| Ok(Policies::load(runtime, config, clock, &Arc::new(Metrics::default()))?));
            found.policies = found.keep(loaded);
        }
        found
    }

    /// Store, pepper and admin token.
    async fn state(&mut self, config: &Config) {
        let is_whole = match open_store(config).await {
            Ok(store) => {
                let lost = refuse_lost_pepper(config, &store).await;
                let declared = store.declared_backends().await;
                store.close().await;
                if let Some(declared) = self.keep(declared.map_err(StartError::from)) {
                    self.backends = all_backends(config, declared);
                }
                self.keep(lost).is_some()
            }
            Err(error) => {
                self.problems.push(error);
                false
            }
        };
        // A new pepper beside keys of another would hide that theirs is lost.
        if is_whole || config.state_dir.join("pepper").exists() {
            self.keep(Pepper::load_or_create(&config.state_dir).map_err(StartError::from));
        }
        self.keep(AdminToken::load_or_create(&config.state_dir).map_err(StartError::from));
    }

    fn keep<T>(&mut self, tried: Result<T, StartError>) -> Option<T> {
        tried.map_err(|error| self.problems.push(error)).ok()
    }
}
