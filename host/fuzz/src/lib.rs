//! Fuzz targets of what Tollgate reads from strangers: each is a function that is given any bytes and must not panic.
//!
//! The modules under test are taken from the host's sources, not from its crate, which would bring wasmtime along. All of
//! them lie in the lowest layer, and `llm` uses nothing of `wire` but what is named here.

#[path = "../../src/llm/mod.rs"]
pub mod llm;
pub mod targets;
#[path = "../../src/wire"]
pub mod wire {
    //! What `llm` uses of the host's `wire`.

    pub mod ndjson;
    pub mod sse;
    pub mod tail;
}
