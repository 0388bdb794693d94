//! relay: the backend's answer goes to the caller piece by piece as it comes. Nothing is held back, joined or cut; a meter
//! looks at each piece on its way. Only where the gate made a stream tell its usage does the meter take that out again.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{
    Parts,
    answer::Answer,
    body::{RelayError, ResponseBody},
    forward::Answered,
    manage::Refresh,
    meter::Meter,
    settle::Settlement,
};
use crate::{
    clock::{Clock, saturating_ms},
    policy::End,
    upstream::{answer::AnswerBody, backend::Busy},
    usage::bound::Bound,
    wire::headers::{self, ACCEL_BUFFERING, BACKEND},
};

/// An answer on its way, before its settlement is handed to it.
#[derive(Debug)]
pub(super) struct Relayed {
    response: Response<AnswerBody>,
    busy: Busy,
    clock: Clock,
    sent_at: Duration,
    idle: (Duration, Bound),
    refresh: Option<Refresh>,
    hides_usage: bool,
    expose_backend: bool,
}

/// Makes the backend's answer the caller's.
pub(super) fn relay(parts: &Parts, answered: Answered) -> Answer {
    let Answered { response, busy, sent_at, idle, refresh, hides_usage } = answered;
    Answer::Relayed(Box::new(Relayed {
        response,
        busy,
        clock: parts.clock.clone(),
        sent_at,
        idle,
        refresh,
        hides_usage,
        expose_backend: parts.bounds.expose_backend,
    }))
}

impl Relayed {
    pub(super) fn into_response(self, mut settlement: Box<Settlement>) -> Response<ResponseBody> {
        let (head, body) = self.response.into_parts();
        let status = head.status;
        let mut passed = headers::to_caller(&head.headers);
        passed.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        if self.expose_backend
            && let Ok(name) = HeaderValue::from_str(self.busy.backend().name())
        {
            passed.insert(BACKEND, name);
        }
        settlement.answers(status);
        let is_metered = settlement.is_metered() && status.is_success();
        let length = body.size_hint().exact();
        let stream = RelayBody {
            meter: if is_metered { Meter::of(&head.headers, length, self.hides_usage) } else { Meter::off() },
            began: self.sent_at,
            upstream: body,
            settlement: Some(settlement),
            busy: self.busy,
            refresh: self.refresh,
            silence: Silence::new(self.idle),
            clock: self.clock,
            then: None,
            // A quick failure is no first token.
            first_from: status.is_success().then_some(self.sent_at),
            failed: status.is_server_error(),
        };
        let mut response = Response::new(ResponseBody::relayed(stream));
        *response.status_mut() = status;
        *response.headers_mut() = passed;
        response
    }
}

/// A backend's body on its way to a caller. Its settlement ends with its last byte, or when it is dropped.
#[derive(Debug)]
pub(super) struct RelayBody {
    upstream: AnswerBody,
    settlement: Option<Box<Settlement>>,
    busy: Busy,
    refresh: Option<Refresh>,
    silence: Silence,
    clock: Clock,
    /// When the request was sent, until the first piece has come.
    first_from: Option<Duration>,
    failed: bool,
    meter: Meter,
    /// Since when the model writes, as far as can be seen.
    began: Duration,
    /// What went wrong, once what was held back has passed.
    then: Option<Box<RelayError>>,
}

/// How long nothing has come, in quarters of the limit. A timer of its own for each piece would cost more than the piece:
/// this one fires four times a limit, and a piece only sets a flag. Silence is noticed after one limit, a quarter late at
/// most.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    bound: Bound,
    quarters: u32,
    timer: Option<Pin<Box<Sleep>>>,
}

const QUARTERS: u32 = 4;

impl Silence {
    fn new((limit, bound): (Duration, Bound)) -> Self {
        Self { limit, bound, quarters: 0, timer: None }
    }

    fn is_broken(&mut self) {
        self.quarters = 0;
    }

    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let quarter = self.limit / QUARTERS;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(quarter)));
            ready!(timer.as_mut().poll(context));
            self.timer = None;
            self.quarters += 1;
            // The quarter in which the last piece came was not silent as a whole.
            if self.quarters > QUARTERS {
                return Poll::Ready(());
            }
        }
    }
}

impl RelayBody {
    /// `now`: the time, if it was just read.
    fn end(&mut self, end: End, now: Option<Duration>) {
        if let Some(refresh) = self.refresh.take() {
            refresh.start();
        }
        if let Some(mut settlement) = self.settlement.take() {
            let failed = self.failed || end == End::Failed;
            let now = now.unwrap_or_else(|| self.clock.monotonic());
            self.busy.backend().note_end(failed, saturating_ms(now));
            let is_whole = end == End::Complete;
            // The first token of a stream was there when its time began.
            let there = u64::from(self.meter.reads_a_stream());
            let counted = self.meter.finish(is_whole);
            if let Some(tokens) = counted.usage.output.filter(|_| is_whole) {
                self.busy.note_speed(tokens.saturating_sub(there), now.saturating_sub(self.began));
            }
            settlement.counts(counted);
            settlement.settle_at(end, Some(now));
        }
    }

    /// The time, if the first frame has come just now.
    fn first_came(&mut self) -> Option<Duration> {
        let sent_at = self.first_from.take()?;
        let now = self.clock.monotonic();
        let us = now.saturating_sub(sent_at).as_micros();
        self.busy.note_first_token(u32::try_from(us).unwrap_or(u32::MAX));
        if self.meter.reads_a_stream() {
            self.began = now;
            if let Some(settlement) = &mut self.settlement {
                settlement.first_came(now);
            }
        }
        Some(now)
    }

    /// A frame has come; what of it passes now, maybe nothing.
    fn came(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.silence.is_broken();
        if self.meter.is_sifting() {
            return frame.map_data(|piece| self.meter.sift(piece));
        }
        if let Some(piece) = frame.data_ref() {
            self.meter.see(piece);
        }
        frame
    }

    /// The backend has told all. What was held back of it is the last to pass, behind what came last.
    fn complete(&mut self, last: Option<Frame<Bytes>>, now: Option<Duration>) -> Option<Frame<Bytes>> {
        let rest = self.meter.rest();
        self.end(End::Complete, now);
        if rest.is_empty() {
            return last;
        }
        let last = last.and_then(|frame| frame.into_data().ok()).filter(|last| !last.is_empty());
        Some(Frame::data(last.map_or_else(|| rest.clone(), |last| [&*last, &*rest].concat().into())))
    }

    /// The answer breaks off; what was held back of it passes before the caller is told.
    fn fail(&mut self, error: RelayError) -> Result<Frame<Bytes>, RelayError> {
        let rest = self.meter.held();
        self.end(End::Failed, None);
        if rest.is_empty() {
            return Err(error);
        }
        self.then = Some(Box::new(error));
        Ok(Frame::data(rest))
    }
}

fn is_empty(frame: &Frame<Bytes>) -> bool {
    frame.data_ref().is_some_and(Bytes::is_empty)
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let this = &mut *self;
        if let Some(error) = this.then.take() {
            return Poll::Ready(Some(Err(*error)));
        }
        let frame = loop {
            match Pin::new(&mut this.upstream).poll_frame(context) {
                // Trailers are headers, and of those only the listed ones pass.
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {}
                Poll::Ready(Some(Ok(frame))) => {
                    let now = this.first_came();
                    let mut passed = Some(this.came(frame));
                    let is_over = this.upstream.is_end_stream();
                    if is_over {
                        passed = this.complete(passed, now);
                    }
                    // All of a piece may be held back, or taken out.
                    let passed = passed.filter(|frame| !is_empty(frame));
                    if passed.is_some() || is_over {
                        return Poll::Ready(passed.map(Ok));
                    }
                }
                frame => break frame,
            }
        };
        match frame {
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(this.fail(RelayError::Broken(error)))),
            Poll::Ready(_) => Poll::Ready(this.complete(None, None).map(Ok)),
            Poll::Pending => {
                ready!(this.silence.poll_over(context));
                if let Some(settlement) = &this.settlement {
                    settlement.reached(this.silence.bound);
                }
                Poll::Ready(Some(this.fail(RelayError::Silent(this.silence.limit))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.upstream.is_end_stream() && !self.meter.holds_back() && self.then.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.meter.is_sifting() { SizeHint::default() } else { self.upstream.size_hint() }
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        let end = if self.upstream.is_end_stream() { End::Complete } else { End::ClientLeft };
        self.end(end, None);
    }
}
