//! From a configuration to a gate that serves.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App,
    background::{self, StoreFollower},
    budgets::{Saving, WrittenDown},
    policies::{Policies, PolicyProblems},
    presence::Presence,
    sharing::{self, RedisError},
    steering::Steering,
};
use crate::{
    admin::{Admin, Operations},
    clock::Clock,
    config::{self, Config},
    files,
    identity::{AdminToken, AdminTokenError, KeyTable, Pepper, PepperError, key_table::DEFAULT_TRUST},
    ports::{
        limits::{LimitName, LimitSet},
        store::{Store, StoreError},
    },
    proxy::{Parts, Proxy, RequestBounds},
    quota::{Quota, QuotaBounds},
    server::{Bounds, Certificates, Server, TlsError},
    store::SqliteStore,
    upstream::{
        client::Upstream,
        control::Control,
        fleet::Fleet,
        resolver::Resolver,
        trust::{TrustError, client_tls},
    },
    usage::metrics::Metrics,
    wasm::{Runtime, RuntimeConfig, RuntimeError},
    wire::{bounded::BufferBudget, causes::causes},
};

/// Why a gate doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder can't be used.
    #[error("the state folder {} can't be used: {reason}", path.display())]
    StateFolder {
        /// Which folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store can't be used.
    #[error("the store can't be used")]
    Store(#[from] StoreError),
    /// The pepper can't be used.
    #[error("the pepper of the keys can't be used")]
    Pepper(#[from] PepperError),
    /// The admin token can't be used.
    #[error("the admin token can't be used")]
    AdminToken(#[from] AdminTokenError),
    /// The policy runtime can't start.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Policies can't be used.
    #[error(transparent)]
    Policies(#[from] PolicyProblems),
    /// An address can't be listened on.
    #[error("{address} can't be listened on; choose another with server.listen or admin.listen")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate can't be used.
    #[error("the certificate of server.tls can't be used")]
    Tls(#[from] TlsError),
    /// TLS towards backends can't be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Limits can't be shared.
    #[error("the limits of [redis] can't be shared")]
    Redis(#[from] RedisError),
    /// The client for backends can't be made.
    #[error("the client for backends can't be made: {0}")]
    Client(String),
}

impl StartError {
    /// Whether what is wrong is in what the operator wrote, rather than in the machine.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Policies(_)
            | Self::StateFolder { .. }
            | Self::Pepper(_)
            | Self::AdminToken(_)
            | Self::Tls(_)
            | Self::Trust(_)
            | Self::Redis(_)
            | Self::Store(StoreError::Refused(_)) => true,
            Self::Store(_) | Self::Runtime(_) | Self::Listen { .. } | Self::Client(_) => false,
        }
    }
}

/// Makes the state folder, for its owner alone.
///
/// # Errors
/// When it can't be made, or isn't this user's alone.
fn state_folder(path: &Path) -> Result<(), StartError> {
    let refused = |reason: String| StartError::StateFolder { path: path.to_owned(), reason };
    files::make_folder(path).map_err(|error| refused(error.to_string()))?;
    let found = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    files::check_folder(path, &found).map_err(|exposed| refused(exposed.to_string()))
}

/// Opens the store of a configuration.
///
/// # Errors
/// When it, or the state folder, can't be used.
pub(crate) async fn open_store(config: &Config) -> Result<SqliteStore, StartError> {
    state_folder(&config.state_dir)?;
    Ok(SqliteStore::open(&config.store.path).await?)
}

/// The folder in which compiled policies are kept.
///
/// # Errors
/// When it, or the state folder, can't be used.
pub(super) fn compiled_folder(config: &Config) -> Result<PathBuf, StartError> {
    state_folder(&config.state_dir)?;
    let folder = config.state_dir.join("compiled");
    state_folder(&folder)?;
    Ok(folder)
}

/// The policy runtime of a configuration.
///
/// # Errors
/// When it can't start.
pub(super) fn runtime(
    config: &Config,
    clock: &Clock,
    fleet: &Arc<Fleet>,
    cache: Option<PathBuf>,
) -> Result<Runtime, StartError> {
    let runtime = RuntimeConfig {
        cpu_budget: config.policies.cpu_budget,
        memory_bytes: usize::try_from(config.policies.memory).unwrap_or(usize::MAX),
        masked_headers: config.policies.masked_headers.clone(),
        default_limits: limits(&config.limits),
        ready_instances: workers(config),
        recheck_every: config.policies.recheck_every,
        cache,
    };
    Ok(Runtime::start(runtime, clock.clone(), Arc::<Fleet>::clone(fleet))?)
}

/// `[limits]` as policies are told.
fn limits(limits: &config::Limits) -> LimitSet {
    let own = |name: LimitName| match name {
        LimitName::RequestsPerMinute => Some(limits.requests_per_minute),
        LimitName::TokensPerMinute => limits.tokens_per_minute,
        LimitName::Concurrent => limits.concurrent,
        LimitName::TokensPerDay => limits.tokens_per_day,
        LimitName::TokensPerMonth => limits.tokens_per_month,
    };
    LimitName::ALL.into_iter().filter_map(|name| Some((name, own(name)?.get()))).collect()
}

/// How many threads serve calls.
fn workers(config: &Config) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    config.server.threads.map_or_else(cores, NonZeroUsize::get)
}

/// The backends of a configuration, not probed yet.
///
/// # Errors
/// When the client that asks them can't be made.
pub(super) fn fleet(config: &Config, clock: &Clock, tasks: &TaskTracker) -> Result<Arc<Fleet>, StartError> {
    let control =
        Control::new(&client_tls(config.upstream.ca.as_deref())?, resolver(config), config.upstream.probe_timeout)
            .map_err(|error| StartError::Client(causes(&error)))?;
    Ok(Arc::new(Fleet::new(config, control, clock.clone(), tasks)))
}

fn resolver(config: &Config) -> Resolver {
    Resolver::system(config.upstream.allow_link_local)
}

/// A new pepper would make every key of the store worthless, without a word.
///
/// # Errors
/// When there are keys, and no pepper to prove them.
pub(crate) async fn refuse_lost_pepper(config: &Config, store: &dyn Store) -> Result<(), StartError> {
    // In this order: another process makes the pepper before the first key.
    let has_keys = !store.keys().await?.is_empty();
    if has_keys && !config.state_dir.join("pepper").exists() {
        let reason = "it holds keys, but the file `pepper` that proves them is gone: put it back from a backup, or remove \
                      the store and create new keys";
        return Err(StartError::StateFolder { path: config.state_dir.clone(), reason: reason.to_owned() });
    }
    Ok(())
}

/// The limits' counters, with what is written of budgets.
async fn counters(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Clock,
) -> Result<(Arc<Quota>, WrittenDown), StartError> {
    let quota = Arc::new(Quota::new(QuotaBounds {
        max_counters: config.limits.max_counters,
        max_counters_per_principal: config.limits.max_counters_per_principal,
    }));
    let budgets = WrittenDown::restore(config, store, &quota, clock).await?;
    Ok((quota, budgets))
}

/// The store, the pepper that proves its keys, and an admin token beside them.
async fn state(config: &Config) -> Result<(Arc<dyn Store>, Pepper, Presence), StartError> {
    let store: Arc<dyn Store> = Arc::new(open_store(config).await?);
    refuse_lost_pepper(config, store.as_ref()).await?;
    let pepper = Pepper::load_or_create(&config.state_dir)?;
    AdminToken::load_or_create(&config.state_dir)?;
    Ok((store, pepper, Presence::announce(&config.state_dir, config.redis.is_some())))
}

/// The policies of a configuration, ready to be asked.
fn policies(
    config: &Config,
    clock: &Clock,
    fleet: &Arc<Fleet>,
    metrics: &Arc<Metrics>,
) -> Result<Policies, StartError> {
    let runtime = runtime(config, clock, fleet, Some(compiled_folder(config)?))?;
    Ok(Policies::load(runtime, config, clock, metrics)?)
}

pub(super) async fn start(config: Config, clock: Clock) -> Result<App, StartError> {
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let (stop_admin, cut_admin) = (CancellationToken::new(), CancellationToken::new());
    let (serving, admin_serving) = (TaskTracker::new(), TaskTracker::new());
    let metrics = Arc::new(Metrics::default());

    let (store, pepper, presence) = state(&config).await?;
    let keys = Arc::new(KeyTable::new(pepper.clone(), clock.clone(), DEFAULT_TRUST));
    let fleet = fleet(&config, &clock, &serving)?;
    let mut follower = StoreFollower::new(Arc::clone(&store), Arc::clone(&keys), Arc::clone(&fleet), config.clone());
    follower.step().await?;
    let (quota, budgets) = counters(&config, &store, &clock).await?;
    background::measure_backends(&fleet, &metrics);
    background::look_at_all(&fleet).await;
    let policies = policies(&config, &clock, &fleet, &metrics)?;

    let (limits, keeping) = sharing::limits(&config, &clock, &metrics, (quota, &budgets)).await?;
    let parts = Arc::new(Parts {
        chains: policies.chains(),
        keys: Arc::clone(&keys),
        limits: Arc::clone(&limits),
        fleet: Arc::clone(&fleet),
        upstream: upstream(&config, &clock)?,
        metrics: Arc::clone(&metrics),
        estimates: Arc::default(),
        buffers: buffers(&config, &metrics),
        tasks: serving.clone(),
        bounds: request_bounds(&config),
        clock: clock.clone(),
    });
    let certificates = certificates(&config, &clock)?;
    let proxy = Arc::new(Proxy::new(Arc::clone(&parts)));
    let server = data_plane(&config, proxy, &metrics, certificates.as_ref()).await?;
    let policies = super::watch::follow_policies(&serving, &stop, policies);
    let operations = Operations {
        metrics: Arc::clone(&metrics),
        store: Arc::clone(&store),
        pepper,
        keys: Arc::clone(&keys),
        fleet: Arc::clone(&fleet),
        limits,
        policies: Arc::<Steering>::clone(&policies),
        parts,
        clock: clock.clone(),
        state_dir: config.state_dir.clone(),
        hosts: config.admin.hosts.clone(),
        stop: stop.clone(),
    };
    let admin = listen(config.admin.listen, Admin::bind(config.admin.listen, operations)).await?;
    let (data_plane_address, admin_address) = (server.address(), admin.address());

    background::follow_store(&serving, &stop, follower);
    background::follow_backends(&serving, &stop, &config.upstream, &fleet);
    super::certificates::follow_certificates(&serving, &stop, certificates, &clock, &metrics);
    serving.spawn(server.serve(stop.clone(), cut.clone()));
    admin_serving.spawn(admin.serve(stop_admin.clone(), cut_admin.clone()));
    tracing::info!(data_plane = %data_plane_address, admin = %admin_address, backends = config.backends.len(), "serving");
    Ok(App {
        data_plane: data_plane_address,
        admin: admin_address,
        fleet,
        policies,
        stop,
        cut,
        stop_admin,
        cut_admin,
        serving,
        admin_serving,
        keeping,
        saving: Saving::start(budgets),
        _presence: presence,
    })
}

fn buffers(config: &Config, metrics: &Metrics) -> BufferBudget {
    let buffers = BufferBudget::new(config.server.max_buffered);
    metrics.edges().follow_buffers(buffers.clone());
    buffers
}

fn upstream(config: &Config, clock: &Clock) -> Result<Upstream, StartError> {
    let tls = client_tls(config.upstream.ca.as_deref())?;
    Ok(Upstream::new(&tls, resolver(config), &config.upstream, clock.clone()))
}

async fn data_plane(
    config: &Config,
    proxy: Arc<Proxy>,
    metrics: &Arc<Metrics>,
    certificates: Option<&Arc<Certificates>>,
) -> Result<Server, StartError> {
    let address = config.server.listen;
    listen(address, Server::bind(address, proxy, Arc::clone(metrics), edge_bounds(config), certificates)).await
}

async fn listen<T>(address: SocketAddr, bind: impl Future<Output = io::Result<T>>) -> Result<T, StartError> {
    bind.await.map_err(|source| StartError::Listen { address, source })
}

/// The certificate of the data plane, if it speaks TLS.
///
/// # Errors
/// When it can't be used. The gate never speaks plain HTTP instead.
pub(super) fn certificates(config: &Config, clock: &Clock) -> Result<Option<Arc<Certificates>>, StartError> {
    let Some(files) = &config.server.tls else { return Ok(None) };
    Ok(Some(Certificates::load(&files.cert, &files.key, clock.unix_ms())?))
}

fn edge_bounds(config: &Config) -> Bounds {
    let server = &config.server;
    Bounds {
        connections: connections(server.max_connections.get(), server.max_in_flight.get()),
        head_bytes: usize::try_from(server.max_head).unwrap_or(usize::MAX),
        headers: server.max_headers.get(),
        first_byte: server.first_byte_timeout,
        handshake: server.handshake_timeout,
        head: server.head_timeout,
        keep_alive: server.keep_alive_timeout,
        stall: config.upstream.idle_timeout,
        drain: server.drain_timeout,
        http2: server.http2,
    }
}

/// As many connections as are configured, or as the open files of this process allow: what is accepted must be served, and
/// a running call takes a second file for its backend.
fn connections(configured: usize, max_in_flight: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    let possible = files.map_or(usize::MAX, |files| {
        let to_backends = max_in_flight.min(files / 3);
        files.saturating_sub(FILES_FOR_THE_REST).saturating_sub(to_backends).max(1)
    });
    if possible < configured {
        tracing::warn!(
            configured,
            possible,
            "server.max_connections is more than the limit of open files allows; raise it (LimitNOFILE=, ulimit -n)"
        );
    }
    configured.min(possible)
}

fn request_bounds(config: &Config) -> RequestBounds {
    RequestBounds {
        max_in_flight: config.server.max_in_flight.get(),
        max_body: usize::try_from(config.server.max_body).unwrap_or(usize::MAX),
        body_idle: config.server.body_idle_timeout,
        body_whole: config.server.body_timeout,
        max_blob: config.server.max_blob,
        min_blob_rate: config.server.min_blob_rate,
        upstream_idle: config.upstream.idle_timeout,
        management: config.upstream.management_timeout,
        settle_queue: config.policies.settle_queue,
        allow_cloud: config.models.allow_cloud,
        expose_backend: config.server.expose_backend,
        tells_decisions: config.policies.provenance == config::Provenance::Header,
    }
}

/// Files for all else: the store, logs, watches, the admin listener, connections to backends that wait for a call.
const FILES_FOR_THE_REST: usize = 256;

/// How often the store is asked for changes: a change by the command line must be in force within two seconds.
pub(super) const KEY_POLL: Duration = Duration::from_secs(1);
