//! A limit's name as it is shown: copied with each standing, and mostly short, so that it takes no memory of its own.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    ops::Deref,
};

/// Longest text that lies within the label, in bytes.
const WITHIN: usize = 30;

/// A text that may be shown.
#[derive(Clone)]
pub struct Label(Text);

#[derive(Clone)]
enum Text {
    Short { length: u8, bytes: [u8; WITHIN] },
    Long(Box<str>),
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        let mut bytes = [0; WITHIN];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(text.as_bytes());
                Self(Text::Short { length, bytes })
            }
            _ => Self(Text::Long(text.into())),
        }
    }
}

impl Deref for Label {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Text::Long(text) => text,
            Text::Short { length, bytes } => {
                let bytes = bytes.get(..usize::from(*length)).and_then(|bytes| str::from_utf8(bytes).ok());
                bytes.expect("a label was made of a text that fits")
            }
        }
    }
}

impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Label {}

impl Debug for Label {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_what_it_was_made_of_however_long() {
        for length in [0, 1, 28, 29, 30, 31, 32, 300] {
            for text in ["x".repeat(length), "ü".repeat(length / 2)] {
                assert_eq!(&*Label::from(&*text), &*text);
            }
        }
        assert!(Label::from("a") != Label::from("b"), "labels differ as their texts do");
        assert_eq!(format!("{:?}", Label::from("a\"")), "\"a\\\"\"");
    }

    #[test]
    fn a_label_is_no_larger_than_four_words() {
        assert_eq!(size_of::<Label>(), 32);
    }
}
