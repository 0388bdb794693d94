//! Fuzz targets of what Tollgate reads from strangers: each is a function that is given any bytes and must not panic.
//!
//! The modules under test are taken from the host's sources, not from its crate, which would bring wasmtime along. All of
//! them lie in the lowest layer, and `llm` uses nothing of `wire` but what is named here. Only [`policies`] needs the whole.

pub mod chance;
#[path = "../../src/llm/mod.rs"]
pub mod llm;
#[cfg(feature = "host")]
pub mod policies;
pub mod targets;
#[path = "../../src/wire"]
pub mod wire {
    //! What `llm` uses of the host's `wire`.

    pub mod ndjson;
    pub mod sse;
    pub mod tail;
}

/// A component of a world of `wit/` from a core module in WAT.
///
/// # Panics
/// When the text isn't one that the world takes.
#[cfg(feature = "host")]
pub fn component(world: &str, wat: &str) -> Vec<u8> {
    use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

    let mut module = wat::parse_str(wat).expect("the text is a module");
    let mut resolve = wit_parser::Resolve::default();
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");
    let (package, _) = resolve.push_path(wit).expect("the interface is well-formed");
    let world = resolve.select_world(&[package], Some(world)).expect("there is such a world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("the world is encoded");
    let encoded = ComponentEncoder::default().module(&module).expect("the module fits the world").encode();
    encoded.expect("the module is encoded")
}
