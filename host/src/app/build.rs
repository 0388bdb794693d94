//! From a configuration to a gate that serves.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App, background,
    policies::{Policies, PolicyProblems},
    steering::Steering,
};
use crate::{
    admin::{Admin, Operations},
    clock::Clock,
    config::Config,
    identity::{self, AdminToken, AdminTokenError, KeyTable, Pepper, PepperError, key_table::DEFAULT_TRUST},
    ports::store::{Store, StoreError},
    proxy::{Parts, Proxy, RequestBounds},
    quota::{Quota, QuotaBounds},
    server::{Bounds, Server},
    store::SqliteStore,
    upstream::{client::Upstream, control::Control, fleet::Fleet},
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
    /// The client for backends can't be made.
    #[error("the client for backends can't be made: {0}")]
    Client(String),
}

impl StartError {
    /// Whether what is wrong is in what the operator wrote, rather than in the machine.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Policies(_) | Self::StateFolder { .. } | Self::Pepper(_) | Self::AdminToken(_) => true,
            Self::Store(_) | Self::Runtime(_) | Self::Listen { .. } | Self::Client(_) => false,
        }
    }
}

/// Makes the state folder, for its owner alone.
///
/// # Errors
/// When it can't be made, or others can write to it.
fn state_folder(path: &Path) -> Result<(), StartError> {
    let refused = |reason: String| StartError::StateFolder { path: path.to_owned(), reason };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| refused(error.to_string()))?;
    let mode = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.mode();
    if mode & 0o022 != 0 {
        return Err(refused(format!("others can write to it; run: chmod go-w {}", path.display())));
    }
    Ok(())
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
        default_requests_per_minute: config.limits.requests_per_minute.get(),
        ready_instances: workers(config),
        cache,
    };
    Ok(Runtime::start(runtime, clock.clone(), Arc::<Fleet>::clone(fleet))?)
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
    let control = Control::new(&client_tls()?, config.upstream.probe_timeout)
        .map_err(|error| StartError::Client(causes(&error)))?;
    Ok(Arc::new(Fleet::new(config, control, clock.clone(), tasks)))
}

/// TLS towards backends: the public web's certificate authorities.
fn client_tls() -> Result<Arc<rustls::ClientConfig>, StartError> {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Client(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

/// A new pepper would make every key of the store worthless, without a word.
pub(super) async fn refuse_lost_pepper(config: &Config, store: &dyn Store) -> Result<(), StartError> {
    let is_lost = !config.state_dir.join("pepper").exists() && !store.keys().await?.is_empty();
    if is_lost {
        let reason = "it holds keys, but the file `pepper` that proves them is gone: put it back from a backup, or remove \
                      the store and create new keys";
        return Err(StartError::StateFolder { path: config.state_dir.clone(), reason: reason.to_owned() });
    }
    Ok(())
}

pub(super) async fn start(config: Config, clock: Clock) -> Result<App, StartError> {
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let (stop_admin, cut_admin) = (CancellationToken::new(), CancellationToken::new());
    let (serving, admin_serving) = (TaskTracker::new(), TaskTracker::new());
    let metrics = Arc::new(Metrics::default());

    let store: Arc<dyn Store> = Arc::new(open_store(&config).await?);
    refuse_lost_pepper(&config, store.as_ref()).await?;
    let keys = Arc::new(KeyTable::new(Pepper::load_or_create(&config.state_dir)?, clock.clone(), DEFAULT_TRUST));
    AdminToken::load_or_create(&config.state_dir)?;
    let mut revision = None;
    identity::refresh(store.as_ref(), &keys, &mut revision).await?;

    let fleet = fleet(&config, &clock, &serving)?;
    background::look_at_all(&fleet, &metrics).await;
    let policies = Policies::load(
        runtime(&config, &clock, &fleet, Some(compiled_folder(&config)?))?,
        &config.policies,
        &clock,
        &metrics,
    )?;

    let proxy = Arc::new(Proxy::new(Parts {
        chains: policies.chains(),
        keys: Arc::clone(&keys),
        quota: Arc::new(Quota::new(QuotaBounds::default())),
        fleet: Arc::clone(&fleet),
        upstream: Upstream::new(&client_tls()?, config.upstream.connect_timeout, config.upstream.first_byte_timeout),
        metrics: Arc::clone(&metrics),
        buffers: BufferBudget::new(config.server.max_buffered),
        bounds: request_bounds(&config),
        clock: clock.clone(),
    }));
    let bounds = Bounds {
        connections: config.server.max_connections.get(),
        head: config.server.head_timeout,
        stall: config.upstream.idle_timeout,
        drain: config.server.drain_timeout,
    };
    let server = listen(config.server.listen, Server::bind(config.server.listen, proxy, bounds)).await?;
    let policies = super::watch::follow_policies(&serving, &stop, policies);
    let operations = Operations {
        metrics: Arc::clone(&metrics),
        keys: Arc::clone(&keys),
        fleet: Arc::clone(&fleet),
        policies: Arc::<Steering>::clone(&policies),
        clock: clock.clone(),
        state_dir: config.state_dir.clone(),
        hosts: config.admin.hosts.clone(),
        stop: stop.clone(),
    };
    let admin = listen(config.admin.listen, Admin::bind(config.admin.listen, operations)).await?;
    let (data_plane_address, admin_address) = (server.address(), admin.address());

    background::follow_keys(&serving, &stop, store, keys, revision);
    background::follow_backends(&serving, &stop, &config.upstream, &fleet, &metrics);
    serving.spawn(server.serve(stop.clone(), cut.clone()));
    admin_serving.spawn(admin.serve(stop_admin.clone(), cut_admin.clone()));
    tracing::info!(data_plane = %data_plane_address, admin = %admin_address, backends = config.backends.len(), "serving");
    Ok(App {
        data_plane: data_plane_address,
        admin: admin_address,
        policies,
        stop,
        cut,
        stop_admin,
        cut_admin,
        serving,
        admin_serving,
    })
}

async fn listen<T>(address: SocketAddr, bind: impl Future<Output = io::Result<T>>) -> Result<T, StartError> {
    bind.await.map_err(|source| StartError::Listen { address, source })
}

fn request_bounds(config: &Config) -> RequestBounds {
    RequestBounds {
        max_body: usize::try_from(config.server.max_body).unwrap_or(usize::MAX),
        body_idle: config.server.body_idle_timeout,
        upstream_idle: config.upstream.idle_timeout,
        allow_cloud: config.models.allow_cloud,
        expose_backend: config.server.expose_backend,
    }
}

/// How often the store is asked for changes: a change by the command line must be in force within two seconds.
pub(super) const KEY_POLL: Duration = Duration::from_secs(1);
