//! SipHash-1-3 under a secret key, over whole words, with a state that can be copied: names that begin alike share the
//! work of their beginnings.
//!
//! The first 64 bits are those of the standard library's hasher under the same key, which the tests compare; the 64 after
//! them come of three more rounds, as in SipHash-128. Whoever calls sees to it that no two names are the same words. The
//! state is as secret as its key, and never printed.

use std::fmt::{Debug, Formatter, Result as FmtResult};

/// The hash of what came so far.
#[derive(Clone, Copy)]
pub(super) struct Sip {
    state: [u64; 4],
    words: u64,
}

impl Debug for Sip {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.debug_struct("Sip").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Sip {
    /// Of nothing, under this key.
    pub(super) fn keyed([one, other]: [u64; 2]) -> Self {
        let state = [
            one ^ 0x736f_6d65_7073_6575,
            other ^ 0x646f_7261_6e64_6f6d,
            one ^ 0x6c79_6765_6e65_7261,
            other ^ 0x7465_6462_7974_6573,
        ];
        Self { state, words: 0 }
    }

    /// Takes in a word.
    #[inline]
    pub(super) fn word(&mut self, word: u64) {
        let [v0, v1, v2, v3] = self.state;
        let [v0, v1, v2, v3] = round([v0, v1, v2, v3 ^ word]);
        self.state = [v0 ^ word, v1, v2, v3];
        self.words = self.words.wrapping_add(1);
    }

    /// Takes in a text behind its length, so that no two texts in a row run into others.
    pub(super) fn text(&mut self, text: &str) {
        self.word(u64::try_from(text.len()).unwrap_or(u64::MAX));
        let (words, rest) = text.as_bytes().as_chunks();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            self.word(rest.iter().rev().fold(0, |word, byte| word << u8::BITS | u64::from(*byte)));
        }
    }

    /// 64 bits of all that came.
    pub(super) fn finish(self) -> u64 {
        fold(self.finished())
    }

    /// 128 bits of all that came.
    pub(super) fn finish_wide(self) -> [u64; 2] {
        let state = self.finished();
        let [v0, v1, v2, v3] = state;
        [fold(state), fold(rounds([v0, v1 ^ 0xdd, v2, v3]))]
    }

    fn finished(mut self) -> [u64; 4] {
        // What SipHash pads with: the number of bytes, modulo 256.
        self.word(self.words << 59);
        let [v0, v1, v2, v3] = self.state;
        rounds([v0, v1, v2 ^ 0xff, v3])
    }
}

fn rounds(state: [u64; 4]) -> [u64; 4] {
    round(round(round(state)))
}

#[inline]
fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v2 = v2.wrapping_add(v3);
    v1 = v1.rotate_left(13) ^ v0;
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v1);
    v0 = v0.wrapping_add(v3);
    v1 = v1.rotate_left(17) ^ v2;
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

fn fold([v0, v1, v2, v3]: [u64; 4]) -> u64 {
    v0 ^ v1 ^ v2 ^ v3
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use proptest::{prelude::any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        /// The library's own has a key of zeros.
        #[test]
        fn words_hash_as_the_standard_library_hashes_them(words: Vec<u64>) {
            let (mut ours, mut theirs) = (Sip::keyed([0, 0]), DefaultHasher::new());
            for word in words {
                ours.word(word);
                theirs.write(&word.to_le_bytes());
            }
            prop_assert_eq!(ours.finish(), theirs.finish());
            prop_assert_eq!(ours.finish_wide()[0], theirs.finish());
        }

        #[test]
        fn other_texts_and_other_keys_make_other_hashes(one: String, other: String, key in any::<[u64; 2]>()) {
            let of = |key, texts: &[&str]| {
                let mut hash = Sip::keyed(key);
                texts.iter().for_each(|text| hash.text(text));
                hash.finish_wide()
            };
            prop_assert_eq!(of(key, &[&one]) == of(key, &[&other]), one == other);
            assert_ne!(of(key, &[&one, &other]), of(key, &[&format!("{one}{other}")]));
            assert_ne!(of(key, &[&one]), of([key[0], !key[1]], &[&one]));
            assert_ne!(of(key, &[&one]), of([!key[0], key[1]], &[&one]));
            let [first, second] = of(key, &[&one]);
            assert_ne!(first, second);
        }
    }
}
