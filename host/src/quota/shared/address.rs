//! Where Redis is: one server or a group watched by Sentinels, over TCP, TLS or a Unix socket.
//!
//! | URL | means |
//! |---|---|
//! | `redis://[user][:password@]host[:port][/db]` | one server |
//! | `rediss://…` | the same over TLS, certificate checked |
//! | `unix:///path[?db=N&user=U&pass=P]`, `redis+unix://…` | one server on a Unix socket |
//! | `redis+sentinel://[user][:password@]host[:port],…/NAME[/db]` | the primary that Sentinels (port 26379) name NAME |
//! | `rediss+sentinel://…` | the same, TLS to Sentinels and servers |
//!
//! Parsing connects to nothing. Passwords are never printed.

use std::fmt;

use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisResult, TlsCertificates, TlsMode};
use thiserror::Error;

const SENTINEL_PORT: u16 = 26_379;
/// Most Sentinels that one URL may name.
const MOST_SENTINELS: usize = 16;

/// Where Redis is.
#[derive(Clone)]
pub struct Address(Place);

#[derive(Clone)]
enum Place {
    Server(Client),
    Sentinels { sentinels: Vec<ConnectionInfo>, name: String, server: ConnectionInfo, tls: bool },
}

/// The URL says no place. Never repeats the URL, for it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Another kind of URL.
    #[error(
        "the URL of Redis starts with none of redis://, rediss://, unix://, redis+unix://, redis+sentinel://, rediss+sentinel://: use one of them"
    )]
    Scheme,
    /// What comes after the scheme is wrong.
    #[error("the URL of Redis can't be used ({0}): write it as redis://user:password@host:port/db")]
    Url(String),
    /// A fragment turns the check of certificates off.
    #[error("the URL of Redis has a fragment (#…): leave it out; certificates are always checked")]
    Fragment,
    /// The Sentinel form lacks the name of the group.
    #[error("the Sentinel URL names no group: write it as redis+sentinel://host:26379,host:26379/NAME")]
    NoName,
    /// Too many Sentinels.
    #[error("the Sentinel URL names {0} hosts: name at most {MOST_SENTINELS}")]
    TooManySentinels(usize),
    /// A certificate authority for a place that isn't asked by it.
    #[error("a certificate authority is for rediss:// only: remove it, or use that scheme")]
    Authority,
}

impl Address {
    /// Reads the URL. `authority`: certificates in PEM, to check the server's by instead of the system's.
    ///
    /// # Errors
    /// [`AddressError`] says what is wrong with the URL.
    pub fn parse(url: &str, authority: Option<Vec<u8>>) -> Result<Self, AddressError> {
        if url.contains('#') {
            return Err(AddressError::Fragment);
        }
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
        match (scheme, authority) {
            ("rediss", Some(authority)) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority) };
                Client::build_with_tls(url, certificates).map(Place::Server).map(Self).map_err(|error| unusable(&error))
            }
            ("redis" | "rediss" | "unix" | "redis+unix", None) => {
                Client::open(url).map(Place::Server).map(Self).map_err(|error| unusable(&error))
            }
            ("redis+sentinel", None) => sentinels(rest, false).map(Self),
            ("rediss+sentinel", None) => sentinels(rest, true).map(Self),
            ("redis" | "unix" | "redis+unix" | "redis+sentinel" | "rediss+sentinel", Some(_)) => {
                Err(AddressError::Authority)
            }
            _ => Err(AddressError::Scheme),
        }
    }

    /// The server to connect to now. Each attempt asks another Sentinel first, so that a dead one costs one attempt.
    pub(super) async fn server(&self, attempt: usize) -> RedisResult<Client> {
        match &self.0 {
            Place::Server(client) => Ok(client.clone()),
            Place::Sentinels { sentinels, name, server, tls } => {
                let mut sentinels = sentinels.clone();
                let first = attempt.checked_rem(sentinels.len()).unwrap_or_default();
                sentinels.rotate_left(first);
                let mut node = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(server.redis_settings().clone())
                    .set_tcp_settings(server.tcp_settings().clone());
                if *tls {
                    node = node.set_tls_mode(TlsMode::Secure);
                }
                let mut asked = SentinelClient::build(sentinels, name, Some(node), SentinelServerType::Master)?;
                asked.async_get_client().await
            }
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Server(client) => write!(f, "Address({})", client.get_connection_info().addr()),
            Place::Sentinels { sentinels, name, .. } => {
                let hosts: Vec<_> = sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
                write!(f, "Address({name} at Sentinels {})", hosts.join(","))
            }
        }
    }
}

/// `[user][:password@]host[:port],…/NAME[/db]`
fn sentinels(rest: &str, tls: bool) -> Result<Place, AddressError> {
    let scheme = if tls { "rediss" } else { "redis" };
    let (authority, path) = rest.split_once('/').ok_or(AddressError::NoName)?;
    let (userinfo, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    let (name, database) = path.split_once('/').unwrap_or((path, "0"));
    if name.is_empty() {
        return Err(AddressError::NoName);
    }
    let count = hosts.split(',').count();
    if count > MOST_SENTINELS {
        return Err(AddressError::TooManySentinels(count));
    }
    let connection = |url: String| url.as_str().into_connection_info().map_err(|error| unusable(&error));
    let sentinels = hosts
        .split(',')
        .map(|host| {
            let port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            connection(if port { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{SENTINEL_PORT}") })
        })
        .collect::<Result<_, _>>()?;
    let server = connection(format!("{scheme}://{userinfo}@name-by-sentinel/{database}"))?;
    Ok(Place::Sentinels { sentinels, name: name.to_owned(), server, tls })
}

/// Only what kind of error it is: its detail may repeat the URL.
fn unusable(error: &redis::RedisError) -> AddressError {
    AddressError::Url(error.category().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Result<String, AddressError> {
        Address::parse(url, None).map(|address| format!("{address:?}"))
    }

    #[test]
    fn each_form_is_read_and_no_password_is_shown() {
        for (url, expected) in [
            ("redis://127.0.0.1", "Address(127.0.0.1:6379)"),
            ("redis://user:se%40cret@redis.example:7000/3", "Address(redis.example:7000)"),
            ("rediss://:secret@redis.example", "Address(redis.example:6379)"),
            ("unix:///run/redis.sock?db=1&pass=secret", "Address(/run/redis.sock)"),
            ("redis+unix:///run/redis.sock", "Address(/run/redis.sock)"),
            ("redis+sentinel://user:secret@a,b:27000/main/2", "Address(main at Sentinels a:26379,b:27000)"),
            ("rediss+sentinel://a/main", "Address(main at Sentinels a:26379)"),
        ] {
            assert_eq!(shown(url).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn the_database_and_the_user_of_a_sentinel_url_are_those_of_the_servers() {
        let Ok(Address(Place::Sentinels { server, sentinels, .. })) =
            Address::parse("redis+sentinel://user:se%40cret@a/main/2", None)
        else {
            panic!("not a Sentinel URL");
        };
        let settings = server.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("user"), Some("se@cret"), 2));
        assert_eq!(sentinels[0].redis_settings().password(), None);
    }

    #[test]
    fn a_wrong_url_is_refused_without_repeating_it() {
        for url in [
            "",
            "secret",
            "http://secret",
            "redis://",
            "redis://h/secret",
            "rediss://secret/#insecure",
            "redis+sentinel://secret",
            "redis+sentinel://secret/",
            "redis+sentinel://,secret/main",
            "redis+sentinel://secret/main/x",
            "redis://secret:99999",
        ] {
            let error = Address::parse(url, None).expect_err(url);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let hosts = vec!["h"; 17].join(",");
        assert_eq!(shown(&format!("redis+sentinel://{hosts}/main")), Err(AddressError::TooManySentinels(17)));
        assert_eq!(Address::parse("redis://h", Some(Vec::new())).err(), Some(AddressError::Authority));
    }
}
