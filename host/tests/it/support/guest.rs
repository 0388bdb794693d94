//! Policies for tests: hostile ones written in WAT, and the gallery's, which `./scripts/test gallery` builds.

use std::{fs, path::PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::wat;
pub(crate) use super::wat::{module as module_that, rejection};

/// A component of the interface's world `world` from a core module in WAT: the module exports what the canonical ABI wants.
pub fn component(world: &str, wat: &str) -> Vec<u8> {
    wat::component(&root().join("wit"), world, wat).unwrap()
}

/// A component with this hook, whose body is given.
fn deciding(world: &str, hook: (&str, &str), body: &str) -> Vec<u8> {
    component(world, &module_that("", "(i32.const 1024)", &wat::hook(hook, body)))
}

/// A router without `lifecycle`, that picks the first backend.
pub(crate) fn without_lifecycle() -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_path(root().join("wit")).unwrap();
    let world = "package test:test; world bare { export tollgate:policy/route@0.1.0; }";
    let package = resolve.push_str("bare.wit", world).unwrap();
    let world = resolve.select_world(&[package], Some("bare")).unwrap();
    let mut module = ::wat::parse_str(
        r#"(module (memory (export "memory") 2)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
            (func (export "tollgate:policy/route@0.1.0#choose")
                (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 2048)))"#,
    )
    .unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// A router whose `choose` does this. `body` leaves the address of the answer on the stack, or never comes to it.
pub fn router(body: &str) -> Vec<u8> {
    deciding("router", wat::ROUTE, body)
}

/// An authenticator whose `check` does this.
pub fn authenticator(body: &str) -> Vec<u8> {
    deciding("authenticator", wat::AUTHENTICATE, body)
}

/// An admitter whose `decide` does this.
pub fn admitter(body: &str) -> Vec<u8> {
    deciding("admitter", wat::ADMIT, body)
}

/// A router that picks this backend. The first in the configuration has the id 0.
pub(crate) fn picking(id: u32) -> Vec<u8> {
    let answer = "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052)";
    router(&format!("{answer} (i32.const {id})) (i32.const 2048)"))
}

/// A router that picks the backend that its settings name, `{"backend":0}` or 1, or else the first. It refuses any other.
pub(crate) fn picking_by_settings() -> Vec<u8> {
    // The digit before the closing brace; the text of the refusal, "0or1", lies at 3000.
    let configure = "(if (i32.ne (local.get 1) (i32.const 2)) (then (i32.store (i32.const 1100) (i32.sub
            (i32.load8_u (i32.sub (i32.add (local.get 0) (local.get 1)) (i32.const 2))) (i32.const 48)))))
        (if (i32.gt_u (i32.load (i32.const 1100)) (i32.const 1)) (then
            (i32.store (i32.const 3000) (i32.const 0x31726f30)) (i32.store8 (i32.const 1024) (i32.const 1))
            (i32.store (i32.const 1028) (i32.const 3000)) (i32.store (i32.const 1032) (i32.const 4))))
        (i32.const 1024)";
    let body = "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052) (i32.load (i32.const 1100)))
        (i32.const 2048)";
    component("router", &module_that("", configure, &wat::hook(wat::ROUTE, body)))
}

/// A router that traps at calls that want so many output tokens, and else picks this backend.
pub(crate) fn picking_unless(id: u32, cap: u32) -> Vec<u8> {
    let fails = format!("(if (i32.eq (local.get 7) (i32.const {cap})) (then (unreachable)))");
    let answer = "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052)";
    router(&format!("{fails} {answer} (i32.const {id})) (i32.const 2048)"))
}

/// A router that counts this far before it picks the first backend: a million are about two milliseconds.
pub(crate) fn picking_after(steps: u32) -> Vec<u8> {
    let count = format!(
        "(i32.store (i32.const 1100) (i32.const {steps})) (loop $on (i32.store (i32.const 1100)
            (i32.sub (i32.load (i32.const 1100)) (i32.const 1))) (br_if $on (i32.load (i32.const 1100))))"
    );
    let answer = "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052) (i32.const 0))";
    router(&format!("{count} {answer} (i32.const 2048)"))
}

/// The same component with so many bytes more that do nothing.
pub(crate) fn padded(component: &[u8], bytes: u32) -> Vec<u8> {
    // A custom section: its id, its length in LEB128, its name with that one's length, and whatever follows.
    let name = *b"\x03pad";
    let mut rest = bytes + u32::try_from(name.len()).unwrap();
    let mut padded = component.to_vec();
    padded.push(0);
    while rest >= 0x80 {
        padded.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    padded.push(u8::try_from(rest).unwrap());
    padded.extend(name);
    padded.resize(padded.len() + usize::try_from(bytes).unwrap(), 0);
    padded
}

/// A policy of `examples/gallery`, or of `tests/guests`.
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
