//! All counters of this process, and reservations of several at once.
//!
//! [`Quota::reserve`] takes every shard that a call needs, once and in ascending order, checks all charges, and only
//! then counts them: all or none, exact under any number of threads, and without deadlock. Locks are held for that long
//! only, and never across an await, for nothing here is async.
//!
//! The file assumes that `now_ms` comes from one monotonic clock. It never keeps or prints a partition.

use std::cmp::Reverse;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use thiserror::Error;

use super::key::{CounterKey, KeySeeds};
use super::shard::Shard;
use super::window::{NoRoom, Slice};

/// How many charges one call may name.
pub const MAX_CHARGES: usize = 32;

/// What the table may grow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaBounds {
    /// Counters held at a time, rounded up to a multiple of 64; each takes about 600 bytes. Each of 64 shards holds its
    /// part, and hashes don't spread evenly, so that some new counters find no place a little before the bound.
    pub max_counters: usize,
}

impl Default for QuotaBounds {
    fn default() -> Self {
        Self { max_counters: 1_000_000 }
    }
}

/// One thing that a call is charged: `amount` requests of at most `capacity` in any stretch of `length_ms`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charge<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// The limit's name, which may be shown.
    pub limit: &'a str,
    /// Whose counter; never shown. It is hashed whole, so its length costs time but no memory.
    pub partition: &'a str,
    /// Units admitted in a stretch. Not part of the counter's name: when it changes, what was counted still counts.
    pub capacity: u64,
    /// Length of the stretch; part of the counter's name. Zero is a bad answer of the policy.
    pub length_ms: u32,
    /// Units that this call takes. Zero always passes and counts nothing.
    pub amount: u64,
}

impl fmt::Debug for Charge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge")
            .field("policy", &self.policy)
            .field("limit", &self.limit)
            .field("capacity", &self.capacity)
            .field("length_ms", &self.length_ms)
            .field("amount", &self.amount)
            .finish_non_exhaustive()
    }
}

/// Why nothing was reserved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// A limit is used up. Of several, the one with the longest wait; of equal waits, the one charged first.
    #[error("limit `{limit}` of policy `{policy}` admits {capacity} in {length_ms} ms, this call goes beyond: wait")]
    Exceeded {
        /// The policy's name.
        policy: String,
        /// The limit's name.
        limit: String,
        /// Units it admits in a stretch.
        capacity: u64,
        /// Length of the stretch.
        length_ms: u32,
        /// When all charges of the call are admitted if nothing else happens. None: never, it asks more than
        /// `capacity`.
        retry_after_ms: Option<u64>,
    },
    /// A bad answer of the policy: two charges name the same counter.
    #[error("policy `{policy}` charges a counter of limit `{limit}` twice in one call: add the amounts up")]
    Repeated {
        /// The policy's name.
        policy: String,
        /// The limit's name.
        limit: String,
    },
    /// A bad answer of the policy: a stretch of no length.
    #[error("limit `{limit}` of policy `{policy}` has a window of 0 ms: give it a length")]
    NoLength {
        /// The policy's name.
        policy: String,
        /// The limit's name.
        limit: String,
    },
    /// A bad answer of the policies: more than [`MAX_CHARGES`].
    #[error("the call has {count} charges: at most {MAX_CHARGES} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// There is no memory for another counter, and none of those held is empty.
    #[error("every counter is in use: raise the bound on counters, or charge fewer partitions")]
    Full,
}

/// All counters of this process.
pub struct Quota {
    shards: [Mutex<Shard>; CounterKey::SHARDS],
    seeds: KeySeeds,
    bounds: QuotaBounds,
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Quota {
    /// An empty table.
    pub fn new(bounds: QuotaBounds) -> Self {
        let max_counters = bounds.max_counters.div_ceil(CounterKey::SHARDS);
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::new(max_counters))),
            seeds: KeySeeds::default(),
            bounds,
        }
    }

    /// Reserves all charges, or none. No charges: nothing is reserved and no lock is taken.
    ///
    /// # Errors
    /// [`Refused`] says which charge stood in the way; nothing is counted then.
    pub fn reserve(self: &Arc<Self>, now_ms: u64, charges: &[Charge<'_>]) -> Result<Reservation, Refused> {
        let named = self.name(charges)?;
        let mut locked = self.lock(&named);
        for group in &mut locked {
            group.shard.advance(now_ms);
        }
        check_all(&mut locked, now_ms)?;
        for group in &mut locked {
            let keys = group.named.iter().filter(|named| named.counts()).map(|named| named.key);
            if !group.shard.make_room(&keys) {
                return Err(Refused::Full);
            }
        }
        Ok(Reservation { quota: Arc::clone(self), held: commit_all(&mut locked) })
    }

    /// The charges with their keys, in the order of keys, which is that of shards.
    fn name<'c>(&self, charges: &'c [Charge<'c>]) -> Result<SmallVec<[Named<'c>; 4]>, Refused> {
        if charges.len() > MAX_CHARGES {
            return Err(Refused::TooMany { count: charges.len() });
        }
        let mut named = SmallVec::with_capacity(charges.len());
        for (position, charge) in charges.iter().enumerate() {
            let Some(length_ms) = NonZeroU32::new(charge.length_ms) else {
                return Err(Refused::NoLength { policy: charge.policy.to_owned(), limit: charge.limit.to_owned() });
            };
            let key = self.seeds.key(charge.policy, charge.limit, charge.partition, length_ms);
            named.push(Named { key, length_ms, position, charge });
        }
        named.sort_unstable_by_key(|named: &Named<'_>| named.key);
        let repeated = named.windows(2).find_map(|pair| match pair {
            [one, other] if one.key == other.key => Some(one.charge),
            _ => None,
        });
        match repeated {
            Some(charge) => Err(Refused::Repeated { policy: charge.policy.to_owned(), limit: charge.limit.to_owned() }),
            None => Ok(named),
        }
    }

    /// Locks each shard that is needed, once. The order of keys makes it the same order in every thread.
    fn lock<'a, 'c>(&'a self, named: &'a [Named<'c>]) -> SmallVec<[Locked<'a, 'c>; 4]> {
        named
            .chunk_by(|one, next| one.key.shard() == next.key.shard())
            .filter_map(|named| Some(Locked { shard: self.shard(named.first()?.key), named }))
            .collect()
    }

    /// A thread that dies under the lock leaves at most units counted for a call that never was: that errs against
    /// the caller, so the shard stays in use.
    fn shard(&self, key: CounterKey) -> MutexGuard<'_, Shard> {
        let shard = self.shards.get(key.shard()).expect("a key's shard is below the number of shards");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A charge with its counter's key.
#[derive(Debug)]
struct Named<'c> {
    key: CounterKey,
    length_ms: NonZeroU32,
    /// Where the policy's answer had it.
    position: usize,
    charge: &'c Charge<'c>,
}

impl Named<'_> {
    /// Whether it takes anything, and so needs a counter.
    fn counts(&self) -> bool {
        self.charge.amount > 0
    }
}

/// A locked shard and the charges whose counters it holds.
#[derive(Debug)]
struct Locked<'a, 'c> {
    shard: MutexGuard<'a, Shard>,
    named: &'a [Named<'c>],
}

/// Checks every charge; the error names the one that binds.
fn check_all(locked: &mut [Locked<'_, '_>], now_ms: u64) -> Result<(), Refused> {
    let mut binding: Option<(NoRoom, &Named<'_>)> = None;
    let rank =
        |(refused, named): &(NoRoom, &Named<'_>)| (refused.retry_after_ms.unwrap_or(u64::MAX), Reverse(named.position));
    for Locked { shard, named } in locked {
        for named in *named {
            let Err(refused) = shard.check(named.key, now_ms, named.charge.capacity, named.charge.amount) else {
                continue;
            };
            let found = (refused, named);
            if binding.as_ref().is_none_or(|bound| rank(&found) > rank(bound)) {
                binding = Some(found);
            }
        }
    }
    match binding {
        None => Ok(()),
        Some((refused, named)) => Err(Refused::Exceeded {
            policy: named.charge.policy.to_owned(),
            limit: named.charge.limit.to_owned(),
            capacity: named.charge.capacity,
            length_ms: named.charge.length_ms,
            retry_after_ms: refused.retry_after_ms,
        }),
    }
}

/// Counts every charge that takes anything.
fn commit_all(locked: &mut [Locked<'_, '_>]) -> SmallVec<[Held; 4]> {
    let mut held = SmallVec::new();
    for Locked { shard, named } in locked {
        for Named { key, length_ms, charge, .. } in named.iter().filter(|named| named.counts()) {
            let slice = shard.commit(*key, *length_ms, charge.amount);
            held.push(Held { key: *key, slice, amount: charge.amount });
        }
    }
    held
}

/// Units that a reservation holds in one counter.
#[derive(Clone, Copy, Debug)]
struct Held {
    key: CounterKey,
    slice: Slice,
    amount: u64,
}

/// What one call has reserved. It must be kept once anything reached a backend; dropping it gives everything back, for
/// then nothing did.
#[derive(Debug)]
#[must_use = "a reservation that is dropped gives back what it reserved"]
pub struct Reservation {
    quota: Arc<Quota>,
    held: SmallVec<[Held; 4]>,
}

impl Reservation {
    /// The call counts: what it reserved stays counted.
    pub fn keep(mut self) {
        self.held.clear();
    }

    /// The call doesn't count: what it reserved is free again, unless its slice has left the window anyway. Dropping
    /// does the same.
    pub fn refund(self) {
        drop(self);
    }
}

impl Drop for Reservation {
    /// One counter after the other: others may find some of them free before the rest, never too many units free.
    fn drop(&mut self) {
        for held in &self.held {
            self.quota.shard(held.key).give_back(held.key, held.slice, held.amount);
        }
    }
}

#[cfg(test)]
mod tests;
