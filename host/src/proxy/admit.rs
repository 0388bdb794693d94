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
    policy::{AdmitVerdict, Call, Chains, Charge, Fault, FaultKind, Hook},
    quota::{self, Moment, Refused, Reservation, Tokens},
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
        // Where no model runs no token is spent.
        let expected = estimate.map_or_else(Tokens::default, |estimate| Tokens {
            input: estimate.expected.input.into(),
            output: estimate.expected.output.into(),
        });
        settlement.holds(reserve(parts, &read.caller.principal.subject, &charges, expected)?);
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

/// What the call will take. Vectors are no output tokens.
fn estimate(parts: &Parts, call: &Call) -> Estimate {
    let is_vectors = call.operation == Operation::Embed;
    let mut expected = parts.estimates.expect(&call.model, call.input_tokens, call.output_cap);
    if is_vectors {
        expected.output = 0;
    }
    Estimate { from_bytes: call.input_tokens, expected, is_open: call.output_cap.is_none() && !is_vectors }
}

fn reserve(
    parts: &Parts,
    principal: &str,
    charges: &[(Arc<str>, Charge)],
    expected: Tokens,
) -> Result<Reservation, Refusal> {
    let wanted: SmallVec<[quota::Charge<'_>; 4]> = charges
        .iter()
        .map(|(policy, charge)| quota::Charge {
            policy,
            limit: &charge.limit,
            partition: &charge.partition,
            rule: charge.rule,
        })
        .collect();
    let refused = match parts.quota.reserve(Moment::now(&parts.clock), principal, &wanted, expected) {
        Ok(reservation) => return Ok(reservation),
        Err(refused) => refused,
    };
    Err(match refused {
        Refused::Exceeded(exceeded) => Refusal::limit_exceeded(&exceeded),
        Refused::Full => Refusal::counters_full(),
        Refused::TooManyCounters { policy } => Refusal::too_many_counters(&policy),
        Refused::Repeated { policy, limit } => bad_answer(&policy, format!("it charged '{limit}' twice in one call")),
        Refused::BadRule { policy, limit, wrong } => bad_answer(&policy, format!("its limit '{limit}' is {wrong}")),
        Refused::TooMany { count } => {
            let policy = charges.first().map_or("", |(policy, _)| policy);
            bad_answer(policy, format!("the policies together asked for {count} charges"))
        }
    })
}

fn bad_answer(policy: &str, detail: String) -> Refusal {
    Fault { policy: policy.into(), hook: Hook::Admit, kind: FaultKind::BadAnswer, detail }.into()
}
