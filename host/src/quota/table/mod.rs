//! All counters of this process, and reservations of several at once.
//!
//! [`Quota::reserve`] takes every shard that a call needs (one for each partition), once and in ascending order, checks all
//! charges, and only then counts them: all or none, exact under any number of threads, and without deadlock. Locks are held for that long
//! only, and never across an await, for nothing here is async.
//!
//! Nothing here prints a partition.

use std::{
    cmp::Reverse,
    fmt::{Debug, Formatter, Result as FmtResult},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;

use super::{
    Charge, Exceeded, Moment, Outcome, Refused, Reservation, Standing, Tokens, Totals, Wait, budget,
    charge::Terms,
    key::{CounterKey, KeySeeds, Owner},
    owners::Owners,
    reservation::Held,
    shard::{Figures, Shard},
};
use crate::ports::budgets::{BudgetChange, BudgetName, StoredBudget};

/// How many charges one call may name.
pub const MAX_CHARGES: usize = 32;
/// Charges that find room without memory of their own: one of each kind of limit that a key has.
const USUAL: usize = 5;
/// How many due notes of each shard are looked at before a principal is refused for its many counters.
const NOTES_PER_SWEEP: usize = 64;

/// What the table may grow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaBounds {
    /// Counters held at a time, rounded up to a multiple of 64; each takes at most 512 bytes. Each of 64 shards holds its
    /// part, and hashes don't spread evenly, so that some new counters find no place a little before the bound.
    /// Default: 1,000,000.
    pub max_counters: usize,
    /// Counters held at a time for what one policy charges one principal. More are refused to that principal only.
    /// Default: 1,000.
    pub max_counters_per_principal: u32,
}

impl Default for QuotaBounds {
    fn default() -> Self {
        Self { max_counters: 1_000_000, max_counters_per_principal: 1_000 }
    }
}

/// All counters of this process.
pub struct Quota {
    shards: [Mutex<Shard>; CounterKey::SHARDS],
    owners: Arc<Owners>,
    seeds: KeySeeds,
    totals: Totals,
    bounds: QuotaBounds,
}

impl Debug for Quota {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.debug_struct("Quota").field("bounds", &self.bounds).field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self::new(QuotaBounds::default())
    }
}

impl Quota {
    /// An empty table.
    pub fn new(bounds: QuotaBounds) -> Self {
        let max_counters = bounds.max_counters.div_ceil(CounterKey::SHARDS);
        let owners = Arc::new(Owners::new(bounds.max_counters_per_principal));
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(max_counters, Arc::clone(&owners)))),
            owners,
            seeds: KeySeeds::default(),
            totals: Totals::default(),
            bounds,
        }
    }

    /// What the table did so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Reserves all charges of this principal's call, or none. Tokens are reserved as `expected`. No charges: nothing is
    /// reserved and no lock is taken.
    ///
    /// # Errors
    /// [`Refused`] says which charge stood in the way; nothing is counted then.
    pub fn reserve(
        self: &Arc<Self>,
        at: Moment,
        principal: &str,
        charges: &[Charge<'_>],
        expected: Tokens,
    ) -> Result<Reservation, Refused> {
        let named = self.name(principal, charges, expected)?;
        let mut reserved = self.try_reserve(at, &named);
        if matches!(reserved, Err(Refused::TooManyCounters { .. })) {
            // Some of the principal's counters may be empty by now, in shards that nobody has used since.
            self.sweep(at);
            reserved = self.try_reserve(at, &named);
        }
        match reserved {
            Ok(Reserved { held, standings, overshoot_units }) => {
                self.totals.admits(overshoot_units);
                Ok(Reservation::new(Arc::clone(self), held, standings))
            }
            Err(refused) => {
                self.totals.refuses();
                Err(refused)
            }
        }
    }

    /// Where the counters of these charges stand, in their order, and how many units of each count. Nothing is charged, and
    /// no counter is made.
    ///
    /// # Errors
    /// [`Refused`] when the charges are a bad answer.
    pub fn look(&self, at: Moment, charges: &[Charge<'_>]) -> Result<Vec<(Standing, u64)>, Refused> {
        let named = self.name("", charges, Tokens::default())?;
        let mut locked = self.lock(&named);
        for group in &mut locked {
            group.shard.advance(at, group.named.len());
        }
        Ok(figures(&mut locked, at))
    }

    /// Whether all of these charges could be reserved now. Nothing is, and no counter is made; whether there is a place for
    /// those that are not there yet is not looked at.
    ///
    /// # Errors
    /// [`Refused`] says which charge stands in the way.
    pub fn foresee(&self, at: Moment, charges: &[Charge<'_>], expected: Tokens) -> Result<(), Refused> {
        let named = self.name("", charges, expected)?;
        let mut locked = self.lock(&named);
        for group in &mut locked {
            group.shard.advance(at, group.named.len());
        }
        check_all(&mut locked, at).map(drop)
    }

    /// Takes over what is written of a budget, before any call is charged. No principal answers for its counter, and no bound
    /// keeps it out: who was charged must not begin anew. Tells whether the budget's words are known.
    pub fn restore(&self, at: Moment, stored: &StoredBudget) -> bool {
        let BudgetName { policy, limit, partition, .. } = &stored.name;
        let Some((rule, period)) = budget::rule(&stored.name) else { return false };
        let Ok(terms) = Terms::of(&rule) else { return false };
        let key = self.seeds.naming().key(&Charge { policy, limit, partition, rule }, &terms);
        self.shard(key).restore(key, at, period, stored);
        true
    }

    /// What budgets counted and nobody took yet, of at most so many counters. Whoever takes it writes it down.
    pub fn take_unsaved_budgets(&self, at: Moment, most: usize) -> Vec<BudgetChange> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let mut shard = locked(shard);
            while taken.len() < most
                && let Some(change) = shard.take_unsaved(at)
            {
                taken.push(change);
            }
        }
        taken
    }

    fn try_reserve(&self, at: Moment, named: &[Named<'_>]) -> Result<Reserved, Refused> {
        let mut locked = self.lock(named);
        for group in &mut locked {
            group.shard.advance(at, group.named.len());
        }
        if !check_all(&mut locked, at)? {
            self.place_all(&mut locked)?;
        }
        Ok(commit_all(&mut locked, at))
    }

    /// Finds a place for each counter that is not there yet, for all of them or none.
    fn place_all(&self, locked: &mut [Locked<'_, '_>]) -> Result<(), Refused> {
        for Locked { shard, named } in &mut *locked {
            if !shard.make_room(&named.iter().map(|named| named.key)) {
                return Err(Refused::Full);
            }
        }
        let mut entered: SmallVec<[Owner; 4]> = SmallVec::new();
        for Locked { shard, named } in locked {
            for named in named.iter().filter(|named| !shard.holds(named.key)) {
                if !self.owners.enter(named.owner) {
                    entered.into_iter().for_each(|owner| self.owners.leave(owner));
                    return Err(Refused::TooManyCounters { policy: named.charge.policy.to_owned() });
                }
                entered.push(named.owner);
            }
        }
        Ok(())
    }

    /// Drops counters that are empty, in all shards.
    fn sweep(&self, at: Moment) {
        for shard in &self.shards {
            let mut shard = locked(shard);
            shard.advance(at, 0);
            shard.sweep(NOTES_PER_SWEEP);
        }
    }

    /// The charges with their keys, in the order of shards.
    fn name<'c>(
        &self,
        principal: &str,
        charges: &'c [Charge<'c>],
        expected: Tokens,
    ) -> Result<SmallVec<[Named<'c>; USUAL]>, Refused> {
        if charges.len() > MAX_CHARGES {
            return Err(Refused::TooMany { count: charges.len() });
        }
        let mut named: SmallVec<[Named<'c>; USUAL]> = SmallVec::with_capacity(charges.len());
        let mut naming = self.seeds.naming();
        for (position, charge) in charges.iter().enumerate() {
            let (policy, limit) = (charge.policy, charge.limit);
            let terms = Terms::of(&charge.rule).map_err(|wrong| Refused::BadRule {
                policy: policy.to_owned(),
                limit: limit.to_owned(),
                wrong,
            })?;
            let owner = match named.last() {
                Some(last) if last.charge.policy == policy => last.owner,
                _ => self.seeds.owner(policy, principal),
            };
            let amount = terms.settling.reserves(expected);
            named.push(Named { key: naming.key(charge, &terms), terms, owner, amount, position, charge });
        }
        named.sort_unstable_by_key(|named| named.key.shard());
        match repeated(&named) {
            Some(charge) => Err(Refused::Repeated { policy: charge.policy.to_owned(), limit: charge.limit.to_owned() }),
            None => Ok(named),
        }
    }

    /// Locks each shard that is needed, once, and in the same order in every thread.
    fn lock<'a, 'c>(&'a self, named: &'a [Named<'c>]) -> SmallVec<[Locked<'a, 'c>; USUAL]> {
        named
            .chunk_by(|one, next| one.key.shares_shard(next.key))
            .filter_map(|named| Some(Locked { shard: self.shard(named.first()?.key), named }))
            .collect()
    }

    /// Settles what a reservation holds, shard by shard: others may find some of its counters settled before the rest, never
    /// too many units free. What is settled is taken out first, so that it is settled once even if this panics.
    pub(super) fn settle(&self, at: Option<Moment>, held: &mut Vec<Held>, outcome: Outcome) {
        while let Some(key) = held.last().map(|held| held.key) {
            let mut shard = self.shard(key);
            while let Some(held) = held.pop_if(|held| held.key.shares_shard(key)) {
                let Held { key, mark, capacity, amount, settling } = held;
                let owed = shard.settle(key, at, (mark, capacity), (amount, settling.uses(amount, outcome)));
                self.totals.owes(owed);
            }
        }
    }

    fn shard(&self, key: CounterKey) -> MutexGuard<'_, Shard> {
        locked(self.shards.get(key.shard()).expect("a key's shard is below the number of shards"))
    }
}

/// A thread that dies under the lock leaves at most units counted for a call that never was: that errs against the caller,
/// so the shard stays in use.
fn locked(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A charge with its counter's key.
#[derive(Debug)]
struct Named<'c> {
    key: CounterKey,
    terms: Terms,
    owner: Owner,
    /// Units to reserve.
    amount: u64,
    /// Where the policies' answers had it.
    position: usize,
    charge: &'c Charge<'c>,
}

impl Named<'_> {
    fn standing(&self, figures: Figures) -> Standing {
        Standing {
            limit: self.charge.limit.into(),
            unit: self.terms.settling.unit(),
            capacity: self.terms.capacity,
            remaining: self.terms.capacity.saturating_sub(figures.used),
            reserved: figures.reserved,
            reset_after_us: figures.reset_after_us,
            window_us: figures.window_us,
        }
    }
}

/// A locked shard and the charges whose counters it holds.
#[derive(Debug)]
struct Locked<'a, 'c> {
    shard: MutexGuard<'a, Shard>,
    named: &'a [Named<'c>],
}

/// A charge that names the same counter as another.
fn repeated<'c>(named: &[Named<'c>]) -> Option<&'c Charge<'c>> {
    let mut rest = named;
    while let Some((first, others)) = rest.split_first() {
        let mut beside = others.iter().take_while(|other| other.key.shares_shard(first.key));
        if beside.any(|other| other.key == first.key) {
            return Some(first.charge);
        }
        rest = others;
    }
    None
}

/// What was counted for one call.
#[derive(Debug)]
struct Reserved {
    held: Vec<Held>,
    standings: Vec<Standing>,
    overshoot_units: u64,
}

/// Checks every charge, and tells whether all their counters are there; the error names the one that binds.
fn check_all(locked: &mut [Locked<'_, '_>], at: Moment) -> Result<bool, Refused> {
    let mut binding: Option<(Wait, &Named<'_>)> = None;
    let rank = |(wait, named): &(Wait, &Named<'_>)| (*wait, Reverse(named.position));
    let mut are_held = true;
    for Locked { shard, named } in &mut *locked {
        for named in *named {
            match shard.check(named.key, at, named.terms.capacity, named.amount) {
                Ok(is_held) => are_held &= is_held,
                Err(wait) => {
                    let found = (wait, named);
                    if binding.as_ref().is_none_or(|bound| rank(&found) > rank(bound)) {
                        binding = Some(found);
                    }
                }
            }
        }
    }
    let Some((wait, named)) = binding else {
        return Ok(are_held);
    };
    let Charge { policy, limit, rule, .. } = *named.charge;
    let (policy, limit) = (policy.to_owned(), limit.to_owned());
    Err(Refused::Exceeded(Box::new(Exceeded { policy, limit, rule, wait, standings: standings(locked, at) })))
}

/// Where all counters stand, in the order of charges, each with the units that count.
fn figures(locked: &mut [Locked<'_, '_>], at: Moment) -> Vec<(Standing, u64)> {
    let mut found: SmallVec<[(usize, (Standing, u64)); 4]> = SmallVec::new();
    for Locked { shard, named } in locked {
        for named in *named {
            let figures = shard.figures(named.key, at, &named.terms);
            found.push((named.position, (named.standing(figures), figures.used)));
        }
    }
    found.sort_unstable_by_key(|(position, _)| *position);
    found.into_iter().map(|(_, standing)| standing).collect()
}

/// Where all counters stand, in the order of charges.
fn standings(locked: &mut [Locked<'_, '_>], at: Moment) -> Vec<Standing> {
    figures(locked, at).into_iter().map(|(standing, _)| standing).collect()
}

/// Counts every charge.
fn commit_all(locked: &mut [Locked<'_, '_>], at: Moment) -> Reserved {
    let count = locked.iter().map(|group| group.named.len()).sum();
    let mut reserved = Reserved { held: Vec::with_capacity(count), standings: Vec::new(), overshoot_units: 0 };
    let mut found = Vec::with_capacity(count);
    for Locked { shard, named } in locked {
        for named in *named {
            let Named { key, terms, owner, amount, .. } = named;
            let (mark, figures) = shard.commit(*key, at, (terms, *owner, named.charge), *amount);
            if *amount > 0 {
                reserved.overshoot_units += figures.used.saturating_sub(terms.capacity);
            }
            let (capacity, settling) = (terms.capacity, terms.settling);
            reserved.held.push(Held { key: *key, mark, amount: *amount, capacity, settling });
            found.push((named.position, named.standing(figures)));
        }
    }
    found.sort_unstable_by_key(|(position, _)| *position);
    // Within the memory of what was found.
    reserved.standings = found.into_iter().map(|(_, standing)| standing).collect();
    reserved
}

#[cfg(test)]
mod tests;
