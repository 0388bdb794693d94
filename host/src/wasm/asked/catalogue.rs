//! `catalogue`: what the gate knows of models and backends.

use std::sync::Arc;

use wasmtime::Result;

use crate::{
    policy::{Caller, Hook},
    ports::keys::Scope,
    wasm::{bindings::asked::catalogue::Host, host_state::HostState},
};

impl Host for HostState {
    fn candidates(&mut self, model: String) -> Result<u32> {
        let exchange = Arc::clone(self.exchange_in("catalogue.candidates", &[Hook::Admit, Hook::Route])?);
        let scope = exchange.caller().map_or(&Scope::AllModels, Caller::scope);
        Ok(self.shared.catalogue.candidates(&model, exchange.surface(), scope))
    }

    fn size_bytes(&mut self, model: String) -> Result<Option<u64>> {
        self.exchange_in("catalogue.size-bytes", &Hook::ALL)?;
        Ok(self.shared.catalogue.size_bytes(&model))
    }

    fn parameters(&mut self, model: String) -> Result<Option<u64>> {
        self.exchange_in("catalogue.parameters", &Hook::ALL)?;
        Ok(self.shared.catalogue.parameters(&model))
    }

    fn backend_name(&mut self, id: u32) -> Result<Option<String>> {
        self.exchange_in("catalogue.backend-name", &Hook::ALL)?;
        Ok(self.shared.catalogue.backend_name(id).map(|name| name.to_string()))
    }
}
