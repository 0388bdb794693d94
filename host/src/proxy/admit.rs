//! admit: what may this call cost? Policies name the charges; all of them are reserved together, or none.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Parts,
    observe::Watched,
    read::Read,
    refusal::Refusal,
    settle::{Estimate, Settlement},
};
use crate::{
    llm::Operation,
    policy::{AdmitVerdict, Amount, Call, Chains, Charge, Fault, FaultKind, Hook, Rule, Shape},
    quota::{self, Refused},
};

/// A call that was paid for; what it cost lies in its settlement.
#[derive(Debug)]
pub(super) struct Admitted(pub(super) Read);

/// Asks the chain and reserves.
pub(super) fn admit(
    parts: &Parts,
    chains: &Arc<Chains>,
    read: Read,
    settlement: &mut Settlement,
) -> Result<Admitted, Refusal> {
    let charges = match chains.admit(&read.exchange, &read.call, &read.caller.principal)? {
        AdmitVerdict::Reject(rejection) => return Err(rejection.into()),
        AdmitVerdict::Admit(charges) => charges,
    };
    let estimate = read.row.charged.then(|| estimate(parts, &read.call));
    if !charges.is_empty() {
        reserve(parts, &charges, settlement)?;
    }
    if let Some(estimate) = estimate {
        settlement.expects(estimate);
    }
    settlement.is_watched(Watched::by(chains, &read.exchange, &read.call));
    if let Some(managed) = &read.managed {
        managed.check_scope(read.caller.scope())?;
        return Ok(Admitted(read));
    }
    // The model is final now: the key's scope is asked once. Out of scope looks like unknown, so that nobody can list
    // by trying what they may not see; nothing was sent, so what was reserved is given back.
    if let Some(model) = &read.model
        && !read.caller.scope().allows(model.canonical())
    {
        return Err(Refusal::unknown_model(model));
    }
    Ok(Admitted(read))
}

/// What the call will take. Vectors are no output tokens, but nothing is expected to cost nothing.
fn estimate(parts: &Parts, call: &Call) -> Estimate {
    let cap = if call.operation == Operation::Embed { Some(1) } else { call.output_cap };
    let expected = parts.estimates.expect(&call.model, call.input_tokens, cap);
    Estimate { from_bytes: call.input_tokens, expected, is_open: cap.is_none() }
}

fn reserve(parts: &Parts, charges: &[(Arc<str>, Charge)], settlement: &mut Settlement) -> Result<(), Refusal> {
    let mut wanted: SmallVec<[quota::Charge<'_>; 4]> = SmallVec::new();
    for (policy, charge) in charges {
        let (amount, shape) = match charge.rule {
            Rule::Metered { amount, shape } => (amount, shape),
            Rule::Concurrent(_) => return Err(Refusal::unsupported_charge(policy, &charge.limit, "concurrent")),
        };
        let Amount::Requests(amount) = amount else {
            return Err(Refusal::unsupported_charge(policy, &charge.limit, "tokens"));
        };
        let (capacity, length_ms) = match shape {
            Shape::Window { capacity, length_ms } => (capacity, length_ms),
            Shape::Bucket { .. } => return Err(Refusal::unsupported_charge(policy, &charge.limit, "bucket")),
            Shape::Calendar { .. } => return Err(Refusal::unsupported_charge(policy, &charge.limit, "calendar")),
        };
        wanted.push(quota::Charge {
            policy,
            limit: &charge.limit,
            partition: &charge.partition,
            capacity,
            length_ms,
            amount: u64::from(amount),
        });
    }
    match parts.quota.reserve(parts.clock.monotonic_ms(), &wanted) {
        Ok(reservation) => {
            settlement.holds(reservation);
            Ok(())
        }
        Err(Refused::Exceeded { limit, capacity, length_ms, retry_after_ms, .. }) => {
            Err(Refusal::limit_exceeded(&limit, capacity, length_ms, retry_after_ms))
        }
        Err(Refused::Full) => Err(Refusal::counters_full()),
        Err(Refused::Repeated { policy, limit } | Refused::NoLength { policy, limit }) => {
            Err(bad_answer(&policy, format!("it charged '{limit}' twice in one call, or for no time at all")))
        }
        Err(Refused::TooMany { count }) => {
            let policy = charges.first().map_or("", |(policy, _)| policy);
            Err(bad_answer(policy, format!("the policies together asked for {count} charges")))
        }
    }
}

fn bad_answer(policy: &str, detail: String) -> Refusal {
    Fault { policy: policy.into(), hook: Hook::Admit, kind: FaultKind::BadAnswer, detail }.into()
}
