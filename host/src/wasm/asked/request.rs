//! `request`: the call in progress.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use wasmtime::{Error, Result};

use super::bad_argument;
use crate::{
    llm::pointer,
    policy::Hook,
    wasm::{
        bindings::asked::request::Host,
        host_state::{HostState, RuleBroken},
    },
};

/// Largest JSON text handed to a guest, in bytes.
const MAX_JSON_BYTES: usize = 64 << 10;

/// Longest beginning that is hashed.
const MAX_PREFIX_BYTES: usize = 64 << 10;

/// No policy sees these by `request.header`.
const CREDENTIALS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
];

impl Host for HostState {
    fn header(&mut self, name: String) -> Result<Option<String>> {
        let masked = Arc::clone(&self.shared.masked_headers);
        let exchange = self.exchange_in("request.header", &Hook::WITH_REQUEST)?;
        let Ok(name) = HeaderName::try_from(name) else { return Ok(None) };
        if CREDENTIALS.contains(&name) || masked.contains(&name) {
            return Ok(None);
        }
        // Some clients send their key a second time, under a name of their own.
        Ok(joined(exchange.headers(), &name).map(|text| exchange.blanked(text)))
    }

    fn json(&mut self, at: String) -> Result<Option<String>> {
        let exchange = Arc::clone(self.exchange_in("request.json", &[Hook::Admit, Hook::Route])?);
        self.count_scan(exchange.body().map_or(0, Bytes::len))?;
        let body = exchange.body().map_or(&b"null"[..], |body| body);
        let found = pointer::at(body, &at).map_err(|error| bad_argument(error.to_string()))?;
        let found = found.filter(|_| exchange.body().is_some());
        if let Some(text) = found
            && text.len() > MAX_JSON_BYTES
        {
            let text = format!("the value at '{at}' has more than {MAX_JSON_BYTES} bytes");
            return Err(Error::new(RuleBroken::Oversized(text)));
        }
        Ok(found.map(|text| exchange.blanked_json(text)))
    }

    fn peer(&mut self) -> Result<String> {
        Ok(self.exchange_in("request.peer", &Hook::WITH_REQUEST)?.peer().to_string())
    }

    fn peer_in(&mut self, network: String) -> Result<bool> {
        let peer = self.exchange_in("request.peer-in", &Hook::WITH_REQUEST)?.peer();
        let network: IpNet = network
            .parse()
            .map_err(|_| bad_argument(format!("'{network}' is no network; write one like 10.0.0.0/8")))?;
        Ok(network.contains(&peer))
    }

    fn path(&mut self) -> Result<String> {
        let exchange = self.exchange_in("request.path", &Hook::WITH_REQUEST)?;
        // A path may end with a name, which is the caller's text.
        Ok(exchange.blanked(exchange.path().to_owned()))
    }

    fn prefix_hash(&mut self, bytes: u32) -> Result<Option<u64>> {
        let exchange = Arc::clone(self.exchange_in("request.prefix-hash", &[Hook::Admit, Hook::Route])?);
        let Some(body) = exchange.body() else { return Ok(None) };
        self.count_scan(body.len())?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > MAX_PREFIX_BYTES {
            return Err(bad_argument(format!("a prefix has at most {MAX_PREFIX_BYTES} bytes, not {bytes}")));
        }
        let Some(asked) = pointer::asked(body) else { return Ok(None) };
        // It may end within a character. The hashes of growing pieces of a secret would tell it letter by letter.
        let prefix = asked.get(..bytes).filter(|_| bytes > 0 && !exchange.begins_within(asked, bytes));
        Ok(prefix.map(|prefix| {
            // A keyless digest, so that all replicas agree; one that collides at will would let callers pick a backend.
            let digest = digest::digest(&digest::SHA256, prefix);
            digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
        }))
    }
}

/// All lines of a header joined by ", ".
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut lines = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let mut text = lines.next()?.into_owned();
    for line in lines {
        text.push_str(", ");
        text.push_str(&line);
    }
    Some(text)
}
