//! All keys in memory: what tells, on every call, whether a presented key is one.
//!
//! Reads take no lock, allocate nothing and ask no disk; a change swaps the whole table. The table says how old its
//! knowledge is, and when that is too old it proves nobody: a key revoked meanwhile must not pass. It never keeps a
//! secret, only keyed hashes, and prints neither.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{
    credential::{ParsedKey, looks_like_key},
    pepper::Pepper,
};
use crate::{
    clock::Clock,
    ports::{
        keys::{KeyRecord, Proof},
        store::{FormerSecret, SecretHash, StoredKey},
    },
};

/// How long a table is trusted after the store was last read, unless configured.
pub const DEFAULT_TRUST: Duration = Duration::from_secs(60);

/// The mark of a table that was never filled; all others are a time plus one.
const NEVER: u64 = 0;

/// What is hashed and compared in place of what isn't there, so that the work is the same.
const NO_ID: &str = "0000000000";
const NO_SECRET: &str = "0000000000000000000000000000000000000000000";
const NO_HASH: SecretHash = [0; 32];
const NO_FORMER: FormerSecret = FormerSecret { hash: NO_HASH, until_ms: 0 };

/// A key and what proves it.
struct Entry {
    record: Arc<KeyRecord>,
    hash: SecretHash,
    former: FormerSecret,
}

/// All keys of the store, revoked ones too, as they were when the store was last read.
pub struct KeyTable {
    pepper: Pepper,
    clock: Clock,
    trust: Duration,
    keys: ArcSwap<HashMap<Box<str>, Entry>>,
    /// When what the table holds was last true, in milliseconds of the clock's monotonic time, plus one; or [`NEVER`].
    confirmed: AtomicU64,
}

impl KeyTable {
    /// An empty table, which proves nobody until it is filled. It is trusted for `trust` after each time the store was
    /// read.
    pub fn new(pepper: Pepper, clock: Clock, trust: Duration) -> Self {
        Self { pepper, clock, trust, keys: ArcSwap::default(), confirmed: AtomicU64::new(NEVER) }
    }

    /// Takes these keys in place of all it had: they are what the store holds now.
    pub fn replace(&self, keys: Vec<StoredKey>) {
        self.replace_as_of(self.now_ms(), keys);
    }

    /// What the table holds is what the store holds now. Does nothing for a table that was never filled.
    pub fn confirm(&self) {
        self.confirm_as_of(self.now_ms());
    }

    /// As [`Self::replace`], for keys that were true at an earlier time of [`Self::now_ms`].
    pub(super) fn replace_as_of(&self, read_at_ms: u64, keys: Vec<StoredKey>) {
        let entry = |StoredKey { record, hash, former }| {
            let former = former.unwrap_or(NO_FORMER);
            (record.id.clone(), Entry { record: Arc::new(record), hash, former })
        };
        self.keys.store(Arc::new(keys.into_iter().map(entry).collect()));
        self.confirmed.fetch_max(read_at_ms.saturating_add(1), Ordering::AcqRel);
    }

    /// As [`Self::confirm`], for what was true at an earlier time of [`Self::now_ms`].
    pub(super) fn confirm_as_of(&self, read_at_ms: u64) {
        if self.confirmed.load(Ordering::Acquire) != NEVER {
            self.confirmed.fetch_max(read_at_ms.saturating_add(1), Ordering::AcqRel);
        }
    }

    /// The time that the table reckons with.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.ticked_ms()
    }

    /// Whether a credential is a key, and whose. Whatever comes of it costs one hash and two comparisons: with the key's
    /// secret and with the one before its last rotation. An unknown id, a wrong secret and a mangled text answer alike.
    pub fn prove(&self, credential: &str) -> Proof {
        if looks_like_key(credential).is_none() {
            return Proof::NotAKey;
        }
        if !self.is_fresh() {
            return Proof::Stale;
        }
        let parsed = ParsedKey::parse(credential);
        let (id, secret) = parsed.map_or((NO_ID, NO_SECRET), |key| (key.id(), key.secret()));
        let keys = self.keys.load();
        let entry = keys.get(id);
        let presented = self.pepper.hash(id, secret);
        let (hash, former) = entry.map_or((&NO_HASH, &NO_FORMER), |entry| (&entry.hash, &entry.former));
        let is_current = verify_slices_are_equal(&presented, hash).is_ok();
        let is_former = verify_slices_are_equal(&presented, &former.hash).is_ok();
        let is_proven = is_current || (is_former && self.clock.unix_ms() < former.until_ms);
        match entry {
            Some(entry) if is_proven && parsed.is_some() => Proof::Proven(Arc::clone(&entry.record)),
            _ => Proof::Unproven,
        }
    }

    /// Whether it may be trusted now.
    pub fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age <= self.trust)
    }

    /// How long ago the store was last read; none: never.
    pub fn age(&self) -> Option<Duration> {
        match self.confirmed.load(Ordering::Acquire) {
            NEVER => None,
            confirmed => Some(Duration::from_millis(self.now_ms().saturating_sub(confirmed - 1))),
        }
    }

    /// How many keys it holds, in whatever state.
    pub fn len(&self) -> usize {
        self.keys.load().len()
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, age) = (self.len(), self.age());
        formatter.debug_struct("KeyTable").field("len", &len).field("age", &age).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::{
        clock::Hand,
        identity::credential::FreshKey,
        ports::{
            keys::{KeyState, Scope},
            limits::Limits,
        },
    };

    fn pepper() -> Pepper {
        Pepper::load_or_create(tempdir().unwrap().path()).unwrap()
    }

    fn table() -> (KeyTable, Pepper, Hand) {
        let (clock, hand) = Clock::manual(0);
        let pepper = pepper();
        (KeyTable::new(pepper.clone(), clock, DEFAULT_TRUST), pepper, hand)
    }

    fn stored(key: &FreshKey, pepper: &Pepper, state: KeyState) -> StoredKey {
        let record = KeyRecord {
            id: key.id().into(),
            name: "laptop".into(),
            user: None,
            state,
            expires_at_ms: None,
            limits: Limits::default(),
            scope: Scope::AllModels,
            may_manage: false,
            attributes: Box::default(),
            created_at_ms: 0,
        };
        StoredKey { record, hash: pepper.hash(key.id(), key.secret()), former: None }
    }

    /// A well-formed key of this id and secret: what an attacker can make too.
    fn forged(id: &str, secret: &str) -> String {
        let body = format!("op_{id}_{secret}");
        let text: String = body.chars().chain(crate::identity::credential::crc_digits(&body).map(char::from)).collect();
        assert!(ParsedKey::parse(&text).is_some());
        text
    }

    #[test]
    fn a_key_is_proven_by_its_secret_whatever_its_state() {
        for state in [KeyState::Active, KeyState::Disabled, KeyState::Revoked] {
            let (table, pepper, _hand) = table();
            let key = FreshKey::generate().unwrap();
            table.replace(vec![stored(&key, &pepper, state)]);
            let Proof::Proven(record) = table.prove(key.text()) else { panic!("{state:?} is not proven") };
            assert_eq!((&*record.id, record.state), (key.id(), state));
        }
    }

    #[test]
    fn what_is_not_a_key_is_told_from_what_is_not_proven() {
        let (table, pepper, _hand) = table();
        let (known, unknown) = (FreshKey::generate().unwrap(), FreshKey::generate().unwrap());
        table.replace(vec![stored(&known, &pepper, KeyState::Active)]);
        for text in ["", "sk-abc", "OP_x", "Bearer op_x"] {
            assert!(matches!(table.prove(text), Proof::NotAKey), "{text}");
        }
        let mangled = format!("{}x", known.text());
        let wrong_secret = forged(known.id(), unknown.secret());
        let other_id = forged(unknown.id(), known.secret());
        let dummy = forged(NO_ID, NO_SECRET);
        for text in ["op_", "op_x_y", unknown.text(), &mangled, &wrong_secret, &other_id, &dummy] {
            assert!(matches!(table.prove(text), Proof::Unproven), "{text}");
        }
    }

    #[test]
    fn a_mangled_key_is_not_proven_even_if_the_dummy_were_a_key() {
        let (table, pepper, _hand) = table();
        let mut dummy = stored(&FreshKey::generate().unwrap(), &pepper, KeyState::Active);
        dummy.record.id = NO_ID.into();
        dummy.hash = pepper.hash(NO_ID, NO_SECRET);
        table.replace(vec![dummy]);
        assert!(matches!(table.prove("op_mangled"), Proof::Unproven));
    }

    /// A key with the secret that it had before.
    fn rotated(now: &FreshKey, before: &FreshKey, pepper: &Pepper, until_ms: u64) -> StoredKey {
        let former = FormerSecret { hash: pepper.hash(before.id(), before.secret()), until_ms };
        StoredKey { former: Some(former), ..stored(now, pepper, KeyState::Active) }
    }

    #[test]
    fn both_secrets_of_a_rotated_key_prove_it_until_the_older_ones_time_is_up() {
        let (table, pepper, hand) = table();
        let old = FreshKey::generate().unwrap();
        let new = FreshKey::renew(old.id()).unwrap().unwrap();
        table.replace(vec![rotated(&new, &old, &pepper, 10)]);
        hand.advance(Duration::from_millis(9));
        for key in [&old, &new] {
            let Proof::Proven(record) = table.prove(key.text()) else { panic!("{key:?} is not proven") };
            assert_eq!(&*record.id, old.id());
        }
        hand.advance(Duration::from_millis(1));
        assert!(matches!(table.prove(new.text()), Proof::Proven(_)));
        assert!(matches!(table.prove(old.text()), Proof::Unproven), "its time is up without a new reading");
        let third = FreshKey::renew(old.id()).unwrap().unwrap();
        assert!(matches!(table.prove(third.text()), Proof::Unproven));
    }

    #[test]
    fn a_former_secret_proves_its_own_key_only() {
        let (table, pepper, _hand) = table();
        let (old, other) = (FreshKey::generate().unwrap(), FreshKey::generate().unwrap());
        let new = FreshKey::renew(old.id()).unwrap().unwrap();
        let other_key = stored(&other, &pepper, KeyState::Active);
        table.replace(vec![rotated(&new, &old, &pepper, 10), other_key]);
        assert!(matches!(table.prove(&forged(other.id(), old.secret())), Proof::Unproven));
        assert!(matches!(table.prove(&forged(other.id(), new.secret())), Proof::Unproven));
        assert!(matches!(table.prove(&forged(NO_ID, NO_SECRET)), Proof::Unproven));
    }

    #[test]
    fn a_hash_made_with_another_pepper_proves_nothing() {
        let (table, _pepper, _hand) = table();
        let key = FreshKey::generate().unwrap();
        table.replace(vec![stored(&key, &pepper(), KeyState::Active)]);
        assert!(matches!(table.prove(key.text()), Proof::Unproven));
    }

    #[test]
    fn a_new_table_takes_the_place_of_the_old_one_whole() {
        let (table, pepper, _hand) = table();
        let (old, new) = (FreshKey::generate().unwrap(), FreshKey::generate().unwrap());
        table.replace(vec![stored(&old, &pepper, KeyState::Active)]);
        table.replace(vec![stored(&new, &pepper, KeyState::Active)]);
        assert!(matches!(table.prove(old.text()), Proof::Unproven));
        assert!(matches!(table.prove(new.text()), Proof::Proven(_)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_table_never_filled_proves_nobody_and_cant_be_confirmed() {
        let (table, ..) = table();
        table.confirm();
        assert!(!table.is_fresh() && table.age().is_none() && table.is_empty());
        assert!(matches!(table.prove("op_x"), Proof::Stale));
        assert!(matches!(table.prove("sk-abc"), Proof::NotAKey), "other credentials don't need the table");
        table.replace(Vec::new());
        assert!(table.is_fresh() && matches!(table.prove("op_x"), Proof::Unproven));
    }

    #[test]
    fn a_table_is_trusted_until_its_time_is_up_and_again_once_confirmed() {
        let (table, pepper, hand) = table();
        let key = FreshKey::generate().unwrap();
        table.replace(vec![stored(&key, &pepper, KeyState::Active)]);
        hand.advance(DEFAULT_TRUST);
        assert!(matches!(table.prove(key.text()), Proof::Proven(_)));
        hand.advance(Duration::from_millis(1));
        assert!(matches!(table.prove(key.text()), Proof::Stale) && !table.is_fresh());
        assert_eq!(table.age(), Some(DEFAULT_TRUST + Duration::from_millis(1)));
        table.confirm();
        assert!(matches!(table.prove(key.text()), Proof::Proven(_)));
        assert_eq!(table.age(), Some(Duration::ZERO));
    }

    #[test]
    fn an_older_reading_does_not_make_the_table_older() {
        let (table, _pepper, hand) = table();
        hand.advance(Duration::from_secs(10));
        table.replace(Vec::new());
        table.confirm_as_of(3_000);
        assert_eq!(table.age(), Some(Duration::ZERO));
    }

    #[test]
    fn debug_shows_neither_keys_nor_hashes() {
        let (table, pepper, _hand) = table();
        let key = FreshKey::generate().unwrap();
        table.replace(vec![stored(&key, &pepper, KeyState::Active)]);
        assert_eq!(format!("{table:?}"), "KeyTable { len: 1, age: Some(0ns), .. }");
    }
}
