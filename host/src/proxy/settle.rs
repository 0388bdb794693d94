//! settle: the end of one call. Opened when the call comes, settled exactly once, however it ends.
//!
//! It holds what was reserved. A call that was refused, or for which no connection to a backend came about, gets everything
//! back. Any other costs its requests: one that a backend may have seen, and a list that the gate answered itself. Tokens
//! are settled by what the call took, which is none where the backend refused it, or failed.
//! What a model's answer took is told in tokens: counted by the backend, or estimated where it broke off.
//! Settling writes numbers and one log line: never a key, a prompt or an answer.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::{Parts, in_flight::Place, meter::Tokens, request_id::RequestId};
use crate::{
    clock::{Clock, saturating_ms},
    llm::{Operation, Surface, usage::Counted},
    policy::Caller,
    quota::{self, Moment, Outcome, Reservation},
    upstream::backend::Backend,
    usage::{
        bound::Bound,
        metrics::{Direction, Metrics},
    },
};

/// What nginx counts as a caller who left before the answer (499, "client closed request").
const CLIENT_LEFT: u16 = 499;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its last byte.
    Complete,
    /// The caller went away.
    ClientLeft,
    /// The backend, or the gate, failed after the answer had begun.
    Failed,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::Failed => "failed",
        }
    }
}

/// One call's settlement.
#[derive(Debug)]
pub(super) struct Settlement {
    metrics: Arc<Metrics>,
    clock: Clock,
    began: Duration,
    request_id: Box<str>,
    surface: Surface,
    operation: Operation,
    model: Box<str>,
    subject: Option<Box<str>>,
    backend: Option<Arc<Backend>>,
    status: Option<u16>,
    reservation: Option<Reservation>,
    /// Estimate of the input, in tokens, once a model is to run.
    input_estimate: Option<u32>,
    counted: Counted,
    is_local: bool,
    may_have_reached: bool,
    is_open: bool,
    place: Option<Place>,
}

impl Settlement {
    pub(super) fn open(parts: &Parts, request_id: &RequestId) -> Self {
        parts.metrics.call_began();
        Self {
            metrics: Arc::clone(&parts.metrics),
            clock: parts.clock.clone(),
            began: parts.clock.monotonic(),
            request_id: request_id.as_str().into(),
            surface: Surface::Other,
            operation: Operation::Other,
            model: Box::default(),
            subject: None,
            backend: None,
            status: None,
            reservation: None,
            input_estimate: None,
            counted: Counted::default(),
            is_local: true,
            may_have_reached: false,
            is_open: true,
            place: None,
        }
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
        self.metrics.edges().reached(bound);
    }

    /// What was reserved.
    pub(super) fn holds(&mut self, reservation: Reservation) {
        self.reservation = Some(reservation);
    }

    /// A model is to run, on an input of about so many tokens.
    pub(super) fn expects(&mut self, input_tokens: u32) {
        self.input_estimate = Some(input_tokens);
    }

    /// Whether a model is to run.
    pub(super) fn is_metered(&self) -> bool {
        self.input_estimate.is_some()
    }

    /// What was read of the answer.
    pub(super) fn counts(&mut self, counted: Counted) {
        self.counted = counted;
    }

    /// The call is sent to this backend now.
    pub(super) fn goes_to(&mut self, backend: &Arc<Backend>) {
        self.backend = Some(Arc::clone(backend));
        self.is_local = false;
        self.may_have_reached = true;
    }

    /// No connection came about: nothing has left.
    pub(super) fn did_not_reach(&mut self) {
        self.may_have_reached = false;
    }

    /// The answer begins with this status.
    pub(super) fn answers(&mut self, status: StatusCode) {
        self.status = Some(status.as_u16());
    }

    /// The call is over. Only the first end counts.
    pub(super) fn settle(&mut self, end: End) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        self.place = None;
        let tokens = self.tokens();
        if let Some(reservation) = self.reservation.take() {
            reservation.settle(Moment::now(&self.clock), self.outcome(tokens));
        }
        let status = self.status.unwrap_or(CLIENT_LEFT);
        self.metrics.call_ended(self.surface, self.operation, status);
        if let Some(Tokens { input, output }) = tokens {
            self.metrics.tokens_took(self.surface, Direction::Input, input.tokens, input.is_estimated);
            self.metrics.tokens_took(self.surface, Direction::Output, output.tokens, output.is_estimated);
        }
        tracing::info!(
            request_id = &*self.request_id,
            surface = self.surface.as_str(),
            operation = self.operation.as_str(),
            status,
            end = end.as_str(),
            model = &*self.model,
            principal = self.subject.as_deref(),
            backend = self.backend.as_ref().map(|backend| &**backend.name()),
            input_tokens = tokens.map(|tokens| tokens.input.tokens),
            output_tokens = tokens.map(|tokens| tokens.output.tokens),
            tokens_estimated = tokens.map(|tokens| tokens.input.is_estimated || tokens.output.is_estimated),
            ms = saturating_ms(self.clock.monotonic().saturating_sub(self.began)),
            "call",
        );
    }

    /// What stays of what was reserved.
    fn outcome(&self, tokens: Option<Tokens>) -> Outcome {
        // A list that the gate answered itself is served; a call that was refused is not.
        let is_served = self.may_have_reached || (self.is_local && self.status == Some(200));
        match tokens {
            _ if !is_served => Outcome::Refund,
            None => Outcome::RequestOnly,
            Some(Tokens { input, output }) => {
                Outcome::Used(quota::Tokens { input: input.tokens, output: output.tokens })
            }
        }
    }

    /// What the call took; none when no model ran for it. A caller who left before the answer has made one run; one whom
    /// the backend refused, or failed, has not.
    fn tokens(&self) -> Option<Tokens> {
        let has_run = self.may_have_reached && self.status.is_none_or(|status| (200..300).contains(&status));
        let estimate = self.input_estimate.filter(|_| has_run)?;
        Some(Tokens::of(self.counted, self.operation, estimate))
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.settle(End::ClientLeft);
    }
}
