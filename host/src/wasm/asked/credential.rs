//! `credential`: the credential itself, for a policy that was granted it, and what it found there.

use std::sync::Arc;

use wasmtime::Result;

use crate::{
    policy::Hook,
    wasm::{bindings::asked::credential::Host, host_state::HostState},
};

/// What one policy may say of a caller: as much as may be stored of a key, save the length of all together.
const MAX_NAMES: usize = 64;
const MAX_VALUES: usize = 64;
const MAX_NAME_CHARS: usize = 64;
const MAX_VALUE_CHARS: usize = 1024;

/// All names and values together, in bytes: they are kept as long as the call.
const MAX_BYTES: usize = 16 << 10;

impl Host for HostState {
    fn raw(&mut self) -> Result<Option<String>> {
        Ok(self.exchange_in("credential.raw", &[Hook::Authenticate])?.credential().map(str::to_owned))
    }

    fn set_attribute(&mut self, name: String, values: Vec<String>) -> Result<std::result::Result<(), String>> {
        let exchange = Arc::clone(self.exchange_in("credential.set-attribute", &[Hook::Authenticate])?);
        let is_plain = |text: &str, most| text.chars().count() <= most && !text.chars().any(char::is_control);
        if name.is_empty() || !is_plain(&name, MAX_NAME_CHARS) {
            return refused(format!("an attribute's name has 1 to {MAX_NAME_CHARS} characters, no control characters"));
        }
        if values.len() > MAX_VALUES || !values.iter().all(|value| is_plain(value, MAX_VALUE_CHARS)) {
            return refused(format!(
                "an attribute has at most {MAX_VALUES} values of {MAX_VALUE_CHARS} characters, no control characters"
            ));
        }
        // Other policies read them.
        if values.iter().chain([&name]).any(|text| exchange.holds_credential(text.as_bytes())) {
            return refused("an attribute may not hold the credential".to_owned());
        }
        let given = self.attributes();
        let others = given.iter().filter(|(known, _)| **known != *name);
        let size = |name: &str, values: &mut dyn Iterator<Item = usize>| values.sum::<usize>() + name.len();
        let held: usize = others.map(|(name, values)| size(name, &mut values.iter().map(|value| value.len()))).sum();
        if held + size(&name, &mut values.iter().map(String::len)) > MAX_BYTES {
            return refused(format!("all attributes of a call have at most {MAX_BYTES} bytes"));
        }
        given.retain(|(known, _)| **known != *name);
        if given.len() >= MAX_NAMES {
            return refused(format!("a call has at most {MAX_NAMES} attributes"));
        }
        given.push((name.into(), values.into_iter().map(Into::into).collect()));
        Ok(Ok(()))
    }
}

fn refused(why: String) -> Result<std::result::Result<(), String>> {
    Ok(Err(why))
}
