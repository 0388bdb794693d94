//! `edits`: changes to the call. What may be changed, and how far, the domain knows.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{Error, Result};

use crate::{
    policy::{Draft, Exchange, Grantee, Hook, edits::EditError},
    wasm::{
        bindings::asked::edits::Host,
        host_state::{HostState, RuleBroken, Shared},
        transcript::Told,
    },
};

/// What became of an edit, as a guest reads it.
type Edit = Result<std::result::Result<(), String>>;

type Changed = std::result::Result<(), EditError>;

impl HostState {
    /// Has the draft changed, if `import` may be called in this hook. In a call that is made a second time nothing is changed:
    /// whether there was room for it, the first time alone can tell.
    fn edit(
        &mut self,
        import: &'static str,
        asked: [&str; 2],
        change: impl FnOnce(&mut Draft, &Exchange) -> Changed,
    ) -> Edit {
        let exchange = Arc::clone(self.exchange_in(import, &[Hook::Admit])?);
        let change =
            |state: &mut Self| Told::Text(change(state.draft(), &exchange).err().map(|error| error.to_string()));
        match self.told(import, asked.join("\0").as_bytes(), change)? {
            Told::Text(None) => Ok(Ok(())),
            Told::Text(Some(why)) => Ok(Err(why)),
            _ => Err(Error::new(RuleBroken::OtherPath)),
        }
    }

    /// The same for a change that reads and copies the body, which counts as much as reading it.
    fn edit_body(
        &mut self,
        import: &'static str,
        asked: [&str; 2],
        change: impl FnOnce(&mut Draft, &Exchange) -> Changed,
    ) -> Edit {
        let body = self.exchange_in(import, &[Hook::Admit])?.body().map_or(0, Bytes::len);
        self.count_scan(body)?;
        self.edit(import, asked, change)
    }
}

impl Host for HostState {
    fn set_model(&mut self, name: String) -> Edit {
        self.edit_body("edits.set-model", [&name, ""], |draft, exchange| draft.set_model(exchange, &name))
    }

    fn set_json(&mut self, pointer: String, value: String) -> Edit {
        let asked = [pointer.as_str(), &value];
        self.edit_body("edits.set-json", asked, |draft, exchange| draft.set_json(exchange, &pointer, &value))
    }

    fn remove_json(&mut self, pointer: String) -> Edit {
        self.edit_body("edits.remove-json", [&pointer, ""], |draft, exchange| draft.remove_json(exchange, &pointer))
    }

    fn set_upstream_header(&mut self, name: String, value: String) -> Edit {
        let (asked, shared) = ([name.as_str(), &value], Arc::clone(&self.shared));
        self.edit("edits.set-upstream-header", asked, |draft, exchange| {
            draft.set_upstream_header(exchange, grantee(&shared), &name, &value)
        })
    }

    fn set_response_header(&mut self, name: String, value: String) -> Edit {
        let (asked, shared) = ([name.as_str(), &value], Arc::clone(&self.shared));
        self.edit("edits.set-response-header", asked, |draft, exchange| {
            draft.set_response_header(exchange, grantee(&shared), &name, &value)
        })
    }
}

fn grantee(shared: &Shared) -> Grantee<'_> {
    Grantee { policy: &shared.name, grants: &shared.terms.grants }
}
