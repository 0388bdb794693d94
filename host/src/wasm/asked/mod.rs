//! What a policy may ask the host: one file for each interface, all of the same shape.
//!
//! Each function first says in which hooks it may be called; elsewhere the call traps, and the hook's answer is a fault.

mod catalogue;
mod credential;
mod edits;
mod env;
mod keys;
mod principals;
mod request;
mod state;

use wasmtime::{
    Error, Result,
    component::{HasSelf, Linker},
};

use super::{
    bindings::asked,
    host_state::{HostState, RuleBroken},
};

/// The one that needs a grant.
pub(super) const CREDENTIAL: &str = "tollgate:policy/credential";

/// The interfaces that are linked.
pub(super) const LINKED: [&str; 10] = [
    "tollgate:policy/types",
    "tollgate:policy/charges",
    "tollgate:policy/request",
    "tollgate:policy/edits",
    "tollgate:policy/catalogue",
    "tollgate:policy/principals",
    "tollgate:policy/keys",
    CREDENTIAL,
    "tollgate:policy/state",
    "tollgate:policy/env",
];

/// Adds what is linked.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> Result<()> {
    asked::types::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::charges::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::request::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::edits::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::catalogue::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::principals::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::keys::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::credential::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::state::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)?;
    asked::env::add_to_linker::<_, HasSelf<HostState>>(linker, |state| state)
}

impl asked::types::Host for HostState {}
impl asked::charges::Host for HostState {}

fn bad_argument(text: impl Into<String>) -> Error {
    Error::new(RuleBroken::BadArgument(text.into()))
}
