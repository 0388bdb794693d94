//! The name of a blob, as backends take it in a path: a hash and nothing else, so that it can't lead anywhere.
//!
//! Ollama takes other spellings as well; a gate that compares and logs names has one.

use std::fmt;

use thiserror::Error;

const PREFIX: &str = "sha256:";
const HEX_DIGITS: usize = 64;

/// A SHA-256 in lower case, with `sha256:` before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest(Box<str>);

/// The text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("what stands behind /api/blobs/ is no digest: write sha256: and 64 hexadecimal digits in lower case")]
pub struct DigestError;

impl Digest {
    /// Reads a digest.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let digits = text.strip_prefix(PREFIX).ok_or(DigestError)?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() == HEX_DIGITS && digits.bytes().all(is_hex) { Ok(Self(text.into())) } else { Err(DigestError) }
    }

    /// The whole of it, prefix included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sha256_and_64_hexadecimal_digits_in_lower_case() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(Digest::parse(&good).unwrap().as_str(), good);
        let a_digit_less = "0a".repeat(31) + "0";
        for bad in [
            String::new(),
            "sha256:".to_owned(),
            "0a".repeat(32),
            format!("sha256:{a_digit_less}"),
            format!("sha256:{a_digit_less}g"),
            format!("sha256:{a_digit_less}A"),
            format!("sha256:{a_digit_less}/"),
            format!("sha256:{a_digit_less}a0"),
            format!("sha256-{}", "0a".repeat(32)),
            format!("SHA256:{}", "0a".repeat(32)),
            format!(" {good}"),
            format!("{good}\n"),
        ] {
            assert_eq!(Digest::parse(&bad), Err(DigestError), "{bad:?}");
        }
    }
}
