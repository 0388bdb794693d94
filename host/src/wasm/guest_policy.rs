//! A loaded component as a [`Policy`]: takes a warm instance, asks it, and checks what it answers.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    sync::Arc,
    time::Duration,
};

use wasmtime::{Result as WasmResult, Store, component::InstancePre};

use super::{
    budget::Budget,
    component::{Checked, Inspection, LoadError},
    convert::{self, Wrong},
    engine::TickingEngine,
    host_state::{HostState, Shared},
    instance::{BirthError, Exports, Hooks, Instance, Meter, classify},
    janitor::Janitor,
    pool::Pool,
};
use crate::policy::{
    AdmitDecision, AuthenticateDecision, Backend, Call, Exchange, Fault, FaultKind, Head, Hook, Outcome, Policy,
    Presented, Principal, RouteDecision,
};

/// What each instance of a policy gets.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    pub(super) memory_bytes: usize,
    pub(super) cpu: Duration,
    /// Instances that stand ready when the policy comes into force: one for each worker.
    pub(super) ready: usize,
}

/// CPU time in which an instance starts and configures itself, and ticks in which that must be over. Mostly off the
/// requests' path, where instances are made ahead; a request pays it only when one has to be replaced.
const CPU_TO_START: Duration = Duration::from_millis(100);
const TICKS_TO_START: u32 = 2_000;

/// One version of one policy, ready to be asked.
pub struct GuestPolicy {
    shared: Arc<Shared>,
    pre: InstancePre<HostState>,
    exports: Exports,
    inspection: Inspection,
    settings: Box<str>,
    allowance: Allowance,
    pool: Pool,
    janitor: Janitor,
    /// Last: without its ticks a guest would have no budget, so they go on as long as there is anyone to ask.
    ticker: Arc<TickingEngine>,
}

/// The parts of a [`GuestPolicy`].
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) checked: Checked,
    pub(super) settings: Box<str>,
    pub(super) allowance: Allowance,
    pub(super) janitor: Janitor,
    pub(super) ticker: Arc<TickingEngine>,
}

impl GuestPolicy {
    /// Starts and configures instances ahead: settings that are refused never meet a caller.
    pub(super) fn start(parts: Parts) -> Result<Self, LoadError> {
        let Parts { shared, checked, settings, allowance, janitor, ticker } = parts;
        let Checked { pre, exports, inspection } = checked;
        let policy =
            Self { shared, pre, exports, inspection, settings, allowance, pool: Pool::default(), janitor, ticker };
        for _ in 0..policy.allowance.ready.max(1) {
            policy.pool.stock(policy.instance()?);
        }
        Ok(policy)
    }

    /// What the component imports and decides.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// What its instances share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The same component on one instance of its own that reaches nothing of the policy's: for who tries it out.
    pub(super) fn in_surroundings(&self, shared: Arc<Shared>, settings: Option<&str>) -> Result<Self, LoadError> {
        let checked =
            Checked { pre: self.pre.clone(), exports: self.exports.clone(), inspection: self.inspection.clone() };
        Self::start(Parts {
            shared,
            checked,
            settings: settings.unwrap_or(&self.settings).into(),
            allowance: Allowance { ready: 1, ..self.allowance.clone() },
            janitor: self.janitor.clone(),
            ticker: Arc::clone(&self.ticker),
        })
    }

    /// What the instance that this thread would ask next has used so far; none when there is none.
    pub(super) fn meter(&self) -> Option<Meter> {
        let instance = self.pool.take()?;
        let meter = instance.meter();
        self.keep(instance);
        Some(meter)
    }

    fn instance(&self) -> Result<Instance, BirthError> {
        let budget = Budget::new(CPU_TO_START, TICKS_TO_START, Arc::clone(self.ticker.pace()));
        let state = HostState::new(Arc::clone(&self.shared), self.allowance.memory_bytes, budget);
        let mut instance = Instance::start(&self.pre, &self.exports, state, &self.settings)?;
        instance.set_budget(self.allowance.cpu);
        Ok(instance)
    }

    fn keep(&self, instance: Instance) {
        if let Some(gone) = self.pool.keep(instance, self.shared.clock.monotonic_ms()) {
            self.janitor.bury(gone);
        }
    }

    /// Asks one hook of a warm instance, or of a new one, and converts the answer.
    fn ask<A, D>(
        &self,
        hook: Hook,
        exchange: &Arc<Exchange>,
        question: impl FnOnce(&Hooks, &mut Store<HostState>) -> WasmResult<Option<A>>,
        convert: impl FnOnce(A) -> Result<D, Wrong>,
        abstain: D,
    ) -> Result<D, Fault> {
        let fault = |kind, detail| Fault { policy: Arc::clone(&self.shared.name), hook, kind, detail };
        let mut instance = match self.pool.take() {
            Some(instance) => instance,
            None => {
                self.instance().map_err(|error| fault(FaultKind::Instantiate, LoadError::from(error).to_string()))?
            }
        };
        let answer = instance.ask(hook, exchange, question).map(|answer| answer.map_or(Ok(abstain), convert));
        match answer {
            Ok(Ok(decision)) => {
                self.keep(instance);
                Ok(decision)
            }
            // An instance that answers nonsense may hold nonsense.
            Ok(Err(wrong)) => {
                self.janitor.bury(instance);
                Err(fault(FaultKind::BadAnswer, wrong))
            }
            Err(error) => {
                self.janitor.bury(instance);
                Err(fault(classify(&error), exchange.blanked(format!("{error:#}"))))
            }
        }
    }
}

impl Policy for GuestPolicy {
    fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    fn decides(&self, hook: Hook) -> bool {
        self.exports.has(hook)
    }

    fn authenticate(
        &self,
        exchange: &Arc<Exchange>,
        head: &Head,
        presented: Option<&Presented>,
    ) -> Result<AuthenticateDecision, Fault> {
        self.ask(
            Hook::Authenticate,
            exchange,
            |hooks, store| {
                let Some(guest) = &hooks.authenticate else { return Ok(None) };
                guest.call_check(store, convert::head(head), presented.map(convert::presented)).map(Some)
            },
            |decision| convert::authenticated(decision, |text| exchange.blanked(text)),
            AuthenticateDecision::Abstain,
        )
    }

    fn admit(&self, exchange: &Arc<Exchange>, call: &Call, principal: &Principal) -> Result<AdmitDecision, Fault> {
        self.ask(
            Hook::Admit,
            exchange,
            |hooks, store| {
                let Some(guest) = &hooks.admit else { return Ok(None) };
                guest.call_decide(store, convert::call(call), convert::principal(principal)).map(Some)
            },
            |decision| convert::admitted(decision, |text| exchange.blanked(text)),
            AdmitDecision::Abstain,
        )
    }

    fn route(
        &self,
        exchange: &Arc<Exchange>,
        call: &Call,
        principal: &Principal,
        backends: &[Backend],
    ) -> Result<RouteDecision, Fault> {
        let backends = convert::backends(backends);
        self.ask(
            Hook::Route,
            exchange,
            |hooks, store| {
                let Some(guest) = &hooks.route else { return Ok(None) };
                guest.call_choose(store, convert::call(call), convert::principal(principal), &backends).map(Some)
            },
            |decision| convert::routed(decision, |text| exchange.blanked(text)),
            RouteDecision::Abstain,
        )
    }

    fn settle(&self, exchange: &Arc<Exchange>, call: &Call, outcome: &Outcome) -> Result<(), Fault> {
        // Only an admitted call is settled, and that has a caller.
        let Some(caller) = exchange.caller() else { return Ok(()) };
        let (principal, outcome) = (convert::principal(&caller.principal), convert::outcome(outcome));
        self.ask(
            Hook::Settle,
            exchange,
            |hooks, store| {
                let Some(guest) = &hooks.settle else { return Ok(None) };
                guest.call_done(store, convert::call(call), principal, outcome).map(Some)
            },
            Ok,
            (),
        )
    }
}

impl Debug for GuestPolicy {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("GuestPolicy").field("name", &self.shared.name).finish_non_exhaustive()
    }
}
