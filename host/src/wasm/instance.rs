//! One instance of a policy: a store, and the hooks that were found in it. Serves one call at a time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use wasmtime::{Error, Result, Store, Trap, component::InstancePre};

use super::{
    bindings::hooks::{admit, authenticate, lifecycle, route, settle},
    component::LoadError,
    host_state::{HostState, RuleBroken},
    limits::OverLimit,
    log::one_line,
    tally::Retired,
    terms::{NO_SETTINGS, Retirement, Terms},
};
use crate::policy::{Exchange, FaultKind, Hook};

/// Bytes that a guest may hand over in one call to the host or one answer.
const HOST_CALL_BYTES: usize = 256 << 10;

/// Fuel of a new instance where fuel is counted: more than it can use up.
const FULL_TANK: u64 = u64::MAX;

/// Its age is looked at after so many calls: asking the time each time would cost more than it finds.
const CALLS_A_LOOK: u32 = 16;

/// Where a component exports its hooks; found once, when it is loaded.
#[derive(Clone)]
pub(super) struct Exports {
    /// None: it takes no settings.
    lifecycle: Option<lifecycle::GuestIndices>,
    authenticate: Option<authenticate::GuestIndices>,
    admit: Option<admit::GuestIndices>,
    route: Option<route::GuestIndices>,
    settle: Option<settle::GuestIndices>,
}

impl Exports {
    /// Finds the hooks of a component. A policy without one is the caller's to refuse.
    pub(super) fn find(pre: &InstancePre<HostState>) -> Self {
        Self {
            lifecycle: lifecycle::GuestIndices::new(pre).ok(),
            authenticate: authenticate::GuestIndices::new(pre).ok(),
            admit: admit::GuestIndices::new(pre).ok(),
            route: route::GuestIndices::new(pre).ok(),
            settle: settle::GuestIndices::new(pre).ok(),
        }
    }

    /// Whether it takes settings.
    pub(super) fn is_configurable(&self) -> bool {
        self.lifecycle.is_some()
    }

    /// Settings that nothing takes would be a policy that doesn't do what its operator thinks.
    pub(super) fn take(&self, terms: &Terms) -> std::result::Result<(), LoadError> {
        if *terms.settings != *NO_SETTINGS && !self.is_configurable() {
            return Err(LoadError::NoSettings);
        }
        Ok(())
    }

    pub(super) fn has(&self, hook: Hook) -> bool {
        match hook {
            Hook::Authenticate => self.authenticate.is_some(),
            Hook::Admit => self.admit.is_some(),
            Hook::Route => self.route.is_some(),
            Hook::Settle => self.settle.is_some(),
        }
    }
}

/// The hooks of one instance.
pub(super) struct Hooks {
    pub(super) authenticate: Option<authenticate::Guest>,
    pub(super) admit: Option<admit::Guest>,
    pub(super) route: Option<route::Guest>,
    pub(super) settle: Option<settle::Guest>,
}

/// One instance.
pub(super) struct Instance {
    store: Store<HostState>,
    hooks: Hooks,
    calls: u32,
    born_ms: u64,
    memory_at_birth: usize,
}

/// What an instance has used since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// Wasm instructions, about; none when the engine doesn't count them.
    pub fuel: Option<u64>,
    /// Size of its memories, in bytes.
    pub memory_bytes: usize,
}

/// Why an instance could not be made or configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum BirthError {
    #[error("it can't be started")]
    Start(#[source] Error),
    #[error("its `configure` failed")]
    Configure(#[source] Error),
    #[error("it refuses its settings: {0}")]
    Refused(String),
}

impl Instance {
    /// Makes an instance and configures it.
    pub(super) fn start(
        pre: &InstancePre<HostState>,
        exports: &Exports,
        state: HostState,
    ) -> std::result::Result<Self, BirthError> {
        let born_ms = state.shared.clock.monotonic_ms();
        let mut store = Store::new(pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(HOST_CALL_BYTES);
        store.set_max_component_handles(256);
        store.epoch_deadline_callback(|mut context| context.data_mut().budget.tick());
        store.set_epoch_deadline(1);
        // Only the engine of who measures counts fuel; the others say so, and run without.
        drop(store.set_fuel(FULL_TANK));
        store.data_mut().begin(None);
        let instance = pre.instantiate(&mut store).map_err(BirthError::Start)?;
        let lifecycle = load(exports.lifecycle.as_ref(), |found| found.load(&mut store, &instance))?;
        let hooks = Hooks {
            authenticate: load(exports.authenticate.as_ref(), |found| found.load(&mut store, &instance))?,
            admit: load(exports.admit.as_ref(), |found| found.load(&mut store, &instance))?,
            route: load(exports.route.as_ref(), |found| found.load(&mut store, &instance))?,
            settle: load(exports.settle.as_ref(), |found| found.load(&mut store, &instance))?,
        };
        if let Some(lifecycle) = lifecycle {
            let shared = Arc::clone(&store.data().shared);
            let configured =
                lifecycle.call_configure(&mut store, &shared.terms.settings).map_err(BirthError::Configure)?;
            configured.map_err(|text| BirthError::Refused(one_line(&text)))?;
        }
        store.data_mut().end();
        let memory_at_birth = store.data().limits.grown_to();
        Ok(Self { store, hooks, calls: 0, born_ms, memory_at_birth })
    }

    /// Asks one hook. After an error the instance must not be used again: its memory may be in any state.
    pub(super) fn ask<T>(
        &mut self,
        hook: Hook,
        exchange: &Arc<Exchange>,
        question: impl FnOnce(&Hooks, &mut Store<HostState>) -> Result<T>,
    ) -> Result<T> {
        self.calls = self.calls.saturating_add(1);
        self.store.data_mut().begin(Some((hook, Arc::clone(exchange))));
        self.store.set_epoch_deadline(1);
        // A panic on this side of a call must not take the connection's task with it; the store is dropped like after a trap.
        let answer = catch_unwind(AssertUnwindSafe(|| question(&self.hooks, &mut self.store)));
        self.store.data_mut().end();
        answer.unwrap_or_else(|_| Err(Error::msg("the host panicked while it served the policy")))
    }

    /// Its host side.
    pub(super) fn state(&mut self) -> &mut HostState {
        self.store.data_mut()
    }

    /// What it has used so far.
    pub(super) fn meter(&self) -> Meter {
        let fuel = self.store.get_fuel().ok().map(|left| FULL_TANK.saturating_sub(left));
        Meter { fuel, memory_bytes: self.store.data().limits.grown_to() }
    }

    /// Calls that it was asked so far.
    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    /// Why it has served its time, if it has: by its calls, by what its memory has grown since it was configured, or by its age
    /// at this moment, which is asked for now and then.
    pub(super) fn retires(&self, at: &Retirement, now_ms: impl FnOnce() -> u64) -> Option<Retired> {
        let growth = || self.store.data().limits.grown_to().saturating_sub(self.memory_at_birth);
        let is_old = || now_ms().saturating_sub(self.born_ms) >= at.age_ms;
        if self.calls >= at.calls {
            Some(Retired::Calls)
        } else if growth() >= at.growth {
            Some(Retired::Growth)
        } else {
            (self.calls.is_multiple_of(CALLS_A_LOOK) && is_old()).then_some(Retired::Age)
        }
    }
}

fn load<I, G>(found: Option<&I>, load: impl FnOnce(&I) -> Result<G>) -> std::result::Result<Option<G>, BirthError> {
    found.map(load).transpose().map_err(BirthError::Start)
}

/// What kind of fault an error is.
pub(super) fn classify(error: &Error) -> FaultKind {
    if error.downcast_ref::<OverLimit>().is_some() {
        return FaultKind::Memory;
    }
    match error.downcast_ref::<RuleBroken>() {
        Some(RuleBroken::StaleKeys) => return FaultKind::StaleKeys,
        Some(RuleBroken::Oversized(_)) => return FaultKind::Oversized,
        Some(
            RuleBroken::NotHere { .. }
            | RuleBroken::TooManyCalls { .. }
            | RuleBroken::OtherPath
            | RuleBroken::TooMuchRead
            | RuleBroken::BadArgument(_),
        ) => {
            return FaultKind::Trap;
        }
        None => {}
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => FaultKind::Budget,
        Some(Trap::StackOverflow) => FaultKind::Memory,
        _ => FaultKind::Trap,
    }
}
