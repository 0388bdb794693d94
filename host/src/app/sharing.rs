//! Limits from their configuration: in memory, or through a Redis with the task that keeps its connection.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{background, budgets::WrittenDown, build::StartError};
use crate::{
    clock::Clock,
    config::{self, Config, RedisMode},
    quota::{
        Limits, Quota,
        shared::{
            Address, AddressError, Budgets, Condition, Keeper, Mode, SentinelLogin, SettingsError, SharedQuota,
            SharedSettings,
        },
    },
    usage::metrics::Metrics,
};

/// How long a start waits for Redis, so that the first calls find their limits shared.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);
/// How long a stop waits until Redis has heard how all calls ended.
const LAST_DELIVERY: Duration = Duration::from_secs(2);

/// Why limits can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The URL can't be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The settings can't be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The file of redis.ca can't be read.
    #[error("redis.ca {} can't be read; name a PEM file that tollgate may read", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What runs beside the calls that share limits, and ends after them.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    tasks: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Keeping {
    /// Runs what keeps the connection, and waits a moment for it to come about.
    async fn start(&self, shared: &SharedQuota, keeper: Keeper) {
        let (stop, cut) = (self.stop.clone(), self.cut.clone());
        self.tasks.spawn(async move {
            cut.run_until_cancelled(Box::pin(keeper.run(stop.cancelled_owned()))).await;
        });
        let mut condition = shared.condition();
        // What comes of it is logged where it happens; the gate serves either way.
        drop(timeout(FIRST_CONNECTION, condition.wait_for(|condition| *condition != Condition::Starting)).await);
    }

    /// Ends what runs, once Redis has heard of all calls, or doesn't listen.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(LAST_DELIVERY, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "Redis was not told how some calls ended: what they reserved there stays until its time is over, and what was spent \
                 without it isn't counted there"
            );
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

/// The limits of a configuration with what keeps them shared, and their numbers among the metrics.
///
/// # Errors
/// When what `[redis]` says can't be used. That no Redis answers is no error.
pub(super) async fn limits(
    config: &Config,
    clock: &Clock,
    metrics: &Metrics,
    (memory, budgets): (Arc<Quota>, &WrittenDown),
) -> Result<(Arc<Limits>, Keeping), StartError> {
    let keeping = Keeping::default();
    let Some(redis) = &config.redis else {
        background::measure_limits(&memory, None, metrics);
        return Ok((Arc::new(Limits::in_memory(memory)), keeping));
    };
    let settings = SharedSettings {
        tag: redis.tag.clone(),
        mode: match redis.mode {
            RedisMode::LocalShare => Mode::LocalShare,
            RedisMode::Open => Mode::Open,
            RedisMode::Closed => Mode::Closed,
        },
        replicas: redis.replicas,
        deadline: redis.deadline,
        ..SharedSettings::new(address(redis)?)
    };
    let budgets = Budgets { unwritten: Arc::clone(budgets.unwritten()), written: Some(Arc::new(budgets.clone())) };
    let (shared, keeper) = SharedQuota::new(settings, clock.clone(), budgets).map_err(RedisError::from)?;
    background::measure_limits(&memory, Some(&shared), metrics);
    background::measure_redis(&shared, metrics);
    keeping.start(&shared, keeper).await;
    Ok((Arc::new(Limits::shared(memory, shared)), keeping))
}

/// Where `[redis]` says that it is.
///
/// # Errors
/// When the URL or the authority can't be used.
pub(super) fn address(redis: &config::Redis) -> Result<Address, StartError> {
    let read =
        |path: &PathBuf| std::fs::read(path).map_err(|source| RedisError::Authority { path: path.clone(), source });
    let authority = redis.ca.as_ref().map(read).transpose()?;
    let address = Address::parse(redis.url.expose(), authority).map_err(RedisError::from)?;
    let Some(password) = &redis.sentinel_password else { return Ok(address) };
    let login = SentinelLogin { user: redis.sentinel_username.clone(), password: password.expose().to_owned() };
    Ok(address.signing_in(login).map_err(RedisError::from)?)
}
