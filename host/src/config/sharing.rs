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

/// Schemes of the URL; the second of each pair tells whether it is TLS, for which an authority can be named.
const SCHEMES: [(&str, bool); 6] = [
    ("redis", false),
    ("rediss", true),
    ("unix", false),
    ("redis+unix", false),
    ("redis+sentinel", false),
    ("rediss+sentinel", true),
];
const SENTINEL_SCHEMES: [&str; 2] = ["redis+sentinel", "rediss+sentinel"];
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
    /// As whom one signs in to Sentinels. Default: their default user. User and password in the URL are for the servers.
    pub sentinel_username: Option<String>,
    /// The password of Sentinels. Default: none is sent.
    pub sentinel_password: Option<SentinelPassword>,
    /// PEM file with the authority that certifies a `rediss://` server, or the Sentinels and servers of `rediss+sentinel://`. Default: those of the public web.
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

/// A password; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SentinelPassword(String);

impl SentinelPassword {
    /// As it was written.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Debug for SentinelPassword {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str("SentinelPassword(…)")
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
        let complaint = Complaint::new("is for TLS: no other URL leads to a certificate that is checked by it");
        keys.complain("ca", complaint.with_hint("leave it out, or use rediss:// or rediss+sentinel://"));
    }
    let (sentinel_username, sentinel_password) = sentinel_login(keys, url.as_ref());
    Some(Redis { url: url?, mode, replicas, deadline, tag, sentinel_username, sentinel_password, ca })
}

/// Who signs in to Sentinels, and by what.
fn sentinel_login(keys: &mut Section<'_>, url: Option<&RedisUrl>) -> (Option<String>, Option<SentinelPassword>) {
    let user = keys.optional("sentinel_username", values::text);
    let password = keys.optional("sentinel_password", |value| values::text(value).map(SentinelPassword));
    let set = [("sentinel_username", user.is_some()), ("sentinel_password", password.is_some())];
    let has_sentinels = |url: &RedisUrl| SENTINEL_SCHEMES.iter().any(|scheme| is_of(&url.0, scheme));
    if let (Some(url), Some((key, _))) = (url, set.iter().find(|(_, is_set)| *is_set))
        && !has_sentinels(url)
    {
        let complaint = Complaint::new("is for Sentinels, and this URL names none");
        keys.complain(key, complaint.with_hint("leave it out; user and password of a server stand in its URL"));
    } else if user.is_some() && password.is_none() {
        keys.complain("sentinel_username", Complaint::new("needs redis.sentinel_password beside it"));
    }
    (user, password)
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
    use super::super::{Config, Sources};
    use super::*;

    /// The section with these lines in it; the problems, one on each line, if there are any.
    fn read(lines: &[&str]) -> Result<Redis, String> {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("[redis]\n{}\n", lines.join("\n"));
        std::fs::write(folder.path().join("tollgate.toml"), text).unwrap();
        let sources = Sources { directory: folder.path().to_owned(), ..Sources::default() };
        let config = Config::load(&sources).map_err(|problems| problems.to_string())?;
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        Ok(config.redis.unwrap())
    }

    #[test]
    fn a_url_is_enough() {
        let redis = read(&["url = \"redis://gate:hunter2@127.0.0.1:6379/0\""]).unwrap();
        assert_eq!((redis.mode, redis.replicas, redis.tag.as_str()), (RedisMode::LocalShare, None, "limits"));
        assert_eq!((redis.deadline, redis.sentinel_password, redis.ca), (Duration::from_millis(25), None, None));
        let sentinels = "url = \"rediss+sentinel://:hunter2@a,b/main\"";
        let login = ["sentinel_username = \"ann\"", "sentinel_password = \"hunter2\"", "ca = \"ca.pem\""];
        let redis = read(&[&[sentinels][..], &login].concat()).unwrap();
        assert_eq!(redis.sentinel_password.unwrap().expose(), "hunter2");
        assert!(redis.sentinel_username.as_deref() == Some("ann") && redis.ca.is_some());
    }

    #[test]
    fn what_cannot_be_meant_is_one_problem_that_says_what_to_do_and_prints_no_secret() {
        const URL: &str = "url = \"redis://gate:hunter2@h\"";
        const SENTINELS: &str = "url = \"redis+sentinel://h/main\"";
        for (lines, expected) in [
            (&["mode = \"open\""][..], "redis.url"),
            (&["url = \"http://gate:hunter2@h\""], "write it like \"redis://127.0.0.1:6379/0\""),
            (&["url = \"hunter2\""], "not the URL of a Redis"),
            (&["url = 6379"], "redis.url"),
            (&[URL, "mode = \"local-shar\""], "did you mean \"local-share\"?"),
            (&[URL, "mode = \"anything\""], "must be one of \"local-share\", \"open\", \"closed\""),
            (&[URL, "replicas = 0"], "redis.replicas"),
            (&[URL, "replicas = -1"], "redis.replicas"),
            (&[URL, "replicas = 1.5"], "a fraction"),
            (&[URL, "replicas = 10001"], "redis.replicas"),
            (&[URL, "deadline = \"0s\""], "choose from 1ms to 10s"),
            (&[URL, "deadline = \"11s\""], "choose from 1ms to 10s"),
            (&[URL, "deadline = 25"], "with its unit"),
            (&[URL, "tag = \"a}b\""], "must be 1 to 64 letters"),
            (&[URL, "ca = \"ca.pem\""], "leave it out, or use rediss://"),
            (&[SENTINELS, "ca = \"ca.pem\""], "leave it out, or use rediss://"),
            (&[URL, "sentinel_password = \"hunter2\""], "is for Sentinels"),
            (&[SENTINELS, "sentinel_username = \"ann\""], "needs redis.sentinel_password"),
            (&[URL, "modes = \"open\""], "did you mean `mode`?"),
        ] {
            let problems = read(lines).expect_err(expected);
            assert!(problems.contains(expected) && !problems.contains("hunter2"), "{lines:?}: {problems}");
            assert!(problems.contains("1 problem"), "{problems}");
        }
    }

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
