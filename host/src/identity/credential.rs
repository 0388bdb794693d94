//! The text of a key: `op_<id>_<secret><crc>`, its shape and its making.
//!
//! The id is 10 random base62 digits and public. The secret is 32 random bytes as 43 base62 digits. The last 6 digits
//! are the CRC-32 of all before them: a key that was cut or mistyped is told without a look-up, and scanners can tell
//! a key from other text. A CRC proves nothing about who made a key. Nothing here keeps or prints a secret.

use std::fmt;

use aws_lc_rs::rand;

const PREFIX: &str = "op_";
const ID_DIGITS: usize = 10;
const SECRET_DIGITS: usize = 43;
const CRC_DIGITS: usize = 6;
const KEY_BYTES: usize = PREFIX.len() + ID_DIGITS + 1 + SECRET_DIGITS + CRC_DIGITS;

/// The public id of a credential that is meant as a key, which everything is that starts with `op_`.
///
/// None: another kind of credential, which other policies may know. Some: a key is presented, whatever its state; the
/// text is its id, or empty when what stands there has not the shape of one (then it may be a piece of a secret, and
/// is not shown). Put the answer into `presented.key-id` as it is: the `api-key` policy refuses whatever has a key id
/// and is not proven, so a mangled key is refused as one and never passes for a foreign credential.
pub fn looks_like_key(credential: &str) -> Option<&str> {
    let rest = credential.strip_prefix(PREFIX)?;
    let id = rest.split_at_checked(ID_DIGITS).filter(|(id, behind)| behind.starts_with('_') && is_id(id));
    Some(id.map_or("", |(id, _)| id))
}

/// A credential with the shape of a key and the right CRC; nothing is proven yet.
#[derive(Clone, Copy)]
pub struct ParsedKey<'a> {
    id: &'a str,
    secret: &'a str,
}

impl<'a> ParsedKey<'a> {
    /// None when it has not the shape of a key or its CRC is another. Upper and lower case differ.
    pub fn parse(credential: &'a str) -> Option<Self> {
        if credential.len() != KEY_BYTES {
            return None;
        }
        let (body, crc) = credential.split_at_checked(KEY_BYTES - CRC_DIGITS)?;
        let (id, rest) = body.strip_prefix(PREFIX)?.split_at_checked(ID_DIGITS)?;
        let secret = rest.strip_prefix('_')?;
        let shaped = is_id(id) && secret.len() == SECRET_DIGITS && is_base62(secret);
        (shaped && crc.as_bytes() == crc_digits(body)).then_some(Self { id, secret })
    }

    /// Its public part.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// What proves it. Never print it.
    pub fn secret(&self) -> &'a str {
        self.secret
    }
}

impl fmt::Debug for ParsedKey<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ParsedKey").field("id", &self.id).field("secret", &"…").finish()
    }
}

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes: try again")]
pub struct NoRandomness;

/// A key just made. Its text exists here only: show it once, store its hash.
pub struct FreshKey {
    id: String,
    secret: String,
    text: String,
}

impl FreshKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, NoRandomness> {
        Self::with_id(random_id()?)
    }

    /// Makes a new secret for the key of this id, and so another text for the same key. None when the id has not the
    /// shape of one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn renew(id: &str) -> Result<Option<Self>, NoRandomness> {
        if is_id(id) { Self::with_id(id.to_owned()).map(Some) } else { Ok(None) }
    }

    fn with_id(id: String) -> Result<Self, NoRandomness> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| NoRandomness)?;
        let secret = base62(secret);
        let body = format!("{PREFIX}{id}_{secret}");
        let crc = crc_digits(&body).map(char::from);
        let text = body.chars().chain(crc).collect();
        Ok(Self { id, secret, text })
    }

    /// Its public part.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What proves it, to be hashed with the pepper. Never print it.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole key, to be shown once to whom it is for.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for FreshKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FreshKey").field("id", &self.id).field("secret", &"…").finish()
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && is_base62(text)
}

fn is_base62(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Random digits, all equally likely: a byte that would favour the first digits is thrown away.
fn random_id() -> Result<String, NoRandomness> {
    const EVEN: u8 = u8::MAX / 62 * 62;
    let mut id = String::with_capacity(ID_DIGITS);
    while id.len() < ID_DIGITS {
        let mut random = [0; 2 * ID_DIGITS];
        rand::fill(&mut random).map_err(|_| NoRandomness)?;
        let wanted = ID_DIGITS - id.len();
        id.extend(random.into_iter().filter(|byte| *byte < EVEN).map(|byte| char::from(digit(byte % 62))).take(wanted));
    }
    Ok(id)
}

/// A 256-bit number, most significant byte first, in base62 with leading zeros: 43 digits hold it.
fn base62(mut number: [u8; 32]) -> String {
    let mut digits = [b'0'; SECRET_DIGITS];
    for place in digits.iter_mut().rev() {
        let mut remainder = 0_u16;
        for byte in &mut number {
            let value = remainder * 256 + u16::from(*byte);
            // The remainder is below 62, so the quotient fits the low byte.
            [*byte, _] = (value / 62).to_le_bytes();
            remainder = value % 62;
        }
        let [low, _] = remainder.to_le_bytes();
        *place = digit(low);
    }
    digits.map(char::from).iter().collect()
}

/// The base62 digit of a number below 62: `0-9`, `A-Z`, `a-z`.
fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        10..=35 => b'A' + (value - 10),
        _ => b'a' + (value % 62 - 36),
    }
}

/// The CRC of a text, that of IEEE 802.3 as in zlib, PNG and most scanners, as six base62 digits, which is more than 32 bits
/// need.
pub(super) fn crc_digits(text: &str) -> [u8; CRC_DIGITS] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CRC_DIGITS];
    for place in digits.iter_mut().rev() {
        let [low, ..] = (rest % 62).to_le_bytes();
        *place = digit(low);
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_crc_is_the_one_that_others_compute() {
        // The check value of this CRC, 0xCBF43926, in base 62.
        assert_eq!(crc_digits("123456789"), *b"3jZRME");
        assert_eq!(crc_digits(""), *b"000000");
    }

    #[test]
    fn base62_is_fixed_in_width_and_most_significant_first() {
        assert_eq!(base62([0; 32]), "0".repeat(43));
        let mut one = [0; 32];
        one[31] = 61;
        assert_eq!(base62(one), format!("{}z", "0".repeat(42)));
        assert_eq!(base62([255; 32]), "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1");
    }

    #[test]
    fn a_fresh_key_has_the_shape_and_parses_to_its_parts() {
        let key = FreshKey::generate().unwrap();
        let parsed = ParsedKey::parse(key.text()).unwrap();
        assert_eq!((parsed.id(), parsed.secret()), (key.id(), key.secret()));
        assert_eq!((key.text().len(), key.id().len(), key.secret().len()), (63, 10, 43));
        assert!(key.text().starts_with(&format!("op_{}_{}", key.id(), key.secret())));
        assert_eq!(looks_like_key(key.text()), Some(key.id()));
    }

    #[test]
    fn a_renewed_key_has_the_same_id_and_another_secret() {
        let key = FreshKey::generate().unwrap();
        let renewed = FreshKey::renew(key.id()).unwrap().unwrap();
        let parsed = ParsedKey::parse(renewed.text()).unwrap();
        assert_eq!((parsed.id(), parsed.secret()), (key.id(), renewed.secret()));
        assert_ne!(renewed.secret(), key.secret());
        for id in ["", "short", "012345678_", "01234567890", "012345678é"] {
            assert!(FreshKey::renew(id).unwrap().is_none(), "{id}");
        }
    }

    #[test]
    fn a_known_key_stays_readable_by_every_later_version() {
        let known = "op_0123456789_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf30cdgK";
        assert_eq!(ParsedKey::parse(known).map(|key| key.id()), Some("0123456789"));
    }

    #[test]
    fn a_key_with_any_one_character_changed_is_refused() {
        let key = FreshKey::generate().unwrap();
        for place in 0..key.text().len() {
            for other in (0..128_u8).chain([200]) {
                let mut characters: Vec<char> = key.text().chars().collect();
                if characters[place] == char::from(other) {
                    continue;
                }
                characters[place] = char::from(other);
                let changed: String = characters.into_iter().collect();
                assert!(ParsedKey::parse(&changed).is_none(), "{changed:?}");
            }
        }
    }

    #[test]
    fn a_key_cut_lengthened_or_in_another_case_is_refused() {
        let key = FreshKey::generate().unwrap();
        for cut in 0..key.text().len() {
            assert!(ParsedKey::parse(key.text().get(..cut).unwrap()).is_none());
        }
        for changed in [
            format!("{} ", key.text()),
            format!(" {}", key.text()),
            format!("{}0", key.text()),
            key.text().to_ascii_uppercase(),
            key.text().to_ascii_lowercase(),
        ] {
            assert!(ParsedKey::parse(&changed).is_none(), "{changed}");
        }
    }

    #[test]
    fn a_right_crc_does_not_make_up_for_a_wrong_shape() {
        let check = |body: &str| {
            let text: String = body.chars().chain(crc_digits(body).map(char::from)).collect();
            assert_eq!(text.len(), KEY_BYTES, "{body}");
            assert!(ParsedKey::parse(&text).is_none(), "{body}");
        };
        check(&format!("op_012345678_{}", "a".repeat(44)));
        check(&format!("op_01234567890_{}", "a".repeat(42)));
        check(&format!("op_012345678-_{}", "a".repeat(43)));
        check(&format!("op_0123456789_{}_", "a".repeat(42)));
        check(&format!("op-0123456789_{}", "a".repeat(43)));
        check(&format!("op_0123456789_{}é", "a".repeat(41)));
    }

    #[test]
    fn no_two_keys_are_alike() {
        let keys: Vec<FreshKey> = (0..1_000).map(|_| FreshKey::generate().unwrap()).collect();
        assert_eq!(keys.iter().map(FreshKey::id).collect::<HashSet<_>>().len(), 1_000);
        assert_eq!(keys.iter().map(FreshKey::secret).collect::<HashSet<_>>().len(), 1_000);
        let digits: HashSet<char> = keys.iter().flat_map(|key| key.id().chars()).collect();
        assert_eq!(digits.len(), 62, "every digit occurs in ids");
    }

    #[test]
    fn whatever_starts_with_op_is_meant_as_a_key_and_shows_nothing_but_an_id() {
        let check = |credential: &str, expected| assert_eq!(looks_like_key(credential), expected, "{credential:?}");
        check("op_0123456789_secret", Some("0123456789"));
        check("op_0123456789_", Some("0123456789"));
        check("op_0123456789", Some(""));
        check("op_", Some(""));
        check("op__x", Some(""));
        check("op_short_x", Some(""));
        check("op_012345678é_x", Some(""));
        check(&format!("op_{}", "s".repeat(49)), Some(""));
        check(&format!("op_{}_x", "s".repeat(43)), Some(""));
        check("", None);
        check("op-0123456789_x", None);
        check("OP_0123456789_x", None);
        check(" op_0123456789_x", None);
        check("sk-op_0123456789_x", None);
    }

    #[test]
    fn debug_shows_the_id_and_no_secret() {
        let key = FreshKey::generate().unwrap();
        let shown = format!("{key:?} {:?}", ParsedKey::parse(key.text()).unwrap());
        assert!(shown.contains(key.id()) && !shown.contains(key.secret()), "{shown}");
        assert!(!shown.contains(key.secret().get(..8).unwrap()), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_every_parsed_key_is_meant_as_one(text in "(op_)?\\PC{0,70}") {
            if let Some(key) = ParsedKey::parse(&text) {
                prop_assert_eq!(looks_like_key(&text), Some(key.id()));
            }
            prop_assert_eq!(looks_like_key(&text).is_some(), text.starts_with("op_"));
        }
    }
}
