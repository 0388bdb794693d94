//! Generated from `wit/`: the `bindgen!` call and nothing else.

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
    });
}

pub(super) use generated::{exports::tollgate::policy as hooks, tollgate::policy as asked};
