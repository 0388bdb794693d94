//! Where instances of one version of a policy come from.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use wasmtime::component::InstancePre;

use super::{
    budget::{Budget, NO_WALL_CAP},
    engine::TickingEngine,
    host_state::{HostState, Shared},
    instance::{BirthError, Exports, Instance},
};

/// CPU time in which an instance starts and configures itself, and ticks in which that must be over where a request waits:
/// only when an instance has to be replaced, since they are made ahead.
const CPU_TO_START: Duration = Duration::from_millis(100);
const TICKS_TO_START: u32 = 2_000;

/// No more than ten spare instances a second are made, which cost 70 µs each: more would find out no more.
const SPARE_EVERY_MS: u64 = 100;

/// Makes instances that are started and configured.
pub(super) struct Nursery {
    pub(super) shared: Arc<Shared>,
    /// The same with a log that takes nothing: for calls that are made a second time.
    pub(super) silent: Arc<Shared>,
    pub(super) pre: InstancePre<HostState>,
    pub(super) exports: Exports,
    spare: Mutex<Spare>,
    /// Last: without its ticks a guest would have no budget, so they go on as long as there is anyone to ask.
    pub(super) ticker: Arc<TickingEngine>,
}

/// An instance that was never asked anything, and when the next one may be made.
#[derive(Default)]
struct Spare {
    instance: Option<Box<Instance>>,
    is_being_made: bool,
    next_ms: u64,
}

impl Nursery {
    pub(super) fn new(
        shared: Arc<Shared>,
        silent: Arc<Shared>,
        pre: InstancePre<HostState>,
        exports: Exports,
        ticker: Arc<TickingEngine>,
    ) -> Self {
        Self { shared, silent, pre, exports, spare: Mutex::default(), ticker }
    }

    /// An instance for a request that waits for it.
    pub(super) fn birth(&self) -> Result<Instance, BirthError> {
        self.birth_within(TICKS_TO_START, &self.shared)
    }

    /// An instance that no caller waits for, of this policy or one that reaches another log or state.
    pub(super) fn birth_ahead(&self, shared: &Arc<Shared>) -> Result<Instance, BirthError> {
        self.birth_within(NO_WALL_CAP, shared)
    }

    fn birth_within(&self, wall_ticks: u32, shared: &Arc<Shared>) -> Result<Instance, BirthError> {
        let budget = Budget::new(CPU_TO_START, wall_ticks, Arc::clone(self.ticker.pace()));
        Instance::start(&self.pre, &self.exports, HostState::new(Arc::clone(shared), budget))
    }

    /// The spare instance, if one is there. `true`: somebody has to [raise](Self::raise) another.
    pub(super) fn take_spare(&self) -> (Option<Instance>, bool) {
        let now_ms = self.shared.clock.ticked_ms();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = !spare.is_being_made && now_ms >= spare.next_ms;
        if is_wanted {
            spare.is_being_made = true;
            spare.next_ms = now_ms.saturating_add(SPARE_EVERY_MS);
        }
        (spare.instance.take().map(|instance| *instance), is_wanted)
    }

    /// Nobody makes a spare instance: another call may ask for one.
    pub(super) fn give_up_spare(&self) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).is_being_made = false;
    }

    /// Makes the spare instance. Takes long: never on a request's path.
    pub(super) fn raise(&self) {
        let born = self.birth_ahead(&self.silent).inspect_err(|error| {
            tracing::debug!(policy = &*self.shared.name, %error, "no instance could be made to look at it again");
        });
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.is_being_made = false;
        spare.instance = born.ok().map(Box::new);
    }
}
