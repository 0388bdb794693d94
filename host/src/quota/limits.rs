//! The limits of a gate: counted in memory, or together with other gates through Redis, and what holds instead while Redis
//! can't be asked.
//!
//! What a call holds is settled once, wherever its charges were reserved. Without Redis nothing here waits.

use std::sync::Arc;

use smallvec::SmallVec;
use thiserror::Error;

use super::{
    Charge, Exceeded, Expected, Moment, Outcome, Quota, Refused, Reservation, Standing, Tokens, Wait,
    charge::Terms,
    shared::{Fallback, LocalSpending, NotReserved, SharedQuota, SharedReservation, Unavailable, WhyClosed},
};
use crate::policy::Rule;

/// Where the calls of a gate are counted.
#[derive(Debug)]
pub struct Limits {
    memory: Arc<Quota>,
    shared: Option<Arc<SharedQuota>>,
}

/// Whether limits hold over several gates at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// They are this process's alone, as configured.
    Memory,
    /// They do, through Redis.
    Shared,
    /// They should, but Redis can't be asked.
    Degraded,
}

/// Why a call holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotHeld {
    /// A limit is used up, or the charges are a bad answer of a policy.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Redis didn't answer, and what is done without it refuses this call.
    #[error("{unavailable}, and {closed}")]
    Unavailable {
        /// Why it didn't answer.
        unavailable: Unavailable,
        /// Why that refuses the call.
        closed: WhyClosed,
    },
}

/// What would become of charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foresight {
    /// Where the counters were looked at.
    pub sharing: Sharing,
    /// Where they stand, in the order of the charges, and the units counted; none where the charges make no sense.
    pub standings: Vec<(Standing, u64)>,
    /// Whether all could be reserved. How long to wait for what is shared is known no better than when all of it is free.
    pub verdict: Result<(), NotHeld>,
}

impl Sharing {
    /// Where figures of such limits come from, as operators read it.
    pub fn source(self) -> &'static str {
        match self {
            Self::Memory => "this process",
            Self::Shared => "shared",
            Self::Degraded => "this process, degraded",
        }
    }
}

impl Limits {
    /// Limits of this process alone.
    pub fn in_memory(memory: Arc<Quota>) -> Self {
        Self { memory, shared: None }
    }

    /// Limits that several gates share. `memory` counts this gate's part while Redis can't be asked.
    pub fn shared(memory: Arc<Quota>, shared: Arc<SharedQuota>) -> Self {
        Self { memory, shared: Some(shared) }
    }

    /// Whether they hold over several gates now.
    pub fn sharing(&self) -> Sharing {
        match &self.shared {
            None => Sharing::Memory,
            Some(shared) if shared.is_asked() => Sharing::Shared,
            Some(_) => Sharing::Degraded,
        }
    }

    /// Where the counters of these charges stand, in their order, and the units counted: in Redis, or in this process. While
    /// limits should be shared and are not, those are this gate's shares.
    ///
    /// # Errors
    /// [`Refused`] when the charges are a bad answer.
    pub async fn look(&self, at: Moment, charges: &[Charge<'_>]) -> Result<(Sharing, Vec<(Standing, u64)>), Refused> {
        let Some(shared) = &self.shared else { return Ok((Sharing::Memory, self.memory.look(at, charges)?)) };
        match shared.look(charges).await {
            Ok(standings) => return Ok((Sharing::Shared, standings)),
            Err(NotReserved::Refused(refused)) => return Err(refused),
            Err(NotReserved::Unavailable(_)) => {}
        }
        let standings = match shared.fall_back(charges.iter().map(|charge| charge.rule)) {
            Fallback::Share(rules) => self.memory.look(at, &shares(charges, rules))?,
            Fallback::Admit | Fallback::Refuse(_) => self.memory.look(at, charges)?,
        };
        Ok((Sharing::Degraded, standings))
    }

    /// Whether all of these charges could be reserved now, and where their counters stand. Nothing is reserved.
    pub async fn foresee(&self, at: Moment, charges: &[Charge<'_>], expected: Expected) -> Foresight {
        let tokens = expected.fitting(charges.iter().copied());
        let (sharing, standings) = match self.look(at, charges).await {
            Ok(looked) => looked,
            Err(refused) => {
                return Foresight { sharing: self.sharing(), standings: Vec::new(), verdict: Err(refused.into()) };
            }
        };
        let verdict = match (&self.shared, sharing) {
            (Some(_), Sharing::Shared) => fits(charges, &standings, tokens).map_err(NotHeld::from),
            (Some(shared), Sharing::Degraded) => self.foresee_alone(shared, at, charges, expected),
            _ => self.memory.foresee(at, charges, tokens).map_err(NotHeld::from),
        };
        Foresight { sharing, standings, verdict }
    }

    /// The same while Redis can't be asked.
    fn foresee_alone(
        &self,
        shared: &SharedQuota,
        at: Moment,
        charges: &[Charge<'_>],
        expected: Expected,
    ) -> Result<(), NotHeld> {
        let (tokens, unavailable) = (expected.fitting(charges.iter().copied()), Unavailable::Open);
        let instead = shared.fall_back(charges.iter().map(|charge| charge.rule));
        if instead != Fallback::Admit && charges.iter().any(|charge| never_fits(charge, tokens)) {
            self.memory.foresee(at, charges, tokens)?;
        }
        match instead {
            Fallback::Admit => Ok(()),
            Fallback::Refuse(closed) => Err(NotHeld::Unavailable { unavailable, closed }),
            Fallback::Share(rules) => {
                let shares = shares(charges, rules);
                let foreseen = self.memory.foresee(at, &shares, expected.fitting(shares.iter().copied()));
                foreseen.map_err(|refused| match too_large_for_a_share(charges, &refused) {
                    Some(place) => NotHeld::Unavailable { unavailable, closed: WhyClosed::NoShare(place) },
                    None => refused.into(),
                })
            }
        }
    }

    /// Reserves all charges of this principal's call, or none. May be dropped at any await: then nothing is held.
    ///
    /// # Errors
    /// [`NotHeld`]; nothing is held then.
    pub async fn reserve(
        &self,
        at: Moment,
        principal: &str,
        charges: &[Charge<'_>],
        expected: Expected,
    ) -> Result<Hold, NotHeld> {
        match &self.shared {
            None => {
                let tokens = expected.fitting(charges.iter().copied());
                Ok(Hold(Kind::Memory(self.memory.reserve(at, principal, charges, tokens)?)))
            }
            // Boxed: calls that ask no Redis need not carry the room for its answer.
            Some(shared) => Box::pin(self.reserve_shared(shared, at, principal, charges, expected)).await,
        }
    }

    async fn reserve_shared(
        &self,
        shared: &Arc<SharedQuota>,
        at: Moment,
        principal: &str,
        charges: &[Charge<'_>],
        expected: Expected,
    ) -> Result<Hold, NotHeld> {
        let mut tokens = expected.fitting(charges.iter().copied());
        let unavailable = match shared.reserve(charges, tokens).await {
            Ok(reservation) => return Ok(Hold(Kind::Shared(reservation))),
            Err(NotReserved::Refused(refused)) => return Err(refused.into()),
            Err(NotReserved::Unavailable(unavailable)) => unavailable,
        };
        let instead = shared.fall_back(charges.iter().map(|charge| charge.rule));
        if instead != Fallback::Admit && charges.iter().any(|charge| never_fits(charge, tokens)) {
            // No share is needed to know that the limit itself refuses this, and that waiting doesn't help.
            drop(self.memory.reserve(at, principal, charges, tokens)?);
        }
        let reservation = match instead {
            Fallback::Refuse(closed) => return Err(NotHeld::Unavailable { unavailable, closed }),
            Fallback::Admit => None,
            Fallback::Share(rules) => {
                let shares = shares(charges, rules);
                // What the whole limit has room for may be more than its share.
                tokens = expected.fitting(shares.iter().copied());
                let reserved = self.memory.reserve(at, principal, &shares, tokens);
                Some(reserved.map_err(|refused| match too_large_for_a_share(charges, &refused) {
                    Some(place) => NotHeld::Unavailable { unavailable, closed: WhyClosed::NoShare(place) },
                    None => refused.into(),
                })?)
            }
        };
        let spending = shared.spends_locally(charges, tokens, reservation.is_some())?;
        Ok(Hold(Kind::Local(Box::new(Local { reservation, spending }))))
    }
}

/// The charges by these rules in place of their own.
fn shares<'a>(charges: &[Charge<'a>], rules: Vec<Rule>) -> SmallVec<[Charge<'a>; 4]> {
    charges.iter().zip(rules).map(|(charge, rule)| Charge { rule, ..*charge }).collect()
}

/// Whether counters that stand so have room for all charges; the one with the longest wait is told, of equal ones the first.
fn fits(charges: &[Charge<'_>], standings: &[(Standing, u64)], expected: Tokens) -> Result<(), Refused> {
    let waits = charges.iter().zip(standings).filter_map(|(charge, (standing, _))| {
        let amount = Terms::of(&charge.rule).ok()?.settling.reserves(expected);
        if amount == 0 || amount <= standing.remaining {
            return None;
        }
        let wait = match standing.reset_after_us {
            _ if amount > standing.capacity => Wait::Forever,
            Some(us) => Wait::Micros(us),
            None => Wait::UntilACallEnds,
        };
        Some((wait, charge))
    });
    let longest = waits.reduce(|one, other| if other.0 > one.0 { other } else { one });
    let Some((wait, charge)) = longest else { return Ok(()) };
    Err(Refused::Exceeded(Box::new(Exceeded {
        policy: charge.policy.to_owned(),
        limit: charge.limit.to_owned(),
        rule: charge.rule,
        wait,
        standings: standings.iter().map(|(standing, _)| standing.clone()).collect(),
    })))
}

/// Whether a charge asks for more than its limit ever admits.
fn never_fits(charge: &Charge<'_>, expected: Tokens) -> bool {
    Terms::of(&charge.rule).is_ok_and(|terms| terms.settling.reserves(expected) > terms.capacity)
}

/// Which charge a gate's share can't hold though its limit could: then the caller is not to blame, and may try again.
fn too_large_for_a_share(charges: &[Charge<'_>], refused: &Refused) -> Option<usize> {
    let (policy, limit) = match refused {
        Refused::Exceeded(exceeded) if exceeded.wait == Wait::Forever => (&exceeded.policy, &exceeded.limit),
        Refused::BadRule { policy, limit, .. } => (policy, limit),
        _ => return None,
    };
    charges.iter().position(|charge| charge.policy == policy && charge.limit == limit)
}

/// What one call holds. It must be settled once anything reached a backend; dropping it gives everything back, for then
/// nothing did.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub struct Hold(Kind);

#[derive(Debug)]
enum Kind {
    Memory(Reservation),
    Shared(SharedReservation),
    Local(Box<Local>),
}

/// What a call holds that Redis has yet to hear of. No reservation: it was let pass uncounted.
#[derive(Debug)]
struct Local {
    reservation: Option<Reservation>,
    spending: LocalSpending,
}

impl Hold {
    /// Where the call's counters stood when it was reserved, itself included, in the order in which they were charged; once.
    /// None of a call that passed uncounted.
    pub fn tells_standings(&mut self) -> Vec<Standing> {
        match &mut self.0 {
            Kind::Memory(reservation) => reservation.tells_standings(),
            Kind::Shared(reservation) => reservation.tells_standings(),
            Kind::Local(local) => local.reservation.as_mut().map_or_else(Vec::new, Reservation::tells_standings),
        }
    }

    /// Whether it should count in Redis, but Redis has yet to hear of it.
    pub fn is_local(&self) -> bool {
        matches!(self.0, Kind::Local(_))
    }

    /// The call is over, at this moment. Never waits.
    pub fn settle(self, at: Moment, outcome: Outcome) {
        match self.0 {
            Kind::Memory(reservation) => reservation.settle(at, outcome),
            Kind::Shared(reservation) => reservation.settle(outcome),
            Kind::Local(local) => {
                if let Some(reservation) = local.reservation {
                    reservation.settle(at, outcome);
                }
                local.spending.settle(outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Amount, Shape},
        quota::Unit,
    };

    fn charge(limit: &str, rule: Rule) -> Charge<'_> {
        Charge { policy: "p", limit, partition: "ann", rule }
    }

    fn standing(limit: &str, capacity: u64, remaining: u64, reset_after_us: Option<u64>) -> (Standing, u64) {
        let (limit, unit) = (limit.into(), Unit::Requests);
        let standing = Standing { limit, unit, capacity, remaining, reserved: 0, reset_after_us, window_us: None };
        (standing, capacity - remaining)
    }

    #[test]
    fn shared_counters_without_room_are_foreseen_by_where_they_stand() {
        let window =
            Rule::Metered { amount: Amount::Requests(2), shape: Shape::Window { capacity: 9, length_ms: 1_000 } };
        let charges = [charge("window", window), charge("calls", Rule::Concurrent(3))];
        let check = |first: (Standing, u64), second: (Standing, u64), expected: Option<(&str, Wait)>| {
            let found = match fits(&charges, &[first, second], Tokens::default()) {
                Ok(()) => None,
                Err(Refused::Exceeded(exceeded)) => Some((exceeded.limit.clone(), exceeded.wait)),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(found.as_ref().map(|(limit, wait)| (limit.as_str(), *wait)), expected);
        };
        let (free, calls) = (standing("window", 9, 2, Some(7)), standing("calls", 3, 1, None));
        let (full, busy) = (standing("window", 9, 1, Some(7)), standing("calls", 3, 0, None));
        check(free.clone(), calls.clone(), None);
        check(full.clone(), calls.clone(), Some(("window", Wait::Micros(7))));
        check(free, busy, Some(("calls", Wait::UntilACallEnds)));
        check(standing("window", 1, 1, None), calls, Some(("window", Wait::Forever)));
    }
}
