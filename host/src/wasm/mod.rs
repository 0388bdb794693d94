//! Policies as WebAssembly components: the only place that knows wasmtime.
//!
//! A [`Runtime`] turns bytes into a [`GuestPolicy`]. Guests run on the thread of the request, in warm instances that serve
//! one call at a time. A guest can never wait, reach out, see a credential, or outlive its CPU budget; when it fails, its
//! instance is dropped and the answer is a fault. Nothing of one request is left in an instance's host side for the next.

mod asked;
mod bindings;
mod budget;
mod built_in;
mod cases;
mod component;
mod convert;
mod engine;
mod guest_policy;
mod host_state;
mod instance;
mod janitor;
mod limits;
mod log;
mod pace;
mod pool;
mod shared_state;
mod wasi;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::HeaderName;
use wasmtime::component::Linker;

pub use built_in::{BUILT_IN, BuiltIn};
pub use cases::{CaseReport, Cases, CasesError, MAX_CASES, MAX_CASES_BYTES, Rehearsal};
pub use component::{Inspection, LoadError, MAX_COMPONENT_BYTES};
pub use guest_policy::GuestPolicy;
pub use instance::Meter;

use self::{
    engine::{Fuel, TickingEngine},
    guest_policy::{Allowance, Parts},
    host_state::{HostState, Shared},
    janitor::Janitor,
    log::GuestLog,
    shared_state::States,
};
use crate::{
    clock::Clock,
    ports::{catalogue::Catalogue, limits::LimitSet},
};

/// How policies run. The same for all policies of a process.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// CPU time of one hook.
    pub cpu_budget: Duration,
    /// Memory of one instance, in bytes.
    pub memory_bytes: usize,
    /// Headers that no policy sees, beside credentials and cookies.
    pub masked_headers: Vec<HeaderName>,
    /// `[limits]`: those of a key where neither it nor its user has one of the same name.
    pub default_limits: LimitSet,
    /// Instances of each policy that stand ready: one for each worker thread.
    pub ready_instances: usize,
    /// Where compiled code is kept; a folder that nobody else can write to.
    pub cache: Option<PathBuf>,
}

/// Loads policies. One per process: its engine's ticker and its policies' state are shared.
#[derive(Debug)]
pub struct Runtime {
    linker: LinkerBox,
    allowance: Allowance,
    clock: Clock,
    catalogue: Arc<dyn Catalogue>,
    masked_headers: Arc<[HeaderName]>,
    default_limits: LimitSet,
    states: States,
    janitor: Janitor,
    engine: Arc<TickingEngine>,
}

/// A linker, which has no `Debug` of its own.
struct LinkerBox(Linker<HostState>);

impl std::fmt::Debug for LinkerBox {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Linker")
    }
}

/// The runtime could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the policy runtime can't start: {0}")]
pub struct RuntimeError(String);

impl Runtime {
    /// Starts the engine, its ticker and the janitor.
    ///
    /// # Errors
    /// When the machine can't run WebAssembly, or the cache folder can't be used.
    pub fn start(config: RuntimeConfig, clock: Clock, catalogue: Arc<dyn Catalogue>) -> Result<Self, RuntimeError> {
        let engine = TickingEngine::start(config.cache.as_deref(), Fuel::Ignored);
        Self::on(engine, config, clock, catalogue)
    }

    /// The same for who measures: policies run slower, and their fuel is counted.
    ///
    /// # Errors
    /// When the machine can't run WebAssembly.
    pub fn metered(config: RuntimeConfig, clock: Clock, catalogue: Arc<dyn Catalogue>) -> Result<Self, RuntimeError> {
        let engine = TickingEngine::start(config.cache.as_deref(), Fuel::Counted);
        Self::on(engine, config, clock, catalogue)
    }

    fn on(
        engine: wasmtime::Result<TickingEngine>,
        config: RuntimeConfig,
        clock: Clock,
        catalogue: Arc<dyn Catalogue>,
    ) -> Result<Self, RuntimeError> {
        let failed = |error: wasmtime::Error| RuntimeError(format!("{error:#}"));
        let engine = Arc::new(engine.map_err(failed)?);
        let mut linker = Linker::new(engine.engine());
        asked::add_to_linker(&mut linker).map_err(failed)?;
        wasi::add_to_linker(&mut linker).map_err(failed)?;
        Ok(Self {
            linker: LinkerBox(linker),
            allowance: Allowance {
                memory_bytes: config.memory_bytes,
                cpu: config.cpu_budget,
                ready: config.ready_instances,
            },
            clock,
            catalogue,
            masked_headers: config.masked_headers.into(),
            default_limits: config.default_limits,
            states: States::default(),
            janitor: Janitor::start().map_err(|error| RuntimeError(error.to_string()))?,
            engine,
        })
    }

    /// Compiles, checks, starts and configures a policy. Takes long: never on a request's path.
    ///
    /// # Errors
    /// What is wrong with the component or its settings, and what to do.
    pub fn load(&self, name: &Arc<str>, bytes: &[u8], settings: &str) -> Result<GuestPolicy, LoadError> {
        // A compiler that panics over an odd file must cost that file, and nothing else.
        let loaded = catch_unwind(AssertUnwindSafe(|| self.load_unguarded(name, bytes, settings)));
        loaded.unwrap_or_else(|_| Err(LoadError::Start("the compiler panicked over it".to_owned())))
    }

    fn load_unguarded(&self, name: &Arc<str>, bytes: &[u8], settings: &str) -> Result<GuestPolicy, LoadError> {
        let checked = component::check(self.engine.engine(), &self.linker.0, bytes)?;
        let shared = Arc::new(Shared {
            name: Arc::clone(name),
            clock: self.clock.clone(),
            catalogue: Arc::clone(&self.catalogue),
            state: self.states.of(name),
            log: GuestLog::new(self.clock.clone()),
            masked_headers: Arc::clone(&self.masked_headers),
            default_limits: self.default_limits.clone(),
            stream: stream_of(name),
        });
        GuestPolicy::start(Parts {
            shared,
            checked,
            settings: settings.into(),
            allowance: self.allowance.clone(),
            janitor: self.janitor.clone(),
            ticker: Arc::clone(&self.engine),
        })
    }
}

/// A number for a policy's name (FNV-1a, RFC 9923), spread over all bits; the same everywhere.
fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
