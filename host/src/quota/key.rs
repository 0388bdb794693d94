//! What a counter goes by: 128 bits hashed from its full name, under a secret key of the table's own.
//!
//! Each part is hashed behind its length, so that no two names run into one text. The partition comes first: it alone
//! chooses the shard, so that the counters of one key lie under one lock, and what a call charges one partition is hashed
//! from there on. Partitions may be hostile, so a plain hash would not do; SHA-256 would, with more work for names of
//! this size. An attacker can only guess: a million counters collide with a chance of about 2⁻⁸³.
//!
//! A long partition takes time in proportion to its length and no memory; whoever calls bounds its length.

use std::{
    borrow::Cow,
    fmt::{Debug, Formatter, Result as FmtResult},
    hash::{BuildHasher, Hash, Hasher, RandomState},
};

use super::{
    Unit,
    budget::kept_partition,
    charge::{Charge, Span, Terms},
    sip::Sip,
};
use crate::policy::{Period, TokenKind};

/// The hash of a counter's name. Ordered by shard first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CounterKey {
    /// Six bits that choose the shard, and 58 of the hash.
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

    /// Whether another counter lies in the same shard.
    pub(super) fn shares_shard(self, other: Self) -> bool {
        self.shard() == other.shard()
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

/// The secret key under which one table hashes names.
#[derive(Clone, Copy)]
pub(super) struct KeySeeds([u64; 2]);

impl Debug for KeySeeds {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.debug_tuple("KeySeeds").finish_non_exhaustive()
    }
}

/// A random one: the library hashes two numbers under a random key that it shows nobody.
impl Default for KeySeeds {
    fn default() -> Self {
        let random = RandomState::new();
        Self([0, 1].map(|number: u64| random.hash_one(number)))
    }
}

/// Hashes the names of a call's counters, one after the other.
#[derive(Debug)]
pub(super) struct Naming<'c> {
    seeds: KeySeeds,
    begun: Option<Begun<'c>>,
}

/// A name as far as its partition and its policy.
#[derive(Clone, Copy)]
struct Begun<'c> {
    partition: &'c str,
    policy: &'c str,
    /// A hash of the partition alone.
    place: u64,
    hash: Sip,
}

impl Debug for Begun<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.debug_struct("Begun").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl KeySeeds {
    /// For the charges of one call.
    pub(super) fn naming<'c>(self) -> Naming<'c> {
        Naming { seeds: self, begun: None }
    }

    /// Who has the counters that this policy charges this principal.
    pub(super) fn owner(self, policy: &str, principal: &str) -> Owner {
        let mut hash = Sip::keyed(self.0);
        hash.text(policy);
        hash.text(principal);
        Owner(hash.finish())
    }

    fn begin<'c>(self, partition: &'c str, policy: &'c str) -> Begun<'c> {
        let mut hash = Sip::keyed(self.0);
        hash.text(partition);
        let place = hash.finish();
        hash.text(policy);
        Begun { partition, policy, place, hash }
    }
}

impl<'c> Naming<'c> {
    /// The key of the counter that this charge names. Equal names give equal keys for as long as the seeds live.
    pub(super) fn key(&mut self, charge: &Charge<'c>, terms: &Terms) -> CounterKey {
        match terms.span {
            Span::Calendar(_) => match kept_partition(charge.partition) {
                Cow::Borrowed(partition) => end(self.begin(partition, charge.policy), charge.limit, terms),
                Cow::Owned(partition) => end(&self.seeds.begin(&partition, charge.policy), charge.limit, terms),
            },
            Span::Window { .. } | Span::Bucket { .. } | Span::Concurrent => {
                end(self.begin(charge.partition, charge.policy), charge.limit, terms)
            }
        }
    }

    /// As the charge before it, if that names the same partition and policy.
    fn begin(&mut self, partition: &'c str, policy: &'c str) -> &Begun<'c> {
        let begun = self.begun.take().filter(|begun| begun.partition == partition && begun.policy == policy);
        self.begun.insert(begun.unwrap_or_else(|| self.seeds.begin(partition, policy)))
    }
}

fn end(begun: &Begun<'_>, limit: &str, terms: &Terms) -> CounterKey {
    let mut hash = begun.hash;
    hash.text(limit);
    let unit = match terms.settling.unit() {
        Unit::Requests => 0,
        Unit::Tokens(TokenKind::Input) => 1,
        Unit::Tokens(TokenKind::Output) => 2,
        Unit::Tokens(TokenKind::All) => 3,
        Unit::Calls => 4,
    };
    // Each shape is told by its first word's third and fourth byte, and has its own number of words.
    match terms.span {
        Span::Window { length_ms } => hash.word(1 << 16 | unit | u64::from(length_ms.get()) << 32),
        Span::Bucket { refill, every_ms, .. } => {
            hash.word(2 << 16 | unit | u64::from(every_ms.get()) << 32);
            hash.word(refill.get());
        }
        Span::Calendar(period) => {
            let period = match period {
                Period::Hour => 0,
                Period::Day => 1,
                Period::Week => 2,
                Period::Month => 3,
            };
            hash.word(3 << 16 | unit | period << 32);
        }
        Span::Concurrent => hash.word(4 << 16 | unit),
    }
    let [upper, lower] = hash.finish_wide();
    let place = begun.place >> (u64::BITS - CounterKey::SHARD_BITS) << (u64::BITS - CounterKey::SHARD_BITS);
    CounterKey { upper: place | upper >> CounterKey::SHARD_BITS, lower }
}

/// The hash of a policy and a principal. Two that share one share a cap, which is all that 64 bits are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(pub(super) u64);

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
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
        let terms = Terms::of(&rule).expect("a rule that makes sense");
        seeds.naming().key(&Charge { policy, limit, partition, rule }, &terms)
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
    fn a_name_is_hashed_alike_whatever_was_hashed_before_it() {
        let seeds = KeySeeds::default();
        let (long, day) = ("x".repeat(100), requests(Shape::Calendar { capacity: 5, period: Period::Day }));
        let (one, other) = (("p", "l", "a", MINUTE), ("p", "m", "a", day));
        let names = [
            one,
            other,
            one,
            ("q", "l", "a", MINUTE),
            one,
            ("p", "l", "b", MINUTE),
            ("p", "l", &*long, MINUTE),
            ("p", "l", &*long, day),
            ("p", "m", &*long, MINUTE),
            one,
        ];
        let mut naming = seeds.naming();
        for (policy, limit, partition, rule) in names {
            let terms = Terms::of(&rule).expect("a rule that makes sense");
            let named = naming.key(&Charge { policy, limit, partition, rule }, &terms);
            assert_eq!(named, key(&seeds, (policy, limit, partition, rule)));
        }
    }

    #[test]
    fn what_one_partition_is_charged_lies_in_one_shard() {
        let seeds = KeySeeds::default();
        for n in 0..100 {
            let partition = n.to_string();
            let of = |policy, limit, rule| key(&seeds, (policy, limit, &partition, rule)).shard();
            let one = of("p", "l", MINUTE);
            assert_eq!((of("p", "m", tokens(TokenKind::All, 1)), of("q", "l", Rule::Concurrent(1))), (one, one));
        }
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
