//! admit: what may this call cost? Policies name the charges; all of them are reserved together, or none.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Parts, read::Read, refusal::Refusal, settle::Settlement};
use crate::{
    llm::{Operation, operations::Row},
    policy::{AdmitVerdict, Call, Chains, Charge, Fault, FaultKind, Hook},
    quota::{self, Moment, Refused, Reservation, Tokens},
};

/// Output tokens that are reserved for a call that sets no cap.
const UNCAPPED_OUTPUT: u32 = 256;

/// A call that was paid for; what it cost lies in its settlement.
#[derive(Debug)]
pub(super) struct Admitted(pub(super) Read);

/// Asks the chain and reserves.
pub(super) fn admit(
    parts: &Parts,
    chains: &Chains,
    read: Read,
    settlement: &mut Settlement,
) -> Result<Admitted, Refusal> {
    let charges = match chains.admit(&read.exchange, &read.call, &read.caller.principal)? {
        AdmitVerdict::Reject(rejection) => return Err(rejection.into()),
        AdmitVerdict::Admit(charges) => charges,
    };
    if !charges.is_empty() {
        let expected = expected(read.row, &read.call);
        settlement.holds(reserve(parts, &read.caller.principal.subject, &charges, expected)?);
    }
    if read.row.charged {
        settlement.expects(read.call.input_tokens);
    }
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

/// What the call is expected to take, in tokens. Where no model runs it takes none; vectors are no output.
fn expected(row: &Row, call: &Call) -> Tokens {
    if !row.charged {
        return Tokens::default();
    }
    let output = if call.operation == Operation::Embed { 0 } else { call.output_cap.unwrap_or(UNCAPPED_OUTPUT) };
    Tokens { input: call.input_tokens.into(), output: output.into() }
}

fn bad_answer(policy: &str, detail: String) -> Refusal {
    Fault { policy: policy.into(), hook: Hook::Admit, kind: FaultKind::BadAnswer, detail }.into()
}
