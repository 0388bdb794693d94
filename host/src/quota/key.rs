//! What a counter goes by: 128 bits hashed from its full name.
//!
//! Each part is hashed behind its length, so that no two names run into one text. Two SipHashes of the standard
//! library, under two different secret keys, make up the 128 bits. (The library draws a random key for each thread and
//! counts it up for each hasher made: different keys, though not independent ones, which helps nobody who sees neither
//! keys nor hashes.) Partitions may be hostile, so a plain hash would not do; SHA-256 would, with more work for names
//! of this size. An attacker can only guess: a million counters collide with a chance of about 2⁻⁸⁹.
//!
//! A long partition takes time in proportion to its length and no memory; whoever calls bounds its length.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::num::NonZeroU32;

/// Which unit and shape the counters have; a later unit or shape gets another number, so that it never shares a
/// counter.
const REQUESTS_IN_A_WINDOW: u8 = 1;

/// The hash of a counter's name. Ordered by shard first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CounterKey {
    /// Chooses the shard.
    upper: u64,
    /// Chooses the place within the shard's map.
    lower: u64,
}

impl CounterKey {
    /// How many shards keys are spread over.
    pub(super) const SHARDS: usize = 1 << Self::SHARD_BITS;
    const SHARD_BITS: u32 = 6;

    /// The shard that holds this counter, below [`SHARDS`](Self::SHARDS).
    pub(super) fn shard(self) -> usize {
        usize::try_from(self.upper >> (u64::BITS - Self::SHARD_BITS)).expect("six bits fit in a usize")
    }
}

/// A key is a hash already: half of it serves the map as it is.
impl Hash for CounterKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.lower);
    }
}

/// The hasher of maps by [`CounterKey`]: hands on the one number it is given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Not used by [`CounterKey`]; folds the bytes, so that another key type would still work.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// The two secret keys under which one table hashes names.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySeeds {
    upper: RandomState,
    lower: RandomState,
}

impl KeySeeds {
    /// The key of the counter with this name. Equal names give equal keys for as long as the seeds live.
    pub(super) fn key(&self, policy: &str, limit: &str, partition: &str, length_ms: NonZeroU32) -> CounterKey {
        let hashed_with = |seed: &RandomState| {
            let mut hasher = seed.build_hasher();
            for part in [policy, limit, partition] {
                hasher.write_usize(part.len());
                hasher.write(part.as_bytes());
            }
            hasher.write_u8(REQUESTS_IN_A_WINDOW);
            hasher.write_u32(length_ms.get());
            hasher.finish()
        };
        CounterKey { upper: hashed_with(&self.upper), lower: hashed_with(&self.lower) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: NonZeroU32 = NonZeroU32::new(60_000).expect("not zero");
    const HOUR: NonZeroU32 = NonZeroU32::new(3_600_000).expect("not zero");

    #[test]
    fn every_part_of_the_name_makes_another_counter() {
        let seeds = KeySeeds::default();
        let names = [
            ("policy", "limit", "partition", MINUTE),
            ("policy", "limit", "partition", HOUR),
            ("policy", "limit", "other", MINUTE),
            ("policy", "other", "partition", MINUTE),
            ("other", "limit", "partition", MINUTE),
            ("policyl", "imit", "partition", MINUTE),
            ("policy", "limitp", "artition", MINUTE),
            ("policy", "limit", "", MINUTE),
            ("policy", "", "limit", MINUTE),
            ("", "policy", "limit", MINUTE),
            ("policy", "limit", "partition\0", MINUTE),
        ];
        let mut keys: Vec<_> = names.iter().map(|(p, l, part, length)| seeds.key(p, l, part, *length)).collect();
        assert_eq!(keys.first().copied(), Some(seeds.key("policy", "limit", "partition", MINUTE)));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), names.len());
    }

    #[test]
    fn another_table_hashes_otherwise() {
        let key = |seeds: &KeySeeds| seeds.key("policy", "limit", "partition", MINUTE);
        assert_ne!(key(&KeySeeds::default()), key(&KeySeeds::default()));
    }

    #[test]
    fn the_two_halves_are_hashed_apart() {
        let key = KeySeeds::default().key("policy", "limit", "partition", MINUTE);
        assert_ne!(key.upper, key.lower);
    }

    #[test]
    fn keys_in_order_are_shards_in_order_and_no_shard_stays_empty() {
        let seeds = KeySeeds::default();
        let mut keys: Vec<_> = (0..10_000).map(|n| seeds.key("p", "l", &n.to_string(), MINUTE)).collect();
        keys.sort_unstable();
        let mut shards: Vec<_> = keys.iter().map(|key| key.shard()).collect();
        assert!(shards.is_sorted());
        shards.dedup();
        assert_eq!(shards, (0..CounterKey::SHARDS).collect::<Vec<_>>());
    }
}
