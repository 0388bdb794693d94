//! Where a text stands in JSON, however it is spelled there: `o` and `\u006f` are one letter.
//!
//! The JSON may be cut off or wrong: then what can't be decoded stands for itself.

use std::ops::Range;

use memchr::{memchr, memmem};

/// The longest that JSON makes of one byte of UTF-8, in bytes.
pub const LONGEST_SPELLING: usize = 6;

/// All places of `json` where `text` stands, in order; none overlaps another. Empty text stands nowhere.
pub fn places(json: &[u8], text: &[u8]) -> Vec<Range<usize>> {
    if text.is_empty() {
        return Vec::new();
    }
    if memchr(b'\\', json).is_none() {
        return memmem::find_iter(json, text).map(|at| at..at + text.len()).collect();
    }
    let Decoded { bytes, starts } = Decoded::of(json);
    let place = |at: usize| Some(*starts.get(at)?..*starts.get(at + text.len())?);
    memmem::find_iter(&bytes, text).filter_map(place).collect()
}

/// JSON text with its escapes decoded.
struct Decoded {
    bytes: Vec<u8>,
    /// Where each of the bytes begins in the JSON, and where that ends.
    starts: Vec<usize>,
}

impl Decoded {
    fn of(json: &[u8]) -> Self {
        let (mut bytes, mut starts) = (Vec::with_capacity(json.len()), Vec::with_capacity(json.len() + 1));
        let mut rest = json;
        while let Some((byte, behind)) = rest.split_first() {
            let at = json.len() - rest.len();
            rest = match escape(rest) {
                Some((character, behind)) => {
                    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    behind
                }
                None => {
                    bytes.push(*byte);
                    behind
                }
            };
            starts.resize(bytes.len(), at);
        }
        starts.push(json.len());
        Self { bytes, starts }
    }
}

/// The character that an escape at the beginning stands for, and what follows it.
fn escape(json: &[u8]) -> Option<(char, &[u8])> {
    let (character, rest) = match json {
        [b'\\', b'u', rest @ ..] => {
            let (unit, rest) = unit(rest)?;
            return match (char::from_u32(unit), rest) {
                (Some(character), rest) => Some((character, rest)),
                (None, [b'\\', b'u', low @ ..]) => {
                    let (low, rest) = self::unit(low)?;
                    let pair = char::decode_utf16([u16::try_from(unit).ok()?, u16::try_from(low).ok()?]).next()?;
                    Some((pair.ok()?, rest))
                }
                (None, _) => None,
            };
        }
        [b'\\', plain @ (b'"' | b'\\' | b'/'), rest @ ..] => (char::from(*plain), rest),
        [b'\\', b'b', rest @ ..] => ('\u{8}', rest),
        [b'\\', b'f', rest @ ..] => ('\u{c}', rest),
        [b'\\', b'n', rest @ ..] => ('\n', rest),
        [b'\\', b'r', rest @ ..] => ('\r', rest),
        [b'\\', b't', rest @ ..] => ('\t', rest),
        _ => return None,
    };
    Some((character, rest))
}

fn unit(json: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = json.split_at_checked(4)?;
    let digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
    let unit = digits.into_iter().try_fold(0, |unit, digit| Some(unit * 16 + digit?))?;
    Some((unit, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_found_in_every_spelling() {
        let check = |json: &str, text: &str, expected: &[&str]| {
            let places = places(json.as_bytes(), text.as_bytes());
            let found: Vec<&str> = places.into_iter().map(|at| json.get(at).unwrap()).collect();
            assert_eq!(found, expected, "{text} in {json}");
        };
        check(r#""a op_1 b op_1""#, "op_1", &["op_1", "op_1"]);
        check(r#""\u006fp_1 \u006Fp\u005f1 op_1""#, "op_1", &[r"\u006fp_1", r"\u006Fp\u005f1", "op_1"]);
        check(r#""\n\\\"op\/1""#, "op/1", &[r"op\/1"]);
        check(r#""\\u006fp_1""#, "op_1", &[]);
        check(r#""\ud83d\ude00x😀x""#, "😀x", &[r"\ud83d\ude00x", "😀x"]);
        check(r#""\ud83d op_1 \ude00\u12""#, "op_1", &["op_1"]);
        check(r#""\u006fp_"#, "op_1", &[]);
        check("\\", "op_1", &[]);
        check(r"aaaa\u0061", "aa", &["aa", "aa"]);
        check(r"\n", "", &[]);
    }

    proptest! {
        #[test]
        fn however_each_character_is_spelled_it_is_found_once(spelled in "[a-z/_]{1,20}", escaped in any::<u32>()) {
            let secret = format!("0{spelled}");
            let mut json = String::from("\"\\t");
            for (place, character) in secret.chars().enumerate() {
                if escaped >> place & 1 == 1 {
                    json.push_str(&format!("\\u{:04x}", u32::from(character)));
                } else {
                    json.push(character);
                }
            }
            let end = json.len();
            json.push('"');
            prop_assert_eq!(places(json.as_bytes(), secret.as_bytes()), vec![3..end]);
            prop_assert!(end - 3 <= secret.len() * LONGEST_SPELLING);
        }

        #[test]
        fn nothing_makes_it_panic(json in any::<Vec<u8>>(), text in any::<Vec<u8>>()) {
            for place in places(&json, &text) {
                prop_assert!(json.get(place).is_some());
            }
        }
    }
}
