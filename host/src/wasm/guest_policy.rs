//! A loaded component as a [`Policy`]: takes a warm instance, asks it, and checks what it answers.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use wasmtime::{Result as WasmResult, Store};

use super::{
    answer::Answer,
    component::{Inspection, LoadError},
    convert::{self, Wrong},
    host_state::{HostState, Shared},
    instance::{Hooks, Instance, Meter, classify},
    janitor::Janitor,
    nursery::Nursery,
    pool::Pool,
    tally::{Recheck, Tally},
    transcript::{Telling, Transcript},
    unpanicked,
    warm::warm,
};
use crate::policy::{
    Admission, AuthenticateDecision, Backend, Call, Exchange, Fault, FaultKind, Grants, Head, Hook, NotRehearsed,
    Outcome, Policy, Presented, Principal, RouteDecision,
};

/// One version of one policy, ready to be asked.
pub struct GuestPolicy {
    nursery: Arc<Nursery>,
    inspection: Inspection,
    pool: Pool,
    janitor: Janitor,
    tally: Arc<Tally>,
    recheck_every: u32,
    /// Said once for each version.
    is_known_to_differ: AtomicBool,
}

/// The parts of a [`GuestPolicy`].
pub(super) struct Parts {
    pub(super) nursery: Nursery,
    pub(super) inspection: Inspection,
    /// For calls that are made up: state and log of their own.
    pub(super) scratch: Arc<Shared>,
    pub(super) janitor: Janitor,
    pub(super) tally: Arc<Tally>,
    /// Instances that stand ready when the policy comes into force: one for each worker.
    pub(super) ready: usize,
    /// 0: decisions are never made a second time.
    pub(super) recheck_every: u32,
}

/// A policy that is configured, and was not warmed up yet.
#[derive(Debug)]
pub struct Started {
    policy: GuestPolicy,
    /// What its made-up calls share.
    pub(super) scratch: Arc<Shared>,
}

impl Started {
    /// The policy, to be asked off the requests' path.
    pub fn policy(&self) -> &GuestPolicy {
        &self.policy
    }

    /// Has it answer made-up calls.
    ///
    /// # Errors
    /// When they take longer than its budget.
    pub fn warm(self) -> Result<GuestPolicy, LoadError> {
        unpanicked(|| warm(&self.policy.nursery, &self.scratch))?;
        Ok(self.policy)
    }
}

impl GuestPolicy {
    /// Starts and configures instances ahead: settings that are refused never meet a caller.
    pub(super) fn start(parts: Parts) -> Result<Started, LoadError> {
        let Parts { nursery, inspection, scratch, janitor, tally, ready, recheck_every } = parts;
        let pool = Pool::default();
        let is_per_call = nursery.shared.terms.is_per_call;
        for _ in 0..if is_per_call { 1 } else { ready.max(1) } {
            let instance = nursery.birth_ahead(&nursery.shared)?;
            if !is_per_call {
                pool.stock(instance);
            }
        }
        let recheck_every = if is_per_call { 0 } else { recheck_every };
        let is_known_to_differ = AtomicBool::new(false);
        let nursery = Arc::new(nursery);
        let policy = Self { nursery, inspection, pool, janitor, tally, recheck_every, is_known_to_differ };
        Ok(Started { policy, scratch })
    }

    /// What the component imports and decides.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// What it was granted.
    pub fn grants(&self) -> &Grants {
        &self.nursery.shared.terms.grants
    }

    /// What happened to its instances, and those of its other versions.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Lets its free instances go. It may still be asked, and makes new ones.
    pub fn rest(&self) {
        self.pool.empty().into_iter().for_each(|instance| self.janitor.bury(instance));
    }

    /// What its instances share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.nursery.shared
    }

    /// The same component on one instance of its own that reaches nothing of the policy's: for who tries it out.
    pub(super) fn in_surroundings(&self, shared: Arc<Shared>) -> Result<Self, LoadError> {
        let Nursery { pre, exports, ticker, .. } = &*self.nursery;
        exports.take(&shared.terms)?;
        let (pre, exports, ticker) = (pre.clone(), exports.clone(), Arc::clone(ticker));
        let parts = Parts {
            nursery: Nursery::new(Arc::clone(&shared), Arc::clone(&shared), pre, exports, ticker),
            inspection: self.inspection.clone(),
            scratch: shared,
            janitor: self.janitor.clone(),
            tally: Arc::default(),
            ready: 1,
            recheck_every: 0,
        };
        unpanicked(|| Self::start(parts)).map(|started| started.policy)
    }

    /// What the instance that this thread would ask next has used so far; none when there is none.
    pub(super) fn meter(&self) -> Option<Meter> {
        let instance = self.pool.take()?;
        let meter = instance.meter();
        self.keep(instance);
        Some(meter)
    }

    fn keep(&self, instance: Instance) {
        let shared = &self.nursery.shared;
        if shared.terms.is_per_call {
            return self.janitor.bury(instance);
        }
        if let Some(why) = instance.retires(&shared.terms.retirement, || shared.clock.monotonic_ms()) {
            self.tally.retired(why);
            return self.janitor.bury(instance);
        }
        if let Some(gone) = self.pool.keep(instance) {
            self.janitor.bury(gone);
        }
    }

    /// Asks one hook of a warm instance, or of a new one, and converts the answer.
    fn ask<A, D: Answer>(
        &self,
        hook: Hook,
        exchange: &Arc<Exchange>,
        question: impl Fn(&Hooks, &mut Store<HostState>) -> WasmResult<Option<A>>,
        convert: impl Fn(A) -> Result<D, Wrong>,
    ) -> Result<D, Fault> {
        let fault = |kind, detail| Fault { policy: Arc::clone(self.name()), hook, kind, detail };
        let mut instance = match self.pool.take() {
            Some(instance) => instance,
            None => self
                .nursery
                .birth()
                .map_err(|error| fault(FaultKind::Instantiate, LoadError::from(error).to_string()))?,
        };
        let again = self.fresh_for(&mut instance, hook);
        let decide = |instance: &mut Instance| {
            let answer = instance.ask(hook, exchange, |hooks, store| question(hooks, store))?;
            Ok(answer.map_or_else(|| Ok(D::abstain()), &convert))
        };
        match decide(&mut instance) {
            Ok(Ok(decision)) => {
                if let Some((fresh, transcript)) = again.zip(instance.state().transcript()) {
                    self.recheck(hook, fresh, transcript, &decision, decide);
                }
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

    /// A fresh instance, if it is this call's turn to be made a second time: what the host says in it is kept from now on.
    /// The hook that decides nothing has nothing to compare.
    fn fresh_for(&self, instance: &mut Instance, hook: Hook) -> Option<Instance> {
        let is_turn = self.recheck_every > 0
            && hook != Hook::Settle
            && instance.calls().checked_rem(self.recheck_every) == Some(self.recheck_every - 1);
        if !is_turn {
            return None;
        }
        let (fresh, is_wanted) = self.nursery.take_spare();
        if is_wanted {
            self.janitor.raise(&self.nursery);
        }
        if fresh.is_some() {
            instance.state().keep_telling();
        }
        fresh
    }

    /// Makes a decision a second time, told the same. Another one shows that the policy decides by what earlier calls left
    /// in its memory.
    fn recheck<D: Answer>(
        &self,
        hook: Hook,
        mut fresh: Instance,
        transcript: Transcript,
        decision: &D,
        decide: impl Fn(&mut Instance) -> WasmResult<Result<D, Wrong>>,
    ) {
        fresh.state().telling = Telling::Again(transcript);
        let outcome = match decide(&mut fresh) {
            Ok(Ok(second)) if second.is_same(decision) => Recheck::Same,
            Ok(_) => Recheck::Different,
            Err(error) if classify(&error) == FaultKind::Budget => Recheck::Failed,
            Err(_) => Recheck::Different,
        };
        self.janitor.bury(fresh);
        self.tally.rechecked(outcome);
        if outcome == Recheck::Different && !self.is_known_to_differ.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                policy = &**self.name(),
                hook = hook.as_str(),
                "a fresh instance of the policy decides otherwise: it goes by what earlier calls left in its memory; keep \
                 that in `state`, or set reuse = \"per-call\""
            );
        }
    }
}

impl Policy for GuestPolicy {
    fn name(&self) -> &Arc<str> {
        &self.nursery.shared.name
    }

    fn decides(&self, hook: Hook) -> bool {
        self.nursery.exports.has(hook)
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
                let decision = guest.call_check(&mut *store, convert::head(head), presented.map(convert::presented))?;
                Ok(Some((decision, mem::take(store.data_mut().attributes()))))
            },
            |(decision, given)| convert::authenticated(decision, given, exchange),
        )
    }

    fn admit(&self, exchange: &Arc<Exchange>, call: &Call, principal: &Principal) -> Result<Admission, Fault> {
        self.ask(
            Hook::Admit,
            exchange,
            |hooks, store| {
                let Some(guest) = &hooks.admit else { return Ok(None) };
                let decision = guest.call_decide(&mut *store, convert::call(call), convert::principal(principal))?;
                Ok(Some((decision, store.data_mut().take_draft())))
            },
            |(decision, draft)| Ok(Admission { decision: convert::admitted(decision, exchange)?, draft }),
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
            |decision| convert::routed(decision, exchange),
        )
    }

    fn settle(&self, exchange: &Arc<Exchange>, call: &Call, outcome: &Outcome) -> Result<(), Fault> {
        // Only an admitted call is settled, and that has a caller.
        let Some(caller) = exchange.caller() else { return Ok(()) };
        self.ask(
            Hook::Settle,
            exchange,
            |hooks, store| {
                let Some(guest) = &hooks.settle else { return Ok(None) };
                let principal = convert::principal(&caller.principal);
                guest.call_done(store, convert::call(call), principal, convert::outcome(outcome)).map(Some)
            },
            Ok,
        )
    }

    fn rehearsing(&self) -> Result<Arc<dyn Policy>, NotRehearsed> {
        let twin = self.in_surroundings(Arc::new(self.nursery.shared.rehearsing()));
        let failed = |error: LoadError| NotRehearsed { policy: Arc::clone(self.name()), reason: error.to_string() };
        Ok(Arc::new(twin.map_err(failed)?))
    }
}

impl Debug for GuestPolicy {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("GuestPolicy").field("name", self.name()).finish_non_exhaustive()
    }
}
