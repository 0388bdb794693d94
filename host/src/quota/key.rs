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

use super::{
    budget::kept_partition,
    charge::{Charge, Span, Terms},
};

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
    /// The key of the counter that this charge names. Equal names give equal keys for as long as the seeds live.
    pub(super) fn key(&self, charge: &Charge<'_>, terms: &Terms) -> CounterKey {
        let partition = match terms.span {
            Span::Calendar(_) => kept_partition(charge.partition),
            Span::Window { .. } | Span::Bucket { .. } | Span::Concurrent => charge.partition.into(),
        };
        let hashed_with = |seed: &RandomState| {
            let mut hasher = seed.build_hasher();
            hash_texts(&mut hasher, &[charge.policy, charge.limit, &partition]);
            terms.settling.unit().hash(&mut hasher);
            match terms.span {
                Span::Window { length_ms } => (0_u8, length_ms).hash(&mut hasher),
                Span::Bucket { refill, every_ms, .. } => (1_u8, refill, every_ms).hash(&mut hasher),
                Span::Calendar(period) => (2_u8, period).hash(&mut hasher),
                Span::Concurrent => 3_u8.hash(&mut hasher),
            }
            hasher.finish()
        };
        CounterKey { upper: hashed_with(&self.upper), lower: hashed_with(&self.lower) }
    }

    /// Who has the counters that this policy charges this principal.
    pub(super) fn owner(&self, policy: &str, principal: &str) -> Owner {
        let mut hasher = self.lower.build_hasher();
        hash_texts(&mut hasher, &[policy, principal]);
        Owner(hasher.finish())
    }
}

/// The hash of a policy and a principal. Two that share one share a cap, which is all that 64 bits are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(pub(super) u64);

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

fn hash_texts(hasher: &mut impl Hasher, texts: &[&str]) {
    for text in texts {
        hasher.write_usize(text.len());
        hasher.write(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Amount, Period, Rule, Shape, TokenKind};

    const MINUTE: Rule = requests(Shape::Window { capacity: 5, length_ms: 60_000 });

    const fn requests(shape: Shape) -> Rule {
        Rule::Metered { amount: Amount::Requests(1), shape }
    }

    const fn tokens(kind: TokenKind, weight_permille: u32) -> Rule {
        let shape = Shape::Window { capacity: 5, length_ms: 60_000 };
        Rule::Metered { amount: Amount::Tokens { kind, weight_permille }, shape }
    }

    fn key(seeds: &KeySeeds, (policy, limit, partition, rule): (&str, &str, &str, Rule)) -> CounterKey {
        seeds.key(&Charge { policy, limit, partition, rule }, &Terms::of(&rule).expect("a rule that makes sense"))
    }

    #[test]
    fn every_part_of_the_name_makes_another_counter() {
        let seeds = KeySeeds::default();
        let with = |rule| ("policy", "limit", "partition", rule);
        let names = [
            with(MINUTE),
            with(requests(Shape::Window { capacity: 5, length_ms: 3_600_000 })),
            with(requests(Shape::Bucket { burst: 5, refill: 1, every_ms: 1_000 })),
            with(requests(Shape::Bucket { burst: 5, refill: 2, every_ms: 1_000 })),
            with(requests(Shape::Bucket { burst: 5, refill: 1, every_ms: 2_000 })),
            with(requests(Shape::Bucket { burst: 5, refill: 2, every_ms: 2_000 })),
            with(requests(Shape::Calendar { capacity: 5, period: Period::Day })),
            with(requests(Shape::Calendar { capacity: 5, period: Period::Month })),
            with(tokens(TokenKind::All, 1_000)),
            with(tokens(TokenKind::Input, 1_000)),
            with(tokens(TokenKind::Output, 1_000)),
            with(Rule::Concurrent(5)),
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
        let mut keys: Vec<_> = names.into_iter().map(|name| key(&seeds, name)).collect();
        assert_eq!(keys.first().copied(), Some(key(&seeds, with(MINUTE))));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), names.len());
    }

    #[test]
    fn neither_capacity_nor_amount_nor_weight_is_part_of_the_name() {
        let seeds = KeySeeds::default();
        let check = |one, other| {
            let key = |rule| key(&seeds, ("policy", "limit", "partition", rule));
            assert_eq!(key(one), key(other));
        };
        check(MINUTE, requests(Shape::Window { capacity: 6, length_ms: 60_000 }));
        let shape = Shape::Window { capacity: 5, length_ms: 60_000 };
        check(MINUTE, Rule::Metered { amount: Amount::Requests(2), shape });
        check(tokens(TokenKind::All, 1), tokens(TokenKind::All, 2));
        check(Rule::Concurrent(1), Rule::Concurrent(2));
        let bucket = |burst| requests(Shape::Bucket { burst, refill: 1, every_ms: 1_000 });
        check(bucket(1), bucket(2));
        let day = |capacity| requests(Shape::Calendar { capacity, period: Period::Day });
        check(day(1), day(2));
    }

    #[test]
    fn policy_and_principal_make_an_owner() {
        let seeds = KeySeeds::default();
        assert_eq!(seeds.owner("a", "b"), seeds.owner("a", "b"));
        assert_ne!(seeds.owner("a", "b"), seeds.owner("b", "a"));
        assert_ne!(seeds.owner("ab", ""), seeds.owner("a", "b"));
    }

    #[test]
    fn another_table_hashes_otherwise() {
        let key = |seeds: &KeySeeds| key(seeds, ("policy", "limit", "partition", MINUTE));
        assert_ne!(key(&KeySeeds::default()), key(&KeySeeds::default()));
    }

    #[test]
    fn the_two_halves_are_hashed_apart() {
        let key = key(&KeySeeds::default(), ("policy", "limit", "partition", MINUTE));
        assert_ne!(key.upper, key.lower);
    }

    #[test]
    fn keys_in_order_are_shards_in_order_and_no_shard_stays_empty() {
        let seeds = KeySeeds::default();
        let mut keys: Vec<_> = (0..10_000).map(|n| key(&seeds, ("p", "l", &n.to_string(), MINUTE))).collect();
        keys.sort_unstable();
        let mut shards: Vec<_> = keys.iter().map(|key| key.shard()).collect();
        assert!(shards.is_sorted());
        shards.dedup();
        assert_eq!(shards, (0..CounterKey::SHARDS).collect::<Vec<_>>());
    }
}
