//! route: which backend? The host offers those that can serve the call; policies put them in order.

use smallvec::SmallVec;

use super::{Parts, admit::Admitted, aside, read::Read, refusal::Refusal, settle::Settlement};
use crate::{
    llm::{model_name::ModelName, operations::Row},
    policy::{Backend, Chains, RouteVerdict},
    upstream::fleet::{Candidate, Candidates},
};

/// A call that knows where to go, and in which order to try.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) read: Box<Read>,
    pub(super) order: Vec<Candidate>,
}

/// Offers the candidates to the chain. A model that nobody has makes the lists be read again, once.
pub(super) async fn route(
    parts: &Parts,
    chains: &Chains,
    admitted: Admitted,
    settlement: &mut Settlement,
) -> Result<Routed, Refusal> {
    let Admitted(read) = admitted;
    let Read { row, exchange, caller, call, .. } = &*read;
    let Some(model) = &read.model else { return Err(Refusal::no_model(&["model"])) };
    let candidates = candidates(parts, model, row).await?;
    // Only now: a name that no backend knows is a caller's text, and has no place in a log.
    settlement.names_model(&call.model);
    settlement.offers(&candidates);
    let facts: SmallVec<[Backend; 8]> = candidates.iter().map(|candidate| candidate.facts.clone()).collect();
    let ask = || chains.route(exchange, call, &caller.principal, &facts, settlement);
    let order = match aside::with_body_of(read.body_bytes(), ask)? {
        RouteVerdict::Reject(rejection) => return Err(rejection.into()),
        RouteVerdict::Undecided => candidates,
        RouteVerdict::Ranked(ids) => {
            let by_id = |id: &u32| candidates.iter().find(|candidate| candidate.facts.id == *id).cloned();
            ids.iter().filter_map(by_id).collect()
        }
    };
    Ok(Routed { read, order })
}

async fn candidates(parts: &Parts, model: &ModelName, row: &Row) -> Result<Vec<Candidate>, Refusal> {
    let mut found = parts.fleet.candidates(model, row.surface, row.operation);
    if matches!(found, Candidates::Unknown) {
        parts.fleet.look_again().await;
        found = parts.fleet.candidates(model, row.surface, row.operation);
    }
    match found {
        Candidates::Some(candidates) => Ok(candidates),
        Candidates::NoneUp => Err(Refusal::no_backend_up(model)),
        Candidates::NotSpoken => Err(Refusal::not_spoken(model)),
        Candidates::Unknown => Err(Refusal::unknown_model(model)),
    }
}
