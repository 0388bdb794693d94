//! Policies as WebAssembly components: the only place that knows wasmtime.
//!
//! A [`Runtime`] turns bytes into a [`GuestPolicy`]. Guests run on the thread of the request, in warm instances that serve
//! one call at a time. A guest can never wait, reach out, see a credential that it was not granted, or outlive its CPU budget;
//! when it fails, its instance is dropped and the answer is a fault. Nothing of one request is left in an instance's host side
//! for the next.

mod answer;
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
mod nursery;
mod pace;
mod pool;
mod shared_state;
mod tally;
mod terms;
mod transcript;
mod warm;
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
pub use component::{Compiled, Inspection, LoadError, MAX_COMPONENT_BYTES};
pub use guest_policy::{GuestPolicy, Started};
pub use instance::Meter;
pub use tally::Tally;
pub use terms::{Allowance, NO_SETTINGS, Retirement, Terms};

use self::{
    budget::{NO_WALL_CAP, WALL_CAP_TICKS},
    engine::{Fuel, TickingEngine},
    guest_policy::Parts,
    host_state::{HostState, Shared},
    janitor::Janitor,
    log::GuestLog,
    nursery::Nursery,
    shared_state::{SharedState, States},
    tally::Tallies,
};
use crate::{
    clock::Clock,
    policy::Grants,
    ports::{catalogue::Catalogue, limits::LimitSet},
};

/// How policies run that have no terms of their own.
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
    /// One decision in so many is made a second time on a fresh instance; 0: none.
    pub recheck_every: u32,
    /// Where compiled code is kept; a folder that nobody else can write to.
    pub cache: Option<PathBuf>,
}

/// Loads policies. One per process: its engine's ticker and its policies' state are shared.
#[derive(Debug)]
pub struct Runtime {
    linker: LinkerBox,
    terms: Terms,
    ready_instances: usize,
    recheck_every: u32,
    clock: Clock,
    catalogue: Arc<dyn Catalogue>,
    masked_headers: Arc<[HeaderName]>,
    default_limits: LimitSet,
    states: States,
    tallies: Tallies,
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
            terms: Terms::of_gate(&config),
            ready_instances: config.ready_instances,
            recheck_every: config.recheck_every,
            clock,
            catalogue,
            masked_headers: config.masked_headers.into(),
            default_limits: config.default_limits,
            states: States::default(),
            tallies: Tallies::default(),
            janitor: Janitor::start().map_err(|error| RuntimeError(error.to_string()))?,
            engine,
        })
    }

    /// Compiles, checks, starts, configures and warms a policy up. Takes long: never on a request's path.
    ///
    /// # Errors
    /// What is wrong with the component or its settings, and what to do.
    pub fn load(
        &self,
        name: &Arc<str>,
        bytes: &[u8],
        settings: &str,
        grants: Grants,
    ) -> Result<GuestPolicy, LoadError> {
        let terms = Terms { settings: settings.into(), grants, ..self.terms.clone() };
        self.start_policy(name, &self.compile(bytes)?, &terms)?.warm()
    }

    /// Compiles a component, or finds its code in the cache, and looks at what it imports and exports. Takes long.
    ///
    /// # Errors
    /// What is wrong with the component, and what to do.
    pub fn compile(&self, bytes: &[u8]) -> Result<Compiled, LoadError> {
        unpanicked(|| component::check(self.engine.engine(), &self.linker.0, bytes))
    }

    /// How often compiled code was found in the cache.
    pub fn cache_hits(&self) -> usize {
        self.engine.cache_hits()
    }

    /// Starts a policy on these terms and configures it: nothing is compiled.
    ///
    /// # Errors
    /// What it lacks of grants, or what is wrong with its settings, and what to do.
    pub fn start_policy(&self, name: &Arc<str>, compiled: &Compiled, terms: &Terms) -> Result<Started, LoadError> {
        component::check_grants(&compiled.inspection, name, &terms.grants)?;
        compiled.exports.take(terms)?;
        let tally = self.tallies.of(name);
        let (state, scratch) = (self.states.of(name), Arc::<SharedState>::default());
        let silent = Terms { log_lines: 0, ..terms.clone() };
        let (uncounted, compiled) = (Arc::default(), compiled.clone());
        let nursery = Nursery::new(
            Arc::new(self.shared(name, terms, Arc::clone(&state), &tally)),
            Arc::new(self.shared(name, &silent, state, &uncounted)),
            compiled.pre,
            compiled.exports,
            Arc::clone(&self.engine),
        );
        let parts = Parts {
            nursery,
            inspection: compiled.inspection,
            scratch: Arc::new(Shared { wall_ticks: NO_WALL_CAP, ..self.shared(name, &silent, scratch, &uncounted) }),
            janitor: self.janitor.clone(),
            tally,
            ready: self.ready_instances,
            recheck_every: self.recheck_every,
        };
        unpanicked(|| GuestPolicy::start(parts))
    }

    fn shared(&self, name: &Arc<str>, terms: &Terms, state: Arc<SharedState>, tally: &Arc<Tally>) -> Shared {
        Shared {
            name: Arc::clone(name),
            clock: self.clock.clone(),
            catalogue: Arc::clone(&self.catalogue),
            state,
            log: GuestLog::new(self.clock.clone(), terms.log_lines, Arc::clone(tally)),
            masked_headers: Arc::clone(&self.masked_headers),
            default_limits: self.default_limits.clone(),
            stream: stream_of(name),
            wall_ticks: WALL_CAP_TICKS,
            terms: terms.clone(),
        }
    }
}

/// A compiler that panics over an odd file must cost that file, and nothing else.
fn unpanicked<T>(work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Err(LoadError::NotCompiled("the gate panicked over it".to_owned())))
}

/// A number for a policy's name (FNV-1a, RFC 9923), spread over all bits; the same everywhere.
fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
