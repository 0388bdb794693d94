//! The address of a backend: scheme, authority and path prefix, and nothing else.
//!
//! A `BackendUrl` holds no secret and can be printed. Two spellings of one address compare equal: the host is lower
//! case, an IP address is in its usual form, and the scheme's own port is left out. What a *name* resolves to is not
//! known here: it is looked at with each connection, by the rule that stands here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::{Authority, Scheme};

/// Longest URL that is read, in bytes.
const LENGTH_MAX: usize = 2048;
/// Longest host name that DNS can carry, in bytes.
const HOST_LENGTH_MAX: usize = 253;

/// Where a backend listens; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendUrl {
    scheme: Scheme,
    authority: Authority,
    prefix: String,
}

/// Why a text is not the URL of a backend. The text itself is not repeated, for it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendUrlError {
    /// It doesn't parse, or is longer than 2048 bytes.
    #[error("not a URL")]
    Syntax,
    /// Any scheme but http and https, or none.
    #[error("a backend is reached by http or https only")]
    Scheme,
    /// A user name or a password before the host.
    #[error("may not hold a user name or a password")]
    UserInfo,
    /// A `?`.
    #[error("may not have a query")]
    Query,
    /// A `#`.
    #[error("may not have a fragment")]
    Fragment,
    /// An empty host, or one that is neither a DNS name nor an IP address in its usual form.
    #[error("the host is neither a name nor an IP address")]
    Host,
    /// A port that isn't between 1 and 65535.
    #[error("the port is not between 1 and 65535")]
    Port,
    /// A path with an empty segment, a dot segment or an escape.
    #[error("the path may not have empty segments, dot segments or percent escapes")]
    Path,
    /// An address at which clouds serve machine credentials.
    #[error("link-local and instance-metadata addresses are refused")]
    LinkLocal,
}

impl BackendUrl {
    /// Reads `text`; link-local and instance-metadata addresses pass only with `allow_link_local`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str, allow_link_local: bool) -> Result<Self, BackendUrlError> {
        // `http::Uri` drops a fragment without a word, so it is looked for in the text.
        if text.contains('#') {
            return Err(BackendUrlError::Fragment);
        }
        if text.len() > LENGTH_MAX {
            return Err(BackendUrlError::Syntax);
        }
        let parts = text.parse::<Uri>().map_err(|_| BackendUrlError::Syntax)?.into_parts();
        let (Some(scheme), Some(written)) = (parts.scheme, parts.authority) else {
            return Err(BackendUrlError::Scheme);
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(BackendUrlError::Scheme);
        }
        let target = parts.path_and_query;
        if target.as_ref().is_some_and(|target| target.query().is_some()) {
            return Err(BackendUrlError::Query);
        }
        let authority = checked_authority(&scheme, &written, allow_link_local)?;
        let prefix = checked_prefix(target.as_ref().map_or("", |target| target.path()))?;
        Ok(Self { scheme, authority, prefix })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Host, and the port where it isn't the scheme's own: the `Host` header of requests to this backend.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What stands before every path: empty, or a path that begins with a slash and doesn't end with one.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

/// Is `address` link-local (169.254.0.0/16, fe80::/10), or AWS's instance metadata (fd00:ec2::254), also as IPv4 mapped
/// or translated (64:ff9b::/96) into IPv6? These are where clouds hand out a machine's credentials.
pub fn is_link_local(address: IpAddr) -> bool {
    const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            // The upper half of the embedded IPv4 address decides: 169.254 is 0xa9fe.
            let is_translated = matches!(address.segments(), [0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, _]);
            is_translated || address.is_unicast_link_local() || address == AWS_METADATA
        }
    }
}

fn checked_authority(
    scheme: &Scheme,
    written: &Authority,
    allow_link_local: bool,
) -> Result<Authority, BackendUrlError> {
    if written.as_str().contains('@') {
        return Err(BackendUrlError::UserInfo);
    }
    let (host, address) = checked_host(written.host())?;
    if !allow_link_local && address.is_some_and(is_link_local) {
        return Err(BackendUrlError::LinkLocal);
    }
    let after_host = written.as_str().strip_prefix(written.host()).ok_or(BackendUrlError::Host)?;
    let port = match after_host.strip_prefix(':') {
        Some(digits) => Some(checked_port(digits)?),
        None if after_host.is_empty() => None,
        None => return Err(BackendUrlError::Host),
    };
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let text = match port {
        Some(port) if port != usual => format!("{host}:{port}"),
        _ => host,
    };
    Authority::try_from(text).map_err(|_| BackendUrlError::Host)
}

fn checked_port(digits: &str) -> Result<u16, BackendUrlError> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BackendUrlError::Port);
    }
    digits.parse().ok().filter(|port| *port != 0).ok_or(BackendUrlError::Port)
}

/// The host in its usual form, and its address when it is one.
fn checked_host(written: &str) -> Result<(String, Option<IpAddr>), BackendUrlError> {
    if let Some(inside) = written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = inside.parse().map_err(|_| BackendUrlError::Host)?;
        return Ok((format!("[{address}]"), Some(address.into())));
    }
    let host = written.to_ascii_lowercase();
    let name = host.strip_suffix('.').unwrap_or(&host);
    if name.len() > HOST_LENGTH_MAX || !name.split('.').all(is_label) {
        return Err(BackendUrlError::Host);
    }
    // Resolvers read `2852039166`, `0xa9fea9fe` and `169.254.43518` as IPv4 addresses too. No DNS name ends in a
    // number, so whatever does has to be the plain dotted form, or it would slip past the link-local check.
    if name.rsplit('.').next().is_some_and(is_number) {
        let address: Ipv4Addr = name.parse().map_err(|_| BackendUrlError::Host)?;
        return Ok((address.to_string(), Some(address.into())));
    }
    Ok((host, None))
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_number(label: &str) -> bool {
    label.starts_with("0x") || label.bytes().all(|byte| byte.is_ascii_digit())
}

fn checked_prefix(path: &str) -> Result<String, BackendUrlError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let Some(segments) = path.strip_prefix('/') else {
        return if path.is_empty() { Ok(String::new()) } else { Err(BackendUrlError::Path) };
    };
    if segments.split('/').all(is_segment) { Ok(path.to_owned()) } else { Err(BackendUrlError::Path) }
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::proptest;

    use super::*;

    fn check(text: &str, expected: Result<&str, BackendUrlError>) {
        let read = BackendUrl::parse(text, false).map(|url| url.to_string());
        assert_eq!(read, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn a_url_is_kept_in_its_usual_form() {
        check("http://127.0.0.1:11434", Ok("http://127.0.0.1:11434"));
        check("HTTP://GPU-1.Example:80/", Ok("http://gpu-1.example"));
        check("https://llm.example:443/v1/", Ok("https://llm.example/v1"));
        check("https://llm.example:80/a/b", Ok("https://llm.example:80/a/b"));
        check("http://[0:0::1]:11434", Ok("http://[::1]:11434"));
        check("http://ollama_1:11434", Ok("http://ollama_1:11434"));
        check("http://ollama.svc.cluster.local.", Ok("http://ollama.svc.cluster.local."));
    }

    #[test]
    fn the_parts_are_what_a_request_needs() {
        let url = BackendUrl::parse("https://llm.example:8443/openai/", false).unwrap();
        assert_eq!((url.scheme().as_str(), url.authority().as_str()), ("https", "llm.example:8443"));
        assert_eq!(url.prefix(), "/openai");
        assert_eq!(BackendUrl::parse("http://h/", false).unwrap().prefix(), "");
    }

    #[test]
    fn anything_but_scheme_host_port_and_path_is_refused() {
        check("", Err(BackendUrlError::Syntax));
        check("gpu-1:11434", Err(BackendUrlError::Scheme));
        check("/only/a/path", Err(BackendUrlError::Scheme));
        check("ftp://h", Err(BackendUrlError::Scheme));
        check("unix:/run/ollama.sock", Err(BackendUrlError::Syntax));
        check("http://user:secret@h", Err(BackendUrlError::UserInfo));
        check("http://h/?key=secret", Err(BackendUrlError::Query));
        check("http://h/#top", Err(BackendUrlError::Fragment));
        check("http://h h", Err(BackendUrlError::Syntax));
        check(&format!("http://h/{}", "a".repeat(LENGTH_MAX)), Err(BackendUrlError::Syntax));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port_is_a_port() {
        for text in ["http://:80", "http://a..b", "http://.", "http://a%41", "http://[fe80::1%25eth0]", "http://1.2.3"]
        {
            let read = BackendUrl::parse(text, true);
            assert!(matches!(read, Err(BackendUrlError::Host | BackendUrlError::Syntax)), "{text}: {read:?}");
        }
        for text in ["http://h:", "http://h:0", "http://h:65536", "http://h:+80", "http://[::1]:x"] {
            let read = BackendUrl::parse(text, true);
            assert!(matches!(read, Err(BackendUrlError::Port | BackendUrlError::Syntax)), "{text}: {read:?}");
        }
    }

    #[test]
    fn a_prefix_has_plain_segments_only() {
        for text in
            ["http://h//", "http://h/a//b", "http://h/../a", "http://h/a/.", "http://h/%2e%2e", "http://h/a%2Fb"]
        {
            check(text, Err(BackendUrlError::Path));
        }
    }

    #[test]
    fn the_addresses_of_machine_credentials_are_refused_however_they_are_written() {
        for host in [
            "169.254.169.254",
            "169.254.169.254.",
            "169.254.0.1:11434",
            "[fe80::1]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
        ] {
            check(&format!("http://{host}/"), Err(BackendUrlError::LinkLocal));
            assert!(BackendUrl::parse(&format!("http://{host}/"), true).is_ok(), "{host} may be allowed");
        }
        for host in ["2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe"] {
            check(&format!("http://{host}/"), Err(BackendUrlError::Host));
        }
        check("http://169.253.255.255", Ok("http://169.253.255.255"));
        check("http://[fd00:ec2::255]", Ok("http://[fd00:ec2::255]"));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_as_the_same_url(text in "https?://[a-zA-Z0-9.:\\[\\]_-]{1,20}(/[a-z.%/]{0,8})?") {
            if let Ok(url) = BackendUrl::parse(&text, true) {
                assert_eq!(BackendUrl::parse(&url.to_string(), true), Ok(url));
            }
        }
    }
}
