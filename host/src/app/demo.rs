//! The demo: the real gate, with its store and limits, before two simulated Ollama servers.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{App, SimulatedOllama, StartError, build};
use crate::{
    clock::Clock,
    config::{self, BackendKind, BackendUrl, Config},
    identity::{FreshKey, NoRandomness, Pepper, PepperError},
    ports::{
        keys::Scope,
        store::{NewKey, Store, StoreError},
    },
};

/// A demo that runs.
#[derive(Debug)]
pub struct Demo {
    app: App,
    key: FreshKey,
    tasks: TaskTracker,
    stop: CancellationToken,
    state: Scratch,
}

/// A folder that is removed with this.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    /// A new folder of a name that nobody can have made before: what is found there already is not ours to use or remove.
    fn new() -> io::Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let folder = std::env::temp_dir().join(format!("tollgate-demo-{:016x}", u64::from_le_bytes(random)));
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the demo's folder could not be removed");
        }
    }
}

/// Why the demo doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The gate doesn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A simulated server, or the folder for the state, can't be made.
    #[error("the demo can't be set up: {0}")]
    Simulated(#[from] io::Error),
    /// The demo's key can't be made.
    #[error("the demo's key can't be made: {0}")]
    Key(String),
}

impl From<StoreError> for DemoError {
    fn from(error: StoreError) -> Self {
        Self::Key(error.to_string())
    }
}

impl From<PepperError> for DemoError {
    fn from(error: PepperError) -> Self {
        Self::Key(error.to_string())
    }
}

impl From<NoRandomness> for DemoError {
    fn from(error: NoRandomness) -> Self {
        Self::Key(error.to_string())
    }
}

impl Demo {
    /// Starts two simulated servers and the gate before them, with a fresh key. State lies in a folder that goes with
    /// the demo; of the configuration, backends and state folder are the demo's own.
    ///
    /// # Errors
    /// What can't start.
    pub async fn start(mut config: Config, clock: Clock) -> Result<Self, DemoError> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let state = Scratch::new()?;
        config.state_dir.clone_from(&state.0);
        config.store.path = state.0.join("tollgate.db");
        config.backends.clear();
        for (name, models) in [("sim-1", ["llama3:latest", "qwen3:8b"]), ("sim-2", ["llama3:latest", "gemma3:4b"])] {
            let server = SimulatedOllama::start(name, &models, &tasks, &stop).await?;
            let url = BackendUrl::parse(&format!("http://{}", server.address()), false)
                .map_err(|error| io::Error::other(error.to_string()))?;
            let (name, kind) = (name.to_owned(), BackendKind::Ollama);
            config.backends.push(config::Backend { name, url, kind, weight: 1, anthropic: false });
        }
        let key = create_key(&config, &state.0, &clock).await?;
        let app = App::start(config, clock).await?;
        Ok(Self { app, key, tasks, stop, state })
    }

    /// The gate.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// The demo's key.
    pub fn key(&self) -> &str {
        self.key.text()
    }

    /// Stops the gate, then the simulated servers, and removes the state.
    pub async fn stop(self) {
        self.app.stop().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        drop(self.state);
    }
}

async fn create_key(config: &Config, state: &Path, clock: &Clock) -> Result<FreshKey, DemoError> {
    let store = build::open_store(config).await?;
    let (pepper, key) = (Pepper::load_or_create(state)?, FreshKey::generate()?);
    let new = NewKey {
        id: key.id().to_owned(),
        name: "demo".to_owned(),
        user: None,
        limits: Vec::new(),
        scope: Scope::AllModels,
        may_manage: false,
        attributes: Vec::new(),
        expires_at_ms: None,
        created_at_ms: clock.unix_ms(),
        hash: pepper.hash(key.id(), key.secret()),
    };
    store.create_key(new).await?;
    store.close().await;
    Ok(key)
}
