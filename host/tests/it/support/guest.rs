//! Policies for tests: hostile ones written in WAT, and the gallery's, which `./scripts/test gallery` builds.

use std::{fs, path::PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A component of the interface's world `world` from a core module in WAT: the module exports what the canonical ABI wants.
pub fn component(world: &str, wat: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root().join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// A router whose `choose` does this. `body` leaves the address of the answer on the stack, or never comes to it.
pub fn router(body: &str) -> Vec<u8> {
    let parameters = "i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32";
    component("router", &module("tollgate:policy/route@0.1.0#choose", parameters, body))
}

/// An authenticator whose `check` does this.
pub fn authenticator(body: &str) -> Vec<u8> {
    let parameters = "i32 i32 i32 i64 i32 i32 i32 i32 i32";
    component("authenticator", &module("tollgate:policy/authenticate@0.1.0#check", parameters, body))
}

/// An admitter whose `decide` does this.
pub fn admitter(body: &str) -> Vec<u8> {
    let parameters = "i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32";
    component("admitter", &module("tollgate:policy/admit@0.1.0#decide", parameters, body))
}

/// A module with one hook, a `configure` that says yes, a memory and an allocator that never frees.
fn module(hook: &str, parameters: &str, body: &str) -> String {
    format!(
        r#"(module
            (memory (export "memory") 2)
            (global $next (mut i32) (i32.const 65536))
            (global $calls (mut i32) (i32.const 0))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func (export "tollgate:policy/lifecycle@0.1.0#configure") (param i32 i32) (result i32) (i32.const 1024))
            (func (export "{hook}") (param {parameters}) (result i32) {body}))"#
    )
}

/// A policy of `examples/gallery`.
pub fn gallery(name: &str) -> Vec<u8> {
    let built =
        root().join("target/gallery/wasm32-wasip2/release/examples").join(format!("{}.wasm", name.replace('-', "_")));
    fs::read(&built)
        .unwrap_or_else(|error| panic!("{}: {error}; build the gallery with ./scripts/test gallery", built.display()))
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
