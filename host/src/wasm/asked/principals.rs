//! `principals`: what the store says about who calls.

use wasmtime::Result;

use super::bad_argument;
use crate::{
    llm::model_name::ModelName,
    ports::{
        keys::KeyRecord,
        limits::{LimitName, LimitSet, Limits},
    },
    wasm::{
        bindings::asked::principals::{HeldLimit, Holder, Host, LimitName as Named},
        host_state::HostState,
    },
};

impl Host for HostState {
    fn limits(&mut self, model: String) -> Result<Vec<HeldLimit>> {
        let key = self.caller_in("principals.limits")?.key.clone();
        Ok(key.map(|key| held(&key, &self.shared.default_limits, &model)).unwrap_or_default())
    }

    fn limit(&mut self, holder: Holder, name: String, model: Option<String>) -> Result<Option<u64>> {
        let key = self.caller_in("principals.limit")?.key.clone();
        let Some(name) = LimitName::from_word(&name) else {
            return Err(bad_argument(format!("there is no limit '{name}'")));
        };
        // A caller without a key has no stored limits, and `[limits]` is for keys.
        let Some(key) = key else { return Ok(None) };
        let user = key.user.as_ref().map(|user| &user.limits);
        Ok(match (holder, model) {
            (Holder::Key, None) => key.limit(name, &self.shared.default_limits),
            (Holder::Key, Some(model)) => of_model(&key.limits, &model).and_then(|set| set.of(name)),
            (Holder::User, None) => user.and_then(|limits| limits.overall().of(name)),
            (Holder::User, Some(model)) => {
                user.and_then(|limits| of_model(limits, &model)).and_then(|set| set.of(name))
            }
        })
    }

    fn attribute(&mut self, name: String) -> Result<Vec<String>> {
        let caller = self.caller_in("principals.attribute")?;
        Ok(caller.attribute(&name).iter().map(ToString::to_string).collect())
    }
}

/// All limits of a key, its user and this model.
fn held(key: &KeyRecord, defaults: &LimitSet, model: &str) -> Vec<HeldLimit> {
    let mut held = Vec::new();
    let mut add = |holder, of_model, name, value| held.push(HeldLimit { holder, name: named(name), of_model, value });
    for name in LimitName::ALL {
        if let Some(value) = key.limit(name, defaults) {
            add(Holder::Key, false, name, value);
        }
    }
    let own = of_model(&key.limits, model).into_iter().flat_map(LimitSet::iter);
    own.for_each(|(name, value)| add(Holder::Key, true, name, value));
    if let Some(user) = &key.user {
        user.limits.overall().iter().for_each(|(name, value)| add(Holder::User, false, name, value));
        let own = of_model(&user.limits, model).into_iter().flat_map(LimitSet::iter);
        own.for_each(|(name, value)| add(Holder::User, true, name, value));
    }
    held
}

/// The limits for one model, in whatever spelling. Facts hold the canonical name, which needs no second look.
fn of_model<'a>(limits: &'a Limits, model: &str) -> Option<&'a LimitSet> {
    if limits.models().len() == 0 {
        return None;
    }
    limits.of_model(model).or_else(|| limits.of_model(ModelName::parse(model).ok()?.canonical()))
}

fn named(name: LimitName) -> Named {
    match name {
        LimitName::RequestsPerMinute => Named::RequestsPerMinute,
        LimitName::TokensPerMinute => Named::TokensPerMinute,
        LimitName::Concurrent => Named::Concurrent,
        LimitName::TokensPerDay => Named::TokensPerDay,
        LimitName::TokensPerMonth => Named::TokensPerMonth,
    }
}
