//! From a backend's name to addresses that may be connected to.
//!
//! Addresses that stand in the configuration are checked there. What a name leads to is known only when it is asked, and
//! may be another thing each time: so it is checked here, each time, for calls and for probes alike.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns;
use reqwest::dns::{Addrs, Resolving};
use tower_service::Service;

use crate::config::is_link_local;

/// A promise of the addresses of a name; their ports mean nothing.
pub type LookingUp = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Who is asked for the addresses of a name.
type Lookup = Arc<dyn Fn(String) -> LookingUp + Send + Sync>;

/// Resolves names of backends.
#[derive(Clone)]
pub struct Resolver {
    lookup: Lookup,
    allows_link_local: bool,
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It can't be resolved.
    #[error("the name can't be resolved")]
    Lookup(#[source] io::Error),
    /// It leads to where clouds serve machine credentials, and nowhere else.
    #[error(
        "the name leads to link-local or instance-metadata addresses only, which are refused: set \
         upstream.allow_link_local = true if this is meant"
    )]
    LinkLocal,
}

impl Resolver {
    /// Asks the system.
    pub fn system(allows_link_local: bool) -> Self {
        Self::asking(allows_link_local, |host| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
        })
    }

    /// Asks `lookup`.
    pub fn asking(allows_link_local: bool, lookup: impl Fn(String) -> LookingUp + Send + Sync + 'static) -> Self {
        Self { lookup: Arc::new(lookup), allows_link_local }
    }

    async fn resolve(self, host: String) -> Result<vec::IntoIter<SocketAddr>, ResolveError> {
        let mut addresses = (self.lookup)(host).await.map_err(ResolveError::Lookup)?;
        if !self.allows_link_local {
            let had_some = !addresses.is_empty();
            addresses.retain(|address| !is_link_local(address.ip()));
            if had_some && addresses.is_empty() {
                return Err(ResolveError::LinkLocal);
            }
        }
        Ok(addresses.into_iter())
    }
}

/// For calls.
impl Service<dns::Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ResolveError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        Box::pin(self.clone().resolve(name.as_str().to_owned()))
    }
}

/// For probes and lists.
impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let resolving = Self::resolve(self.clone(), name.as_str().to_owned());
        Box::pin(async move { Ok(Box::new(resolving.await?) as Addrs) })
    }
}

impl Debug for Resolver {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.debug_struct("Resolver").field("allows_link_local", &self.allows_link_local).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(addresses: &[&str], allows_link_local: bool, expected: Option<&[&str]>) {
        let parse = |addresses: &[&str]| -> Vec<SocketAddr> {
            addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect()
        };
        let found = parse(addresses);
        let resolver = Resolver::asking(allows_link_local, move |_| Box::pin(std::future::ready(Ok(found.clone()))));
        let resolved = resolver.resolve("gpu-1.example".to_owned()).await.map(Iterator::collect::<Vec<_>>).ok();
        assert_eq!(resolved, expected.map(parse), "{addresses:?}");
    }

    #[tokio::test]
    async fn names_do_not_lead_to_where_credentials_of_machines_are_served() {
        for address in ["169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254"] {
            check(&[address], false, None).await;
            check(&[address], true, Some(&[address])).await;
            check(&[address, "10.0.0.1"], false, Some(&["10.0.0.1"])).await;
        }
        check(&["127.0.0.1", "fd00::1"], false, Some(&["127.0.0.1", "fd00::1"])).await;
        check(&[], false, Some(&[])).await;
    }
}
