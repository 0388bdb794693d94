//! Generated from `wit/`: the `bindgen!` call and nothing else.

mod generated {
    wasmtime::component::bindgen!({
        // What a policy with every hook is given, and what needs a grant besides.
        inline: "
            package tollgate:host;
            world host {
                include tollgate:policy/policy@0.1.0;
                import tollgate:policy/credential@0.1.0;
            }
        ",
        path: "../wit",
        world: "tollgate:host/host",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
    });
}

pub(super) use generated::{exports::tollgate::policy as hooks, tollgate::policy as asked};
