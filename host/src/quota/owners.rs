//! How many live counters each principal has under each policy, so that none can take the table from the others.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::key::{KeyHasher, Owner};

const SHARDS: usize = 16;
const SHARDS_IN_HASH: u64 = 16;

type Counts = HashMap<Owner, u32, BuildHasherDefault<KeyHasher>>;

/// Counters by owner. Its locks are taken within those of counters, one at a time, and nothing is locked within them.
#[derive(Debug)]
pub(super) struct Owners {
    shards: [Mutex<Counts>; SHARDS],
    most: u32,
}

impl Owners {
    /// Nobody has a counter yet, and nobody will have more than `most`.
    pub(super) fn new(most: u32) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), most }
    }

    /// One counter more, if there may be; tells whether there is.
    pub(super) fn enter(&self, owner: Owner) -> bool {
        let mut counts = self.shard(owner);
        let held = counts.get(&owner).copied().unwrap_or(0);
        let may_enter = held < self.most;
        if may_enter {
            counts.insert(owner, held.saturating_add(1));
        }
        may_enter
    }

    /// One counter less.
    pub(super) fn leave(&self, owner: Owner) {
        let mut counts = self.shard(owner);
        match counts.get_mut(&owner) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(counts.remove(&owner)),
        }
    }

    /// A number is changed in one step: a thread that dies under the lock leaves nothing half done.
    fn shard(&self, owner: Owner) -> MutexGuard<'_, Counts> {
        let index = usize::try_from(owner.0.rotate_right(8) % SHARDS_IN_HASH).expect("a remainder of 16 fits");
        let shard = self.shards.get(index).expect("a remainder is below the number of shards");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many counters all owners have.
    #[cfg(test)]
    pub(super) fn total(&self) -> u64 {
        let counts = |shard: &Mutex<Counts>| -> u64 {
            let counts = shard.lock().unwrap_or_else(PoisonError::into_inner);
            counts.values().copied().map(u64::from).sum()
        };
        self.shards.iter().map(counts).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_at_most_so_many_and_who_has_none_takes_no_memory() {
        let owners = Owners::new(2);
        let (one, other) = (Owner(1), Owner(1 << 40));
        assert!(owners.enter(one) && owners.enter(one) && !owners.enter(one));
        assert!(owners.enter(other), "another owner has a cap of its own");
        owners.leave(one);
        assert!(owners.enter(one) && !owners.enter(one));
        assert_eq!(owners.total(), 3);
        for owner in [one, one, other] {
            owners.leave(owner);
        }
        assert_eq!(owners.total(), 0);
        assert!(owners.shards.iter().all(|shard| shard.lock().is_ok_and(|counts| counts.is_empty())));
    }
}
