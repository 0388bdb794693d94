//! `[redis]`: where limits are shared among gates, and what holds while they can't be.
//!
//! Looks at texts only. Whether the URL leads anywhere shows when the gate starts. It may hold a password, which is never
//! printed.

use std::fmt::{Debug, Display, Formatter, Result as FmtResult};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;

use super::error::Complaint;
use super::reader::Section;
use super::values::{self, Checked};

/// Schemes of the URL; the second of each pair tells whether it is TLS to one server, for which an authority can be named.
const SCHEMES: [(&str, bool); 6] = [
    ("redis", false),
    ("rediss", true),
    ("unix", false),
    ("redis+unix", false),
    ("redis+sentinel", false),
    ("rediss+sentinel", false),
];
const MODES: &[(&str, RedisMode)] =
    &[("local-share", RedisMode::LocalShare), ("open", RedisMode::Open), ("closed", RedisMode::Closed)];
const REPLICAS_MAX: u64 = 10_000;
const TAG_LENGTH_MAX: usize = 64;

/// A Redis through which gates share their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where it is: `redis://`, `rediss://` (TLS), `unix://`, or `redis+sentinel://HOST,HOST/NAME`. Required.
    pub url: RedisUrl,
    /// What holds while it can't be asked. Default `local-share`.
    pub mode: RedisMode,
    /// Among how many gates the limits are shared while it can't be asked, 1 to 10,000. Default: as many as were there when
    /// last counted.
    pub replicas: Option<NonZeroU32>,
    /// Most time that a call waits for it, `1ms` to `10s`. Default `25ms`.
    pub deadline: Duration,
    /// Gates with the same tag share their limits: 1 to 64 letters, digits, `-`, `_` and `.`. Default `limits`.
    pub tag: String,
    /// PEM file with the authority that certifies a `rediss://` server. Default: those of the public web.
    pub ca: Option<PathBuf>,
}

/// What holds while Redis can't be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisMode {
    /// `local-share`: each gate holds its share of every limit by itself.
    #[default]
    LocalShare,
    /// `open`: no limit.
    Open,
    /// `closed`: calls with limits are refused.
    Closed,
}

impl RedisMode {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LocalShare => "local-share",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// The URL of a Redis; printed without what may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// As it was written, with user and password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Display for RedisUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let rest = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
        write!(f, "{scheme}://{rest}")
    }
}

impl Debug for RedisUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        write!(f, "RedisUrl({self})")
    }
}

pub(super) fn redis(keys: &mut Section<'_>) -> Option<Redis> {
    let url = keys.required("url", url);
    let mode = keys.or("mode", RedisMode::default(), values::choice(MODES));
    let replicas = keys.optional("replicas", |value| {
        NonZeroU32::new(values::whole(1..=REPLICAS_MAX)(value)?).ok_or_else(|| Complaint::new("may not be 0"))
    });
    let deadlines = Duration::from_millis(1)..=Duration::from_secs(10);
    let deadline = keys.or("deadline", Duration::from_millis(25), values::duration(deadlines));
    let tag = keys.or("tag", "limits".to_owned(), tag);
    let ca = keys.optional("ca", values::path).map(|path| keys.resolve("ca", &path));
    let takes_ca = |url: &RedisUrl| SCHEMES.iter().any(|(scheme, takes)| *takes && is_of(&url.0, scheme));
    if ca.is_some() && url.as_ref().is_some_and(|url| !takes_ca(url)) {
        let complaint = Complaint::new("is for a rediss:// URL: no other has a certificate that is checked by it");
        keys.complain("ca", complaint.with_hint("leave it out, or use TLS"));
    }
    Some(Redis { url: url?, mode, replicas, deadline, tag, ca })
}

fn url(value: &Value) -> Checked<RedisUrl> {
    let text = values::text(value)?;
    if SCHEMES.iter().any(|(scheme, _)| is_of(&text, scheme)) {
        return Ok(RedisUrl(text));
    }
    let complaint = Complaint::new("not the URL of a Redis");
    Err(complaint
        .with_hint("write it like \"redis://127.0.0.1:6379/0\" or \"redis+sentinel://10.0.0.1,10.0.0.2/main\""))
}

fn is_of(url: &str, scheme: &str) -> bool {
    url.strip_prefix(scheme).is_some_and(|rest| rest.starts_with("://"))
}

fn tag(value: &Value) -> Checked<String> {
    let tag = values::text(value)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if tag.len() <= TAG_LENGTH_MAX && tag.bytes().all(is_plain) {
        return Ok(tag);
    }
    Err(Complaint::new(format!("must be 1 to {TAG_LENGTH_MAX} letters, digits, hyphens, underscores and dots")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_printed_without_its_secrets() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("rediss://user:se@cret@redis.example/3", "rediss://redis.example/3"),
            ("unix:///run/redis.sock?db=1&pass=secret", "unix:///run/redis.sock"),
            ("redis+sentinel://:secret@a,b:27000/main", "redis+sentinel://a,b:27000/main"),
        ] {
            let url = RedisUrl(url.to_owned());
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), format!("RedisUrl({shown})")));
        }
    }
}
