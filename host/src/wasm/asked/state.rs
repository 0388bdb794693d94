//! `state`: small values that a policy's instances share.

use wasmtime::{Error, Result};

use super::bad_argument;
use crate::{
    policy::Hook,
    wasm::{
        bindings::asked::state::Host,
        host_state::{HostState, RuleBroken},
        transcript::Told,
    },
};

const MAX_KEY_BYTES: usize = 256;
const MAX_VALUE_BYTES: usize = 16 << 10;

impl HostState {
    /// The monotonic time, if `import` may be called with this key.
    fn state_time(&mut self, import: &'static str, key: &str) -> Result<u64> {
        self.exchange_in(import, &Hook::ALL)?;
        self.without_credential(key.as_bytes())?;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(bad_argument(format!("a state key has 1 to {MAX_KEY_BYTES} bytes, this one {}", key.len())));
        }
        Ok(self.shared.clock.monotonic_ms())
    }

    /// What one caller presents must not be kept where another's call finds it.
    fn without_credential(&self, bytes: &[u8]) -> Result<()> {
        if self.holds_credential(bytes) {
            return Err(bad_argument("neither a state key nor a state value may hold the credential"));
        }
        Ok(())
    }
}

impl Host for HostState {
    fn add(&mut self, key: String, delta: i64, ttl_ms: u32) -> Result<i64> {
        let now_ms = self.state_time("state.add", &key)?;
        // What is written is a decision too: a second call must write the same.
        let asked = self.compared(&[key.as_bytes(), &delta.to_be_bytes(), &ttl_ms.to_be_bytes()]);
        let add = |state: &mut Self| Told::Number(state.shared.state.add(&key, delta, ttl_ms, now_ms));
        match self.told("state.add", &asked, add)? {
            Told::Number(value) => Ok(value),
            _ => Err(Error::new(RuleBroken::OtherPath)),
        }
    }

    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        let now_ms = self.state_time("state.get", &key)?;
        match self.told("state.get", key.as_bytes(), |state| Told::Bytes(state.shared.state.value(&key, now_ms)))? {
            Told::Bytes(value) => Ok(value),
            _ => Err(Error::new(RuleBroken::OtherPath)),
        }
    }

    fn put(&mut self, key: String, value: Vec<u8>, ttl_ms: u32) -> Result<()> {
        let now_ms = self.state_time("state.put", &key)?;
        if value.len() > MAX_VALUE_BYTES {
            let bytes = value.len();
            return Err(bad_argument(format!("a state value has at most {MAX_VALUE_BYTES} bytes, this one {bytes}")));
        }
        self.without_credential(&value)?;
        let asked = self.compared(&[key.as_bytes(), &value, &ttl_ms.to_be_bytes()]);
        let put = |state: &mut Self| {
            state.shared.state.put(&key, value, ttl_ms, now_ms);
            Told::Nothing
        };
        self.told("state.put", &asked, put)?;
        Ok(())
    }
}
