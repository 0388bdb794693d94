//! Warm-up: a policy answers made-up calls before it is asked real ones, and its CPU time is measured.
//!
//! Only the clock of the thread counts: a busy machine makes nobody slow. What the policy answers doesn't matter, nor whether
//! it fails for another reason: a made-up call need not be one that it was written for. Its state is a scratch one, and its log
//! lines go nowhere.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use wasmtime::{Result, Store};

use super::{
    component::LoadError,
    convert,
    host_state::{HostState, Shared},
    instance::{Hooks, Instance, classify},
    nursery::Nursery,
};
use crate::{
    clock::thread_cpu,
    llm::operations::{self, Row},
    policy::{
        Backend, Call, Caller, End, Exchange, ExchangeHead, FaultKind, Head, Hook, Outcome, Presented, Principal,
        RequestBody, Scheme,
    },
    ports::keys::{Attributes, Proof},
    wire::bounded::BufferBudget,
};

/// Calls before it counts.
const UNCOUNTED: usize = 10;
const COUNTED: usize = 100;
/// Of so many, the second worst is the 99th percentile.
const WORST_LEFT_OUT: usize = 1;
/// What a policy may make of the body by edits, and room for a few of such bodies, in bytes.
const MOST_BODY: usize = 1 << 20;
const ROOM_FOR_EDITS: u64 = 4 << 20;
/// Failed calls after which there is nothing to learn.
const MOST_FAILURES: usize = 3;

/// Asks every hook of the policy, with `scratch` for its state and log.
///
/// # Errors
/// When its 99th percentile is over its budget, twice in a row.
pub(super) fn warm(nursery: &Nursery, scratch: &Arc<Shared>) -> Result<(), LoadError> {
    let made_up = MadeUp::new();
    for hook in Hook::ALL.into_iter().filter(|hook| nursery.exports.has(*hook)) {
        let budget = scratch.terms.hook(hook).cpu;
        let measure = || p99(nursery, scratch, hook, &made_up);
        // A machine that takes the core away may charge the thread for it; hardly twice.
        if measure()? > budget {
            let p99 = measure()?;
            if p99 > budget {
                return Err(LoadError::TooSlow { hook: hook.as_str(), p99, budget });
            }
        }
    }
    Ok(())
}

/// The 99th percentile of the calls of one hook; zero when it doesn't answer them.
fn p99(nursery: &Nursery, scratch: &Arc<Shared>, hook: Hook, made_up: &MadeUp) -> Result<Duration, LoadError> {
    let mut instance = nursery.birth_ahead(scratch)?;
    let (mut took, mut cut, mut failures) = (Vec::with_capacity(COUNTED), 0, 0);
    while took.len() < UNCOUNTED + COUNTED {
        let before = thread_cpu();
        let answer = made_up.ask(&mut instance, hook);
        took.push(thread_cpu().saturating_sub(before));
        let Err(error) = answer else { continue };
        instance = nursery.birth_ahead(scratch)?;
        if classify(&error) == FaultKind::Budget {
            cut += 1;
            // Cut at its budget, again and again: that is its time.
            if cut > WORST_LEFT_OUT + 1 {
                return Ok(took.into_iter().max().unwrap_or_default());
            }
        } else {
            failures += 1;
            if failures >= MOST_FAILURES {
                tracing::debug!(policy = &*scratch.name, hook = hook.as_str(), "the policy fails when it is warmed up");
                return Ok(Duration::ZERO);
            }
        }
    }
    let mut counted = took.split_off(UNCOUNTED);
    counted.sort_unstable();
    Ok(counted.iter().rev().nth(WORST_LEFT_OUT).copied().unwrap_or_default())
}

/// The facts of a plain chat.
struct MadeUp {
    exchange: Arc<Exchange>,
    head: Head,
    presented: Presented,
    call: Call,
    principal: Principal,
    backends: [Backend; 2],
    outcome: Outcome,
}

impl MadeUp {
    fn new() -> Self {
        let row: &'static Row = &operations::CHAT;
        let (surface, operation) = (row.surface, row.operation);
        let body = br#"{"model":"warm-up","messages":[{"role":"user","content":"hello"}],"stream":false}"#;
        let body_bytes = u64::try_from(body.len()).unwrap_or(0);
        let exchange = Exchange::new(ExchangeHead {
            request_id: "warm-up".into(),
            row,
            seed: 0,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            path: "/api/chat".into(),
            headers: HeaderMap::new(),
            credential: None,
            proof: Proof::NotAKey,
        });
        let principal = Principal { subject: "warm-up".into(), user: None };
        let attributes = Attributes::default();
        exchange.note_caller(Caller { principal: principal.clone(), key: None, attributes });
        let buffers = BufferBudget::new(ROOM_FOR_EDITS);
        exchange.note_body(RequestBody { bytes: Bytes::from_static(body), cap: MOST_BODY, buffers });
        Self {
            exchange: Arc::new(exchange),
            head: Head { surface, operation, body_bytes: Some(body_bytes) },
            presented: Presented { scheme: Scheme::Bearer, key_id: None },
            call: Call {
                surface,
                operation,
                model: "warm-up".into(),
                body_bytes,
                input_tokens: 8,
                output_cap: None,
                streaming: false,
            },
            principal,
            backends: [backend(0), backend(1)],
            outcome: Outcome {
                end: End::Complete,
                status: 200,
                backend: Some(0),
                input_tokens: 8,
                output_tokens: 8,
                is_estimated: false,
                first_token_us: None,
                total_us: 1_000,
            },
        }
    }

    fn ask(&self, instance: &mut Instance, hook: Hook) -> Result<()> {
        instance.ask(hook, &self.exchange, |hooks, store| self.question(hook, hooks, store))
    }

    fn question(&self, hook: Hook, hooks: &Hooks, store: &mut Store<HostState>) -> Result<()> {
        let (call, principal) = (convert::call(&self.call), convert::principal(&self.principal));
        match hook {
            Hook::Authenticate => {
                let Some(guest) = &hooks.authenticate else { return Ok(()) };
                guest.call_check(store, convert::head(&self.head), Some(convert::presented(&self.presented))).map(drop)
            }
            Hook::Admit => {
                let Some(guest) = &hooks.admit else { return Ok(()) };
                guest.call_decide(store, call, principal).map(drop)
            }
            Hook::Route => {
                let Some(guest) = &hooks.route else { return Ok(()) };
                guest.call_choose(store, call, principal, &convert::backends(&self.backends)).map(drop)
            }
            Hook::Settle => {
                let Some(guest) = &hooks.settle else { return Ok(()) };
                guest.call_done(store, call, principal, convert::outcome(&self.outcome))
            }
        }
    }
}

fn backend(id: u32) -> Backend {
    Backend {
        id,
        weight: 1,
        in_flight: 0,
        model_in_flight: 0,
        capacity: None,
        queued: 0,
        first_token_us: None,
        tokens_per_second_milli: None,
        errors_permille: 0,
        resident: true,
    }
}
