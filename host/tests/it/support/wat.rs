//! Policies written in WAT: how a text becomes a component, and the bodies of hooks that misbehave. Tests, benchmarks and
//! `./scripts/policies` share it.
//!
//! A text says what the canonical ABI wants of a module: an answer is the address of its words, which lie at 2048 here.

use std::{error::Error, path::Path};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where a module exports each hook, and what it is given.
pub(crate) const AUTHENTICATE: (&str, &str) =
    ("tollgate:policy/authenticate@0.1.0#check", "(param i32 i32 i32 i64 i32 i32 i32 i32 i32) (result i32)");
pub(crate) const ADMIT: (&str, &str) = (
    "tollgate:policy/admit@0.1.0#decide",
    "(param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)",
);
pub(crate) const ROUTE: (&str, &str) = (
    "tollgate:policy/route@0.1.0#choose",
    "(param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)",
);
/// What it is given lies in memory; the cap of the answer at 32 of it.
pub(crate) const SETTLE: (&str, &str) = ("tollgate:policy/settle@0.1.0#done", "(param i32)");

/// Takes CPU time, for ever.
pub(crate) const ENDLESS_LOOP: &str = "(loop $again (br $again)) (unreachable)";
/// Takes memory, for ever.
pub(crate) const MEMORY_HOG: &str = "(loop $again (drop (memory.grow (i32.const 64))) (br $again)) (unreachable)";

/// A component of the interface's world `world` from a core module in WAT. `wit` is the folder of the interface.
pub(crate) fn component(wit: &Path, world: &str, wat: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut module = wat::parse_str(wat)?;
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)?;
    Ok(ComponentEncoder::default().module(&module)?.validate(true).encode()?)
}

/// A function that the host calls `name`, and the module `$hook`.
pub(crate) fn hook((name, kind): (&str, &str), body: &str) -> String {
    format!(r#"(func $hook (export "{name}") {kind} {body})"#)
}

/// Puts the words at their addresses, and answers the decision's case `case`, whose payload begins at 2052.
pub(crate) fn answer(case: u8, words: &[(u32, i64)]) -> String {
    let stores = words.iter().map(|(at, word)| format!("(i32.store (i32.const {at}) (i32.const {word}))"));
    format!("(i32.store8 (i32.const 2048) (i32.const {case})) {} (i32.const 2048)", stores.collect::<String>())
}

/// A rejection (403), in a hook whose decision has `reject` at this place among its cases.
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

/// A module with these imports, this `configure` and this hook, a memory and an allocator that starts over at its end.
/// The word at 1024 is 0: an answer of `configure` that says yes.
pub(crate) fn module(imports: &str, configure: &str, hook: &str) -> String {
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
