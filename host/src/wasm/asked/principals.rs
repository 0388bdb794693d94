//! `principals`: what the store says about who calls.

use wasmtime::Result;

use super::bad_argument;
use crate::wasm::{
    bindings::asked::principals::{Holder, Host},
    host_state::HostState,
};

impl Host for HostState {
    fn limit(&mut self, holder: Holder, name: String, model: Option<String>) -> Result<Option<u64>> {
        let default = self.shared.default_requests_per_minute;
        let caller = self.caller_in("principals.limit")?;
        match name.as_str() {
            "requests-per-minute" => {}
            // Nobody can set these yet.
            "tokens-per-minute" | "concurrent" | "tokens-per-day" | "tokens-per-month" => return Ok(None),
            _ => return Err(bad_argument(format!("there is no limit '{name}'"))),
        }
        Ok(match (holder, &caller.key, model) {
            (Holder::Key, Some(key), None) => Some(key.requests_per_minute.unwrap_or(default)),
            // Users and models have no limits of their own yet, and a caller without a key has no stored ones.
            (Holder::Key | Holder::User, _, _) => None,
        })
    }

    fn attribute(&mut self, name: String) -> Result<Vec<String>> {
        let caller = self.caller_in("principals.attribute")?;
        let values = caller.key.as_ref().map_or(&[][..], |key| key.attribute(&name));
        Ok(values.iter().map(ToString::to_string).collect())
    }
}
