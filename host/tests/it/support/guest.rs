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

/// A router without `lifecycle`, that picks the first backend.
pub(crate) fn without_lifecycle() -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_path(root().join("wit")).unwrap();
    let world = "package test:test; world bare { export tollgate:policy/route@0.1.0; }";
    let package = resolve.push_str("bare.wit", world).unwrap();
    let world = resolve.select_world(&[package], Some("bare")).unwrap();
    let mut module = wat::parse_str(
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
    let hook = r#"(func (export "tollgate:policy/route@0.1.0#choose")
        (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052) (i32.load (i32.const 1100)))
        (i32.const 2048))"#;
    component("router", &module_that("", configure, hook))
}

/// A router that traps at calls that want so many output tokens, and else picks this backend.
pub(crate) fn picking_unless(id: u32, cap: u32) -> Vec<u8> {
    let fails = format!("(if (i32.eq (local.get 7) (i32.const {cap})) (then (unreachable)))");
    let answer = "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.store (i32.const 2052)";
    router(&format!("{fails} {answer} (i32.const {id})) (i32.const 2048)"))
}

/// WAT that answers a rejection (403), in a hook whose decision has `reject` at this place among its cases.
pub(crate) fn rejection(case: u8, code: &[u8], message: &[u8]) -> String {
    let (code_at, message_at) = (3000, 4000);
    let words = [(2056, code_at), (2060, code.len()), (2064, message_at), (2068, message.len())];
    let mut wat = format!(
        "(i32.store8 (i32.const 2048) (i32.const {case})) (i32.store8 (i32.const 2052) (i32.const 1))
         (i32.store8 (i32.const 2072) (i32.const 0))"
    );
    for (at, word) in words {
        wat += &format!("(i32.store (i32.const {at}) (i32.const {word}))");
    }
    for (at, text) in [(code_at, code), (message_at, message)] {
        for (at, byte) in (at..).zip(text) {
            wat += &format!("(i32.store8 (i32.const {at}) (i32.const {byte}))");
        }
    }
    wat + "(i32.const 2048)"
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

fn module(hook: &str, parameters: &str, body: &str) -> String {
    module_that(
        "",
        "(i32.const 1024)",
        &format!(r#"(func (export "{hook}") (param {parameters}) (result i32) {body})"#),
    )
}

/// A module with these imports, this `configure` and this hook, a memory and an allocator that starts over at its end.
/// The word at 1024 is 0: an answer of `configure` that says yes.
pub(crate) fn module_that(imports: &str, configure: &str, hook: &str) -> String {
    format!(
        r#"(module
            {imports}
            (memory (export "memory") 2)
            (global $next (mut i32) (i32.const 65536))
            (global $calls (mut i32) (i32.const 0))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (if (i32.gt_u (i32.add (local.get $at) (local.get 3)) (i32.const 131072))
                    (then (local.set $at (i32.const 65536))))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func (export "tollgate:policy/lifecycle@0.1.0#configure") (param i32 i32) (result i32) {configure})
            {hook})"#
    )
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
