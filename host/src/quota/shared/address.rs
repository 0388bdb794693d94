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
//! User and password of the URL are the servers'; those of the Sentinels themselves come beside it, and so does an authority
//! of one's own for TLS.
//!
//! Parsing connects to nothing. Passwords are never printed.

use std::fmt;

use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult, TlsCertificates, TlsMode};
use thiserror::Error;

const SENTINEL_PORT: u16 = 26_379;
/// Most Sentinels that one URL may name.
const MOST_SENTINELS: usize = 16;

/// Where Redis is.
#[derive(Clone)]
pub struct Address(Place);

#[derive(Clone)]
enum Place {
    Server(Box<Client>),
    Sentinels(Box<Group>),
}

/// A group of servers that Sentinels watch.
#[derive(Clone)]
struct Group {
    sentinels: Vec<ConnectionAddr>,
    name: String,
    /// How to sign in to the servers, at an address that stands for theirs.
    server: ConnectionInfo,
    login: Option<SentinelLogin>,
    tls: Option<Trust>,
}

/// By which authority certificates are checked; none: those of the system.
#[derive(Clone)]
struct Trust(Option<Vec<u8>>);

/// How to sign in to Sentinels, where they ask for that.
#[derive(Clone)]
pub struct SentinelLogin {
    /// Whom Redis 6 and later know by name; none: the default user.
    pub user: Option<String>,
    /// Never printed.
    pub password: String,
}

impl fmt::Debug for SentinelLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelLogin").field("user", &self.user).finish_non_exhaustive()
    }
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
    #[error("a certificate authority is for rediss:// and rediss+sentinel:// only: remove it, or use such a scheme")]
    Authority,
    /// A login for Sentinels where there are none.
    #[error("a login for Sentinels is for a Sentinel URL only: remove it, or write the URL as redis+sentinel://…/NAME")]
    NoSentinels,
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
                Client::build_with_tls(url, certificates).map(one).map_err(|error| unusable(&error))
            }
            ("redis" | "rediss" | "unix" | "redis+unix", None) => {
                Client::open(url).map(one).map_err(|error| unusable(&error))
            }
            ("redis+sentinel", None) => sentinels(rest, None),
            ("rediss+sentinel", authority) => sentinels(rest, Some(Trust(authority))),
            ("redis" | "unix" | "redis+unix" | "redis+sentinel", Some(_)) => Err(AddressError::Authority),
            _ => Err(AddressError::Scheme),
        }
    }

    /// The same place, for whose Sentinels one has to sign in.
    ///
    /// # Errors
    /// [`AddressError::NoSentinels`] where there are none.
    pub fn signing_in(self, login: SentinelLogin) -> Result<Self, AddressError> {
        let Place::Sentinels(mut group) = self.0 else { return Err(AddressError::NoSentinels) };
        group.login = Some(login);
        Ok(Self(Place::Sentinels(group)))
    }

    /// The server to connect to now. Each attempt asks another Sentinel first, so that a dead one costs one attempt.
    pub(super) async fn server(&self, attempt: usize) -> RedisResult<Client> {
        match &self.0 {
            Place::Server(client) => Ok(Client::clone(client)),
            Place::Sentinels(group) => group.asked_first(attempt)?.async_get_client().await,
        }
    }
}

impl Group {
    /// What asks the Sentinels, beginning with one that goes by the number of the attempt.
    fn asked_first(&self, attempt: usize) -> RedisResult<SentinelClient> {
        let mut sentinels = self.sentinels.clone();
        let first = attempt.checked_rem(sentinels.len()).unwrap_or_default();
        sentinels.rotate_left(first);
        let server = self.server.redis_settings();
        let mut asking = SentinelClientBuilder::new(sentinels, &self.name, SentinelServerType::Master)?
            .set_client_to_redis_db(server.db())
            .set_client_to_redis_tcp_settings(self.server.tcp_settings().clone());
        if let Some(user) = server.username() {
            asking = asking.set_client_to_redis_username(user);
        }
        if let Some(password) = server.password() {
            asking = asking.set_client_to_redis_password(password);
        }
        if let Some(SentinelLogin { user, password }) = &self.login {
            asking = asking.set_client_to_sentinel_password(password);
            if let Some(user) = user {
                asking = asking.set_client_to_sentinel_username(user);
            }
        }
        if let Some(Trust(authority)) = &self.tls {
            asking =
                asking.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
            if authority.is_some() {
                let certificates = || TlsCertificates { client_tls: None, root_cert: authority.clone() };
                asking = asking
                    .set_client_to_redis_certificates(certificates())
                    .set_client_to_sentinel_certificates(certificates());
            }
        }
        asking.build()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Server(client) => write!(f, "Address({})", client.get_connection_info().addr()),
            Place::Sentinels(group) => {
                let hosts: Vec<_> = group.sentinels.iter().map(ToString::to_string).collect();
                write!(f, "Address({} at Sentinels {})", group.name, hosts.join(","))
            }
        }
    }
}

fn one(server: Client) -> Address {
    Address(Place::Server(Box::new(server)))
}

/// `[user][:password@]host[:port],…/NAME[/db]`
fn sentinels(rest: &str, tls: Option<Trust>) -> Result<Address, AddressError> {
    let scheme = if tls.is_some() { "rediss" } else { "redis" };
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
            let url = if port { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{SENTINEL_PORT}") };
            connection(url).map(|sentinel| sentinel.addr().clone())
        })
        .collect::<Result<_, _>>()?;
    let server = connection(format!("{scheme}://{userinfo}@name-by-sentinel/{database}"))?;
    let group = Box::new(Group { sentinels, name: name.to_owned(), server, login: None, tls });
    // An authority that is none shows here, before anybody connects.
    group.asked_first(0).map_err(|error| unusable(&error))?;
    Ok(Address(Place::Sentinels(group)))
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
        let Ok(Address(Place::Sentinels(group))) = Address::parse("redis+sentinel://user:se%40cret@a/main/2", None)
        else {
            panic!("not a Sentinel URL");
        };
        let settings = group.server.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("user"), Some("se@cret"), 2));
        assert!(group.login.is_none());
    }

    #[test]
    fn a_login_is_for_sentinels_and_an_authority_for_tls() {
        let login = || SentinelLogin { user: Some("ann".to_owned()), password: "secret".to_owned() };
        let address = Address::parse("redis+sentinel://a/main", None).unwrap().signing_in(login()).unwrap();
        assert!(!format!("{address:?} {:?}", login()).contains("secret"));
        let server = Address::parse("redis://a", None).unwrap();
        assert_eq!(server.signing_in(login()).err(), Some(AddressError::NoSentinels));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for scheme in ["rediss://a", "rediss+sentinel://a,b/main"] {
            assert!(Address::parse(scheme, Some(made.cert.pem().into_bytes())).is_ok(), "{scheme}");
            let broken = b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n".to_vec();
            assert!(Address::parse(scheme, Some(broken)).is_err(), "{scheme}");
        }
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
