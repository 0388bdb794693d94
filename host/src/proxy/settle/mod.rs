//! settle: the end of one call. Opened when the call comes, settled exactly once, however it ends.
//!
//! It holds what was reserved. A call that was refused, or for which no connection to a backend came about, gets everything
//! back. Any other costs its requests: one that a backend may have seen, and a list that the gate answered itself. Tokens
//! are settled by what the call took, which is none where the backend refused it, or failed. One that the gate gave up waiting
//! for may have run: it costs what it was taken to need before its answer.
//! What a model's answer took is told in tokens: counted by the backend, or estimated where it broke off. Estimates learn
//! from what was counted, and policies that want to know are told, later and elsewhere.
//! Settling writes numbers and one log line: never a key, a prompt or an answer.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::{
    account::Account,
    in_flight::Place,
    meter::Tokens,
    observe::{Observers, Watched},
    provenance::Provenance,
    request_id::RequestId,
};
use crate::{
    clock::{Clock, saturating_ms},
    llm::{Operation, Surface, usage::Counted},
    policy::{Caller, End, Outcome},
    quota::{self, Hold, Moment, Standing},
    upstream::{backend::Backend, client::Departure},
    usage::{
        bound::Bound,
        estimate::{Estimates, Expected, Took},
        metrics::{Direction, Metrics},
    },
};

/// What nginx counts as a caller who left before the answer (499, "client closed request").
const CLIENT_LEFT: u16 = 499;

/// What settlements share.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) estimates: Arc<Estimates>,
    pub(super) observers: Observers,
    /// Whether answers say who decided.
    pub(super) tells_decisions: bool,
}

/// What a call is taken to need before a model runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    /// Of the input, from the body's bytes alone.
    pub(super) from_bytes: u32,
    /// Whether these bytes are text and nothing else, so that they say how many tokens such bytes are.
    pub(super) is_text: bool,
    /// What was learned of the model taken into account.
    pub(super) expected: Expected,
    /// Whether the output says something of what the model writes of itself: no cap was set, and no vectors asked for.
    pub(super) is_open: bool,
}

/// One call's settlement. Boxed: it is large, and goes from the call to its answer.
#[derive(Debug)]
pub(super) struct Settlement {
    shared: Arc<Settling>,
    began: Duration,
    request_id: Box<str>,
    surface: Surface,
    operation: Operation,
    model: Box<str>,
    pub(super) provenance: Provenance,
    /// Of a call that is only tried.
    account: Option<Box<Account>>,
    subject: Option<Box<str>>,
    backend: Option<Arc<Backend>>,
    status: Option<u16>,
    hold: Option<Hold>,
    /// Where the call's limits stand, until its answer begins.
    standings: Vec<Standing>,
    /// When they stood there, in microseconds.
    stood_at_us: u64,
    /// Once a model is to run.
    estimate: Option<Estimate>,
    counted: Counted,
    /// Once the call is admitted, if a policy wants to know what it comes to.
    watched: Option<Box<Watched>>,
    is_local: bool,
    is_degraded: bool,
    departure: Departure,
    /// Whether the gate gave up waiting for the answer's head.
    is_given_up: bool,
    is_open: bool,
    place: Option<Place>,
}

impl Settlement {
    pub(super) fn open(shared: &Arc<Settling>, request_id: &RequestId) -> Box<Self> {
        shared.metrics.call_began();
        Box::new(Self::at(shared, request_id, shared.clock.monotonic()))
    }

    fn at(shared: &Arc<Settling>, request_id: &RequestId, began: Duration) -> Self {
        Self {
            shared: Arc::clone(shared),
            began,
            request_id: request_id.as_str().into(),
            surface: Surface::Other,
            operation: Operation::Other,
            model: Box::default(),
            provenance: Provenance::default(),
            account: None,
            subject: None,
            backend: None,
            status: None,
            hold: None,
            standings: Vec::new(),
            stood_at_us: 0,
            estimate: None,
            counted: Counted::default(),
            watched: None,
            is_local: true,
            is_degraded: false,
            departure: Departure::default(),
            is_given_up: false,
            is_open: true,
            place: None,
        }
    }

    /// Of a call that is only tried: it ends without a trace, and an account is kept of what is decided.
    pub(super) fn rehearse(shared: &Arc<Settling>, request_id: &RequestId) -> Self {
        let mut settlement = Self::at(shared, request_id, shared.clock.monotonic());
        settlement.is_open = false;
        settlement.account = Some(Box::default());
        settlement
    }

    /// What the account of a call that was only tried came to.
    pub(super) fn into_account(mut self) -> Account {
        self.account.take().map_or_else(Account::default, |account| *account)
    }

    /// Whether answers say who decided.
    pub(super) fn tells_decisions(&self) -> bool {
        self.shared.tells_decisions
    }

    /// The account of a call that is only tried.
    pub(super) fn account(&mut self) -> Option<&mut Account> {
        self.account.as_deref_mut()
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    pub(super) fn surface(&self) -> Surface {
        self.surface
    }

    /// The dialect in which the call is answered.
    pub(super) fn speaks(&mut self, surface: Surface) {
        self.surface = surface;
    }

    /// What is asked for.
    pub(super) fn asks(&mut self, surface: Surface, operation: Operation) {
        self.surface = surface;
        self.operation = operation;
    }

    /// Who calls.
    pub(super) fn is_from(&mut self, caller: &Caller) {
        self.subject = Some(caller.principal.subject.clone());
    }

    /// Which model.
    pub(super) fn names_model(&mut self, model: &str) {
        self.model = model.into();
    }

    /// A place among the running calls, until the call is over.
    pub(super) fn takes(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// A bound of the gate was reached.
    pub(super) fn reached(&self, bound: Bound) {
        self.shared.metrics.edges().reached(bound);
    }

    /// What was reserved.
    pub(super) fn holds(&mut self, hold: Hold) {
        self.is_degraded = hold.is_local();
        self.hold = Some(hold);
    }

    /// The call's limits couldn't be checked.
    pub(super) fn is_unchecked(&mut self) {
        self.is_degraded = true;
    }

    /// Whether the call's limits were to be shared with other gates, and were not.
    pub(super) fn is_degraded(&self) -> bool {
        self.is_degraded
    }

    /// Whether something is reserved.
    pub(super) fn is_reserved(&self) -> bool {
        self.hold.is_some()
    }

    /// Where the call's limits stood at this monotonic moment, in microseconds.
    pub(super) fn stands(&mut self, standings: Vec<Standing>, at_us: u64) {
        self.standings = standings;
        self.stood_at_us = at_us;
    }

    /// Where the call's limits stand, once: what the answer's head says of them.
    pub(super) fn tells_standings(&mut self) -> Vec<Standing> {
        let mut standings = std::mem::take(&mut self.standings);
        // An answer may begin long after its call was admitted.
        let since_us = (self.shared.clock.ticked_ms() * 1000).saturating_sub(self.stood_at_us);
        for standing in &mut standings {
            standing.reset_after_us = standing.reset_after_us.map(|reset_us| reset_us.saturating_sub(since_us));
        }
        standings
    }

    /// A model is to run, and will take about so much.
    pub(super) fn expects(&mut self, estimate: Estimate) {
        self.estimate = Some(estimate);
    }

    /// The call is admitted, and these want to know what it comes to, if any do.
    pub(super) fn is_watched(&mut self, by: Option<Box<Watched>>) {
        self.watched = by;
    }

    /// The first piece of a stream has come.
    pub(super) fn first_came(&mut self, now: Duration) {
        if let Some(watched) = &mut self.watched {
            let us = now.saturating_sub(self.began).as_micros();
            watched.first_token_us = Some(u32::try_from(us).unwrap_or(u32::MAX));
        }
    }

    /// Whether a model is to run.
    pub(super) fn is_metered(&self) -> bool {
        self.estimate.is_some()
    }

    /// What was read of the answer.
    pub(super) fn counts(&mut self, counted: Counted) {
        self.counted = counted;
    }

    /// The call is on its way to this backend, and has left once its departure says so.
    pub(super) fn goes_to(&mut self, backend: &Arc<Backend>) {
        self.backend = Some(Arc::clone(backend));
        self.is_local = false;
    }

    /// Where it is noted that something of the call has left: without that it costs nothing.
    pub(super) fn departure(&self) -> &Departure {
        &self.departure
    }

    /// The backend did not begin its answer in time, and may be at work on it.
    pub(super) fn is_given_up(&mut self) {
        self.is_given_up = true;
    }

    /// The answer begins with this status.
    pub(super) fn answers(&mut self, status: StatusCode) {
        self.status = Some(status.as_u16());
    }

    /// The call is over. Only the first end counts.
    pub(super) fn settle(&mut self, end: End) {
        self.settle_at(end, None);
    }

    /// As [`Self::settle`], at a monotonic time that was just read, if it was.
    pub(super) fn settle_at(&mut self, end: End, now: Option<Duration>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        self.place = None;
        let tokens = self.tokens();
        let clock = &self.shared.clock;
        let at = Moment::at(now.unwrap_or_else(|| clock.monotonic()), clock);
        if let Some(hold) = self.hold.take() {
            hold.settle(at, self.kept(tokens));
        }
        let status = self.status.unwrap_or(CLIENT_LEFT);
        let took = Duration::from_micros(at.monotonic_us).saturating_sub(self.began);
        if let (Some(tokens), Some(estimate)) = (tokens, self.estimate) {
            self.count(tokens, estimate.expected);
            self.learn(tokens, estimate, end);
        }
        self.log(status, end, tokens, took);
        if let Some(watched) = self.watched.take() {
            let outcome = self.outcome(status, end, tokens, watched.first_token_us, took);
            if self.shared.observers.tell(watched, outcome).is_err() {
                self.reached(Bound::SettleQueue);
            }
        }
        // Last: a call is in flight until all that it came to is told.
        self.shared.metrics.call_ended(self.surface, self.operation, status);
    }

    /// What the call took; none when no model ran for it. A caller who left before the answer has made one run, and one who
    /// was told that it takes too long; one whom the backend refused, or failed, has not.
    fn tokens(&self) -> Option<Tokens> {
        let may_run = self.is_given_up || self.status.is_none_or(|status| (200..300).contains(&status));
        let has_run = self.departure.has_left() && may_run;
        let estimate = self.estimate.filter(|_| has_run)?;
        Some(Tokens::of(self.counted, self.operation, estimate.expected))
    }

    fn count(&self, Tokens { input, output }: Tokens, expected: Expected) {
        let metrics = &self.shared.metrics;
        for (direction, amount, expected) in
            [(Direction::Input, input, expected.input), (Direction::Output, output, expected.output)]
        {
            metrics.tokens_took(self.surface, direction, amount.tokens, amount.is_estimated);
            metrics.estimate_missed(direction, expected, amount.tokens);
        }
    }

    /// Only what came to its end and was counted says how much such calls take.
    fn learn(&self, Tokens { input, output }: Tokens, estimate: Estimate, end: End) {
        if end == End::Complete && !input.is_estimated && !self.model.is_empty() {
            let output = Some(output.tokens).filter(|_| estimate.is_open && !output.is_estimated);
            let input = Some(input.tokens).filter(|_| estimate.is_text);
            self.shared.estimates.learn(&self.model, estimate.from_bytes, Took { input, output });
        }
    }

    fn log(&self, status: u16, end: End, tokens: Option<Tokens>, took: Duration) {
        tracing::info!(
            request_id = &*self.request_id,
            surface = self.surface.as_str(),
            operation = self.operation.as_str(),
            status,
            end = end.as_str(),
            code = self.provenance.code.as_deref(),
            model = &*self.model,
            principal = self.subject.as_deref(),
            backend = self.backend.as_ref().map(|backend| &**backend.name()),
            input_tokens = tokens.map(|tokens| tokens.input.tokens),
            output_tokens = tokens.map(|tokens| tokens.output.tokens),
            tokens_estimated = tokens.map(Tokens::is_estimated),
            generation = self.provenance.generation,
            authenticated_by = self.provenance.authenticated_by(),
            admitted_by = self.provenance.admitted_by().map(display),
            routed_by = self.provenance.routed_by(),
            refused_by = self.provenance.refused_by(),
            ms = saturating_ms(took),
            "call",
        );
    }

    /// What stays of what was reserved.
    fn kept(&self, tokens: Option<Tokens>) -> quota::Outcome {
        // A list that the gate answered itself is served; a call that was refused is not.
        let is_served = self.departure.has_left() || (self.is_local && self.status == Some(200));
        match tokens {
            _ if !is_served => quota::Outcome::Refund,
            None => quota::Outcome::RequestOnly,
            Some(Tokens { input, output }) => {
                quota::Outcome::Used(quota::Tokens { input: input.tokens, output: output.tokens })
            }
        }
    }

    fn outcome(
        &self,
        status: u16,
        end: End,
        tokens: Option<Tokens>,
        first_token_us: Option<u32>,
        took: Duration,
    ) -> Outcome {
        let amount = |amount: fn(Tokens) -> u64| u32::try_from(tokens.map_or(0, amount)).unwrap_or(u32::MAX);
        Outcome {
            end,
            status,
            backend: self.backend.as_ref().filter(|_| self.departure.has_left()).map(|backend| backend.id()),
            input_tokens: amount(|tokens| tokens.input.tokens),
            output_tokens: amount(|tokens| tokens.output.tokens),
            is_estimated: tokens.is_some_and(Tokens::is_estimated),
            first_token_us,
            total_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.settle(End::ClientLeft);
    }
}

#[cfg(test)]
mod tests;
