//! `keys`: checking the presented key.

use wasmtime::{Error, Result};

use crate::{
    policy::Hook,
    ports::keys::{Proof, Standing},
    wasm::{
        bindings::asked::keys::{self, Host, Key},
        host_state::{HostState, RuleBroken},
    },
};

impl Host for HostState {
    fn verify(&mut self) -> Result<Option<Key>> {
        // The host has checked the secret before the hook: here nothing takes longer for one key than for another.
        let proof = self.exchange_in("keys.verify", &[Hook::Authenticate])?.proof().clone();
        let key = match proof {
            Proof::NotAKey | Proof::Unproven => return Ok(None),
            Proof::Stale => return Err(Error::new(RuleBroken::StaleKeys)),
            Proof::Proven(key) => key,
        };
        let standing = match key.standing(self.time().unix_ms()) {
            Standing::Active => keys::Standing::Active,
            Standing::Disabled => keys::Standing::Disabled,
            Standing::Expired => keys::Standing::Expired,
            Standing::Revoked => keys::Standing::Revoked,
        };
        Ok(Some(Key {
            id: key.id.to_string(),
            user: key.user_name().map(str::to_owned),
            standing,
            expires_at_ms: key.expires_at_ms,
        }))
    }
}
