//! admit: what may this call cost? Policies name the charges; all of them are reserved together, or none.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{
    Parts, aside,
    observe::Watched,
    read::Read,
    refusal::Refusal,
    settle::{Estimate, Settlement},
};
use crate::{
    llm::{Operation, model_name::ModelName},
    policy::{AdmitVerdict, Call, Chains, Charge, Fault, FaultKind, Hook},
    quota::{self, Expected, Moment, NotHeld, Refused, Sharing, Tokens},
};

/// A call that was paid for; what it cost lies in its settlement.
#[derive(Debug)]
pub(super) struct Admitted(pub(super) Box<Read>);

/// Asks the chain and reserves.
pub(super) async fn admit(
    parts: &Parts,
    chains: &Arc<Chains>,
    mut read: Box<Read>,
    settlement: &mut Settlement,
) -> Result<Admitted, Refusal> {
    settlement.begins_admit(&read);
    let ask = || chains.admit(&read.exchange, &read.call, &read.caller.principal, settlement);
    let charges = match aside::with_body_of(read.body_bytes(), ask)? {
        AdmitVerdict::Reject(rejection) => return Err(rejection.into()),
        AdmitVerdict::Admit { charges, edited } => {
            if let Some(edited) = edited {
                read.becomes(*edited);
            }
            charges
        }
    };
    // The model is final now, so what holds of models is asked once. What changes a backend was looked at as a whole.
    if read.managed.is_none() && read.model.as_ref().is_some_and(ModelName::is_cloud) && !parts.bounds.allow_cloud {
        return Err(Refusal::cloud_model());
    }
    let estimate = read.row.charged.then(|| estimate(parts, &read.call, read.answers, read.is_text));
    if !charges.is_empty() {
        // Where no model runs no token is spent.
        let tokens = estimate.map_or_else(Tokens::default, |estimate| Tokens {
            input: estimate.expected.input.into(),
            output: estimate.expected.output.into(),
        });
        let expected = Expected { tokens, is_guess: read.call.output_cap.is_none() };
        match settlement.account() {
            Some(account) => Box::pin(account.foresee(parts, &charges, expected)).await?,
            None => reserve(parts, chains, &read.caller.principal.subject, &charges, expected, settlement).await?,
        }
    }
    if let Some(estimate) = estimate {
        settlement.expects(estimate);
    }
    settlement.is_watched(Watched::by(chains, &read.exchange, &read.call));
    if let Some(managed) = &read.managed {
        managed.check_scope(read.caller.scope())?;
        return Ok(Admitted(read));
    }
    // Out of scope looks like unknown, so that nobody can list by trying what they may not see; nothing was sent, so what
    // was reserved is given back.
    if let Some(model) = &read.model {
        let is_allowed = read.caller.scope().allows(model.canonical());
        settlement.is_scoped(model, is_allowed);
        if !is_allowed {
            return Err(Refusal::unknown_model(model));
        }
    }
    Ok(Admitted(read))
}

/// What the call will take. Vectors are no output tokens. What is learned is the length of one answer.
fn estimate(parts: &Parts, call: &Call, answers: u32, is_text: bool) -> Estimate {
    let is_vectors = call.operation == Operation::Embed;
    let mut expected = parts.estimates.expect(&call.model, call.input_tokens, call.output_cap);
    if is_vectors {
        expected.output = 0;
    } else if call.output_cap.is_none() {
        expected.output = expected.output.saturating_mul(answers);
    }
    let is_open = call.output_cap.is_none() && !is_vectors && answers == 1;
    Estimate { from_bytes: call.input_tokens, is_text, expected, is_open }
}

async fn reserve(
    parts: &Parts,
    chains: &Chains,
    principal: &str,
    charges: &[(Arc<str>, Charge)],
    expected: Expected,
    settlement: &mut Settlement,
) -> Result<(), Refusal> {
    let wanted: SmallVec<[quota::Charge<'_>; 4]> = charges.iter().map(wanted).collect();
    let at = Moment::now(&parts.clock);
    let is_shared = parts.limits.sharing() == Sharing::Shared;
    let held = parts.limits.reserve(at, principal, &wanted, expected).await;
    // What Redis answers was so when it answered, in memory it is so at once.
    let stood_at_us = if is_shared { parts.clock.monotonic_us() } else { at.monotonic_us };
    // What was counted in memory because Redis was not asked, or did not answer, says nothing of its answers' time.
    let was_answered = match &held {
        Ok(hold) => !hold.is_local(),
        Err(NotHeld::Refused(refused)) => matches!(refused, Refused::Exceeded(_)),
        Err(NotHeld::Unavailable { .. }) => false,
    };
    if is_shared && was_answered {
        parts.metrics.redis_took(Duration::from_micros(stood_at_us.saturating_sub(at.monotonic_us)));
    }
    let not_held = match held {
        Ok(mut hold) => {
            settlement.stands(hold.tells_standings(), stood_at_us);
            settlement.holds(hold);
            return Ok(());
        }
        Err(not_held) => not_held,
    };
    let (refusal, blamed) = refusal(&not_held);
    if let Some(policy) = blamed {
        settlement.blames(policy);
    }
    match not_held {
        NotHeld::Refused(Refused::Exceeded(exceeded)) => {
            parts.metrics.limit_refused(&exceeded.policy, &exceeded.limit);
            settlement.stands(exceeded.until_retry(), stood_at_us);
        }
        NotHeld::Refused(refused) => {
            if let Some(fault) = bad_answer(&refused) {
                chains.blame(&fault);
            }
        }
        NotHeld::Unavailable { unavailable, closed } => {
            settlement.is_unchecked();
            // Why Redis can't be asked stands in the log once, not with each call.
            tracing::debug!(%unavailable, %closed, "a call was refused, for its limits can't be checked");
        }
    }
    Err(refusal)
}

/// A charge as the counters take it.
pub(super) fn wanted((policy, charge): &(Arc<str>, Charge)) -> quota::Charge<'_> {
    quota::Charge { policy, limit: &charge.limit, partition: &charge.partition, rule: charge.rule }
}

/// What the caller reads when nothing could be reserved, and the policy whose charge stood in the way.
pub(super) fn refusal(not_held: &NotHeld) -> (Refusal, Option<&str>) {
    let refused = match not_held {
        NotHeld::Refused(refused) => refused,
        NotHeld::Unavailable { .. } => return (Refusal::limits_unavailable(), None),
    };
    let faulty = || bad_answer(refused).map_or_else(Refusal::limits_unavailable, Refusal::from);
    match refused {
        Refused::Exceeded(exceeded) => (Refusal::limit_exceeded(exceeded), Some(&exceeded.policy)),
        Refused::Full => (Refusal::counters_full(), None),
        Refused::TooManyCounters { policy } => (Refusal::too_many_counters(policy), Some(policy)),
        Refused::Repeated { policy, .. } | Refused::BadRule { policy, .. } => (faulty(), Some(policy)),
        Refused::TooMany { .. } => (Refusal::too_many_charges(refused), None),
    }
}

/// The fault of a policy whose charges can't be counted; none where they could be, and none where it takes several policies to
/// ask for too many: each asked for no more than it may, and a breaker must not stop one for what another adds.
fn bad_answer(refused: &Refused) -> Option<Fault> {
    let (policy, detail) = match refused {
        Refused::Repeated { policy, limit } => (policy.as_str(), format!("it charged '{limit}' twice in one call")),
        Refused::BadRule { policy, limit, wrong } => (policy.as_str(), format!("its limit '{limit}' is {wrong}")),
        Refused::Exceeded(_) | Refused::Full | Refused::TooManyCounters { .. } | Refused::TooMany { .. } => {
            return None;
        }
    };
    Some(Fault { policy: policy.into(), hook: Hook::Admit, kind: FaultKind::BadAnswer, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_that_only_together_are_too_many_are_no_policy_s_fault() {
        let refused = Refused::TooMany { count: 40 };
        assert!(bad_answer(&refused).is_none(), "no breaker learns of it");
        let not_held = NotHeld::Refused(refused);
        let (refusal, blamed) = refusal(&not_held);
        assert_eq!((refusal.code(), blamed), ("policy_fault", None));
        let private = refusal.private().unwrap();
        assert!(private.contains("40 charges") && private.contains("have some of them charge less"), "{private}");
        let twice = NotHeld::Refused(Refused::Repeated { policy: "a".into(), limit: "l".into() });
        assert_eq!(super::refusal(&twice).1, Some("a"));
    }
}
