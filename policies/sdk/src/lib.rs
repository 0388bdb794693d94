//! Write a Tollgate policy in Rust: implement the trait of the hook you decide, and export it.
//!
//! ```ignore
//! use tollgate_policy::{route, Backend, Call, Principal};
//!
//! struct LeastBusy;
//!
//! impl tollgate_policy::Route for LeastBusy {
//!     fn choose(_: Call, _: Principal, mut backends: Vec<Backend>) -> route::Decision {
//!         backends.sort_by_key(|backend| backend.in_flight);
//!         route::Decision::Ranked(backends.iter().map(|backend| backend.id).collect())
//!     }
//! }
//!
//! tollgate_policy::export_route!(LeastBusy);
//! ```
//!
//! Build it as a `cdylib` with `cargo build --release --target wasm32-wasip2` and copy the `.wasm` file into the policy
//! folder. Hooks never wait, and a panic refuses the call with 503: answer a rejection instead.

pub mod allocator;
#[doc(hidden)]
pub mod bindings;
pub mod charge;

pub use bindings::asked::tollgate::policy::types::{
    Backend, Call, Head, Operation, Presented, Principal, Reason, Rejection, Scheme, Surface,
};
pub use charge::{requests_per_window, tokens_per_window};

pub use bindings::asked::tollgate::policy::{
    catalogue, charges, credential, edits, env, keys, principals, request, state,
};

/// The answer of `authenticate`.
pub mod authenticate {
    pub use crate::bindings::authenticate::exports::tollgate::policy::authenticate::Decision;
}
/// The answer of `admit`.
pub mod admit {
    pub use crate::bindings::admit::exports::tollgate::policy::admit::Decision;
}
/// The answer of `route`.
pub mod route {
    pub use crate::bindings::route::exports::tollgate::policy::route::Decision;
}
/// What `settle` is told.
pub mod settle {
    pub use crate::bindings::settle::exports::tollgate::policy::settle::{End, Outcome};
}

/// A policy that knows callers. Export it with [`export_authenticate!`].
pub trait Authenticate {
    /// Takes the settings (JSON text, `{}` when there are none), once per instance. By default there may be none.
    ///
    /// # Errors
    /// A text that says what is wrong with them; the old version then goes on serving.
    fn configure(settings: &str) -> Result<(), String> {
        no_settings(settings)
    }
    /// Once per call, before the body is read.
    fn check(head: Head, presented: Option<Presented>) -> authenticate::Decision;
}

/// A policy that charges a call, or refuses it. Export it with [`export_admit!`].
pub trait Admit {
    /// Takes the settings (JSON text, `{}` when there are none), once per instance. By default there may be none.
    ///
    /// # Errors
    /// A text that says what is wrong with them; the old version then goes on serving.
    fn configure(settings: &str) -> Result<(), String> {
        no_settings(settings)
    }
    /// Once per call, after the body is read.
    fn decide(call: Call, principal: Principal) -> admit::Decision;
}

/// A policy that picks backends. Export it with [`export_route!`].
pub trait Route {
    /// Takes the settings (JSON text, `{}` when there are none), once per instance. By default there may be none.
    ///
    /// # Errors
    /// A text that says what is wrong with them; the old version then goes on serving.
    fn configure(settings: &str) -> Result<(), String> {
        no_settings(settings)
    }
    /// Once per call that goes to one backend; `backends` is never empty.
    fn choose(call: Call, principal: Principal, backends: Vec<Backend>) -> route::Decision;
}

/// A policy that looks at what calls came to. Export it with [`export_settle!`].
pub trait Settle {
    /// Takes the settings (JSON text, `{}` when there are none), once per instance. By default there may be none.
    ///
    /// # Errors
    /// A text that says what is wrong with them; the old version then goes on serving.
    fn configure(settings: &str) -> Result<(), String> {
        no_settings(settings)
    }
    /// Once per admitted call, after its last byte.
    fn done(call: Call, principal: Principal, outcome: settle::Outcome);
}

/// What a policy without settings says of them: none may be given, because nothing would come of them.
///
/// # Errors
/// When there are any.
pub fn no_settings(settings: &str) -> Result<(), String> {
    if settings.trim() == "{}" { Ok(()) } else { Err("the policy takes no settings".to_owned()) }
}

/// A rejection without `retry-after`.
pub fn rejection(reason: Reason, code: &str, message: &str) -> Rejection {
    Rejection { reason, code: code.to_owned(), message: message.to_owned(), retry_after_ms: None }
}

/// Whether an operation makes a backend compute: these are what a limit is about. Listings and facts of a model are free.
pub fn is_inference(operation: Operation) -> bool {
    match operation {
        Operation::Generate
        | Operation::Chat
        | Operation::Complete
        | Operation::Respond
        | Operation::Embed
        | Operation::Transcribe
        | Operation::Other => true,
        Operation::Show | Operation::Listing | Operation::Manage => false,
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_hook {
    ($policy:ty, $hook:ident, $interface:ident, $export:ident, fn $method:ident($($argument:ident: $type:ty),*) $(-> $answer:ty)?) => {
        const _: () = {
            struct Exported;
            impl $crate::bindings::lifecycle::exports::tollgate::policy::lifecycle::Guest for Exported {
                fn configure(settings: String) -> Result<(), String> {
                    <$policy as $crate::$hook>::configure(&settings)
                }
            }
            impl $crate::bindings::$interface::exports::tollgate::policy::$interface::Guest for Exported {
                fn $method($($argument: $type),*) $(-> $answer)? {
                    <$policy as $crate::$hook>::$method($($argument),*)
                }
            }
            $crate::bindings::lifecycle::export_lifecycle_interface!(Exported with_types_in $crate::bindings::lifecycle);
            $crate::bindings::$interface::$export!(Exported with_types_in $crate::bindings::$interface);
        };
    };
}

/// Exports a type that implements [`Authenticate`].
#[macro_export]
macro_rules! export_authenticate {
    ($policy:ty) => {
        $crate::export_hook!($policy, Authenticate, authenticate, export_authenticate_interface,
            fn check(head: $crate::Head, presented: Option<$crate::Presented>) -> $crate::authenticate::Decision);
    };
}

/// Exports a type that implements [`Admit`].
#[macro_export]
macro_rules! export_admit {
    ($policy:ty) => {
        $crate::export_hook!($policy, Admit, admit, export_admit_interface,
            fn decide(call: $crate::Call, principal: $crate::Principal) -> $crate::admit::Decision);
    };
}

/// Exports a type that implements [`Route`].
#[macro_export]
macro_rules! export_route {
    ($policy:ty) => {
        $crate::export_hook!($policy, Route, route, export_route_interface,
            fn choose(call: $crate::Call, principal: $crate::Principal, backends: Vec<$crate::Backend>) -> $crate::route::Decision);
    };
}

/// Exports a type that implements [`Settle`].
#[macro_export]
macro_rules! export_settle {
    ($policy:ty) => {
        $crate::export_hook!($policy, Settle, settle, export_settle_interface,
            fn done(call: $crate::Call, principal: $crate::Principal, outcome: $crate::settle::Outcome));
    };
}
