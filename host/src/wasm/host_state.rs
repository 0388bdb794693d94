//! Store data: what one instance may reach while it runs. Between calls nothing of any request is left here.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderName;
use wasmtime::{Error, Result, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    budget::{Budget, NO_WALL_CAP},
    limits::GuestLimits,
    log::GuestLog,
    shared_state::SharedState,
    terms::Terms,
    transcript::{Telling, Transcript},
    wasi,
};
use crate::{
    clock::Clock,
    policy::{Caller, Draft, Exchange, Hook},
    ports::{catalogue::Catalogue, limits::LimitSet},
};

/// Imports that it may call while it starts and is configured.
const HOST_CALLS_TO_START: u32 = 10_000;

/// Bytes of a body that the host reads for one hook, beside four times the body. What the host does costs the guest no
/// budget until it returns, so it is counted.
const SCANNED_A_HOOK: usize = 4 << 20;

/// A guest broke a rule of the interface.
#[derive(Debug, thiserror::Error)]
pub(super) enum RuleBroken {
    #[error("it called `{import}`, which may not be called in {place}")]
    NotHere { import: &'static str, place: &'static str },
    #[error("it made more than {most} calls to the host in one hook")]
    TooManyCalls { most: u32 },
    #[error("it made the host read more than {SCANNED_A_HOOK} bytes, or the body four times, in one hook")]
    TooMuchRead,
    #[error("{0}")]
    BadArgument(String),
    #[error("{0}")]
    Oversized(String),
    #[error("the key table is too old to prove anybody")]
    StaleKeys,
    #[error("it asked the host something else than in the same call before")]
    OtherPath,
}

/// What all instances of one policy share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) catalogue: Arc<dyn Catalogue>,
    pub(super) state: Arc<SharedState>,
    pub(super) log: GuestLog,
    pub(super) masked_headers: Arc<[HeaderName]>,
    /// `[limits]`.
    pub(super) default_limits: LimitSet,
    /// Tells this policy's random numbers from those of the others in the same call.
    pub(super) stream: u64,
    /// Ticks in which a hook must be over.
    pub(super) wall_ticks: u32,
    pub(super) terms: Terms,
}

impl Shared {
    /// The same for calls that are only tried: what they write is kept from the policy's state, and from the log.
    pub(super) fn rehearsing(&self) -> Self {
        let (clock, catalogue) = (self.clock.clone(), Arc::clone(&self.catalogue));
        Self {
            name: Arc::clone(&self.name),
            log: GuestLog::new(clock.clone(), 0, Arc::default()),
            clock,
            catalogue,
            state: Arc::new(self.state.above()),
            masked_headers: Arc::clone(&self.masked_headers),
            default_limits: self.default_limits.clone(),
            stream: self.stream,
            wall_ticks: NO_WALL_CAP,
            terms: Terms { log_lines: 0, ..self.terms.clone() },
        }
    }
}

/// The time as a hook sees it: asked once, then the same until the hook ends.
#[derive(Debug)]
pub(super) struct HookTime {
    clock: Clock,
    unix_ms: AtomicU64,
}

impl HookTime {
    /// Milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        match self.unix_ms.load(Ordering::Relaxed) {
            0 => {
                let now = self.clock.unix_ms();
                self.unix_ms.store(now, Ordering::Relaxed);
                now
            }
            known => known,
        }
    }

    /// The hook's moment; 0: that of the next question.
    fn set(&self, unix_ms: u64) {
        self.unix_ms.store(unix_ms, Ordering::Relaxed);
    }
}

/// The call that an instance is busy with.
struct Turn {
    /// None while it is being configured.
    during: Option<(Hook, Arc<Exchange>)>,
    host_calls: u32,
    most_host_calls: u32,
    scanned: usize,
    random_drawn: u64,
    /// What it has changed in the call so far.
    draft: Option<Box<Draft>>,
    /// What it has said of the caller so far.
    attributes: GivenAttributes,
}

/// Attributes by name, as a policy gives them.
pub(super) type GivenAttributes = Vec<(Box<str>, Box<[Box<str>]>)>;

impl Turn {
    fn of(during: Option<(Hook, Arc<Exchange>)>, most_host_calls: u32) -> Self {
        Self {
            during,
            host_calls: 0,
            most_host_calls,
            scanned: 0,
            random_drawn: 0,
            draft: None,
            attributes: Vec::new(),
        }
    }
}

/// Data of one store.
pub(super) struct HostState {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: GuestLimits,
    pub(super) budget: Budget,
    pub(super) telling: Telling,
    time: Arc<HookTime>,
    turn: Turn,
    table: ResourceTable,
    wasi: WasiCtx,
}

impl HostState {
    pub(super) fn new(shared: Arc<Shared>, budget: Budget) -> Self {
        let time = Arc::new(HookTime { clock: shared.clock.clone(), unix_ms: AtomicU64::new(0) });
        let mut table = ResourceTable::new();
        table.set_max_capacity(256);
        let wasi = wasi::context(&shared, &time);
        Self {
            limits: GuestLimits::new(shared.terms.memory_bytes),
            shared,
            budget,
            telling: Telling::Live,
            time,
            turn: Turn::of(None, HOST_CALLS_TO_START),
            table,
            wasi,
        }
    }

    /// A hook begins, or, without an exchange, the configuration.
    pub(super) fn begin(&mut self, during: Option<(Hook, Arc<Exchange>)>) {
        let mut most_host_calls = HOST_CALLS_TO_START;
        if let Some((hook, _)) = &during {
            let allowance = self.shared.terms.hook(*hook);
            most_host_calls = allowance.host_calls;
            self.budget.set(allowance.cpu, self.shared.wall_ticks);
        }
        self.turn = Turn::of(during, most_host_calls);
        self.time.set(match &self.telling {
            Telling::Again(transcript) => transcript.unix_ms,
            _ => 0,
        });
        self.budget.restart();
    }

    /// The hook is over: the request is let go.
    pub(super) fn end(&mut self) {
        self.turn = Turn::of(None, 0);
    }

    /// What the hook has changed in the call so far, to change more.
    pub(super) fn draft(&mut self) -> &mut Draft {
        self.turn.draft.get_or_insert_default()
    }

    /// What the hook has changed in the call; none where it changed nothing.
    pub(super) fn take_draft(&mut self) -> Option<Box<Draft>> {
        self.turn.draft.take().filter(|draft| !draft.is_empty())
    }

    /// What the hook has said of the caller so far, to say more.
    pub(super) fn attributes(&mut self) -> &mut GivenAttributes {
        &mut self.turn.attributes
    }

    /// What the host says in the next call is kept.
    pub(super) fn keep_telling(&mut self) {
        self.telling = Telling::Kept(Transcript::default());
    }

    /// What it said, if all of it was kept, and when.
    pub(super) fn transcript(&mut self) -> Option<Transcript> {
        let unix_ms = self.time.unix_ms.load(Ordering::Relaxed);
        self.telling.take().map(|mut transcript| {
            transcript.unix_ms = unix_ms;
            transcript
        })
    }

    pub(super) fn time(&self) -> &HookTime {
        &self.time
    }

    /// Counts one call to the host.
    pub(super) fn count_call(&mut self) -> Result<()> {
        self.turn.host_calls += 1;
        if self.turn.host_calls > self.turn.most_host_calls {
            return Err(Error::new(RuleBroken::TooManyCalls { most: self.turn.most_host_calls }));
        }
        Ok(())
    }

    /// Counts one reading of a body of this size.
    pub(super) fn count_scan(&mut self, bytes: usize) -> Result<()> {
        self.turn.scanned = self.turn.scanned.saturating_add(bytes);
        if self.turn.scanned > SCANNED_A_HOOK.saturating_add(bytes.saturating_mul(4)) {
            return Err(Error::new(RuleBroken::TooMuchRead));
        }
        Ok(())
    }

    /// The exchange in progress, if `import` may be called in this hook; counts the call.
    pub(super) fn exchange_in(&mut self, import: &'static str, hooks: &[Hook]) -> Result<&Arc<Exchange>> {
        self.count_call()?;
        match &self.turn.during {
            Some((hook, exchange)) if hooks.contains(hook) => Ok(exchange),
            Some((hook, _)) => Err(Error::new(RuleBroken::NotHere { import, place: hook.as_str() })),
            None => Err(Error::new(RuleBroken::NotHere { import, place: "configure" })),
        }
    }

    /// Who calls, if `import` may be called in this hook; counts the call.
    pub(super) fn caller_in(&mut self, import: &'static str) -> Result<&Caller> {
        let exchange = self.exchange_in(import, &Hook::WITH_CALLER)?;
        exchange.caller().ok_or_else(|| Error::new(RuleBroken::NotHere { import, place: "authenticate" }))
    }

    /// The text without the presented credential.
    pub(super) fn blanked(&self, text: String) -> String {
        match &self.turn.during {
            Some((_, exchange)) => exchange.blanked(text),
            None => text,
        }
    }

    /// Whether the presented credential stands in these bytes.
    pub(super) fn holds_credential(&self, bytes: &[u8]) -> bool {
        self.turn.during.as_ref().is_some_and(|(_, exchange)| exchange.holds_credential(bytes))
    }

    /// What WASI's streams need: the resources, and the call whose credential must not be written.
    pub(super) fn table_and_exchange(&mut self) -> (&mut ResourceTable, Option<&Exchange>) {
        (&mut self.table, self.turn.during.as_ref().map(|(_, exchange)| &**exchange))
    }

    /// The next number of the call's own stream (SplitMix64: <https://prng.di.unimi.it/splitmix64.c>).
    pub(super) fn draw(&mut self) -> u64 {
        const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        self.turn.random_drawn = self.turn.random_drawn.wrapping_add(GOLDEN_GAMMA);
        let seed = match &self.turn.during {
            Some((hook, exchange)) => exchange.seed() ^ self.shared.stream ^ u64::from(hook.number()),
            None => 0,
        };
        let mut bits = seed.wrapping_add(self.turn.random_drawn);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Debug for HostState {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("HostState").field("policy", &self.shared.name).finish_non_exhaustive()
    }
}
