//! `edits`: changes to the call. What may be changed, and how far, the domain knows.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::Result;

use crate::{
    policy::{Draft, Exchange, Hook, edits::EditError},
    wasm::{bindings::asked::edits::Host, host_state::HostState},
};

/// What became of an edit, as a guest reads it.
type Edit = Result<std::result::Result<(), String>>;

impl HostState {
    /// Has the draft changed, if `import` may be called in this hook.
    fn edit(&mut self, import: &'static str, change: impl FnOnce(&mut Draft, &Exchange) -> Changed) -> Edit {
        let exchange = Arc::clone(self.exchange_in(import, &[Hook::Admit])?);
        Ok(change(self.draft(), &exchange).map_err(|error| error.to_string()))
    }

    /// The same for a change that reads and copies the body, which counts as much as reading it.
    fn edit_body(&mut self, import: &'static str, change: impl FnOnce(&mut Draft, &Exchange) -> Changed) -> Edit {
        let body = self.exchange_in(import, &[Hook::Admit])?.body().map_or(0, Bytes::len);
        self.count_scan(body)?;
        self.edit(import, change)
    }
}

type Changed = std::result::Result<(), EditError>;

impl Host for HostState {
    fn set_model(&mut self, name: String) -> Edit {
        self.edit_body("edits.set-model", |draft, exchange| draft.set_model(exchange, &name))
    }

    fn set_json(&mut self, pointer: String, value: String) -> Edit {
        self.edit_body("edits.set-json", |draft, exchange| draft.set_json(exchange, &pointer, &value))
    }

    fn remove_json(&mut self, pointer: String) -> Edit {
        self.edit_body("edits.remove-json", |draft, exchange| draft.remove_json(exchange, &pointer))
    }

    fn set_upstream_header(&mut self, name: String, value: String) -> Edit {
        self.edit("edits.set-upstream-header", |draft, exchange| draft.set_upstream_header(exchange, &name, &value))
    }

    fn set_response_header(&mut self, name: String, value: String) -> Edit {
        self.edit("edits.set-response-header", |draft, exchange| draft.set_response_header(exchange, &name, &value))
    }
}
