//! `catalogue`: what the gate knows of models and backends.

use std::sync::Arc;

use wasmtime::{Error, Result};

use crate::{
    policy::{Caller, Hook},
    ports::keys::Scope,
    wasm::{
        bindings::asked::catalogue::Host,
        host_state::{HostState, RuleBroken},
        transcript::Told,
    },
};

impl HostState {
    fn told_size(
        &mut self,
        import: &'static str,
        model: &str,
        ask: impl FnOnce(&Self) -> Option<u64>,
    ) -> Result<Option<u64>> {
        match self.told(import, model.as_bytes(), |state| Told::Size(ask(state)))? {
            Told::Size(size) => Ok(size),
            _ => Err(Error::new(RuleBroken::OtherPath)),
        }
    }
}

impl Host for HostState {
    fn candidates(&mut self, model: String) -> Result<u32> {
        let exchange = Arc::clone(self.exchange_in("catalogue.candidates", &[Hook::Admit, Hook::Route])?);
        let scope = exchange.caller().map_or(&Scope::AllModels, Caller::scope);
        let count =
            |state: &mut Self| Told::Count(state.shared.catalogue.candidates(&model, exchange.surface(), scope));
        match self.told("catalogue.candidates", model.as_bytes(), count)? {
            Told::Count(count) => Ok(count),
            _ => Err(Error::new(RuleBroken::OtherPath)),
        }
    }

    fn size_bytes(&mut self, model: String) -> Result<Option<u64>> {
        self.exchange_in("catalogue.size-bytes", &Hook::ALL)?;
        self.told_size("catalogue.size-bytes", &model, |state| state.shared.catalogue.size_bytes(&model))
    }

    fn parameters(&mut self, model: String) -> Result<Option<u64>> {
        self.exchange_in("catalogue.parameters", &Hook::ALL)?;
        self.told_size("catalogue.parameters", &model, |state| state.shared.catalogue.parameters(&model))
    }

    fn backend_name(&mut self, id: u32) -> Result<Option<String>> {
        self.exchange_in("catalogue.backend-name", &Hook::ALL)?;
        let name = |state: &mut Self| Told::Text(state.shared.catalogue.backend_name(id).map(|name| name.to_string()));
        match self.told("catalogue.backend-name", &id.to_be_bytes(), name)? {
            Told::Text(name) => Ok(name),
            _ => Err(Error::new(RuleBroken::OtherPath)),
        }
    }
}
