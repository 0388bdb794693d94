//! Versions of one policy, good and bad: each of other bytes, and each bad one stopped at a step of its own.

use super::{Bench, component, folder::Files, wat};
use crate::failure::{Failure, Trying};

/// The kinds of versions, in the order in which they come; each has the step at which it must be stopped, or none.
pub(super) const KINDS: [(Kind, Option<&str>); 12] = [
    (Kind::Good, None),
    (Kind::Truncated, Some("compile")),
    (Kind::Good, None),
    (Kind::CoreModule, Some("format")),
    (Kind::FailingCase, Some("cases")),
    (Kind::Good, None),
    (Kind::RandomBytes, Some("format")),
    (Kind::Good, None),
    (Kind::UnknownImport, Some("imports")),
    (Kind::WrongSettings, Some("configure")),
    (Kind::BrokenTerms, Some("terms")),
    (Kind::TooSlow, Some("warm")),
];

/// What a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    Truncated,
    CoreModule,
    FailingCase,
    RandomBytes,
    UnknownImport,
    WrongSettings,
    BrokenTerms,
    TooSlow,
}

/// The files of the version of this number; a good one sends calls to `backend`.
pub(super) fn files(bench: &Bench, kind: Kind, number: u32, backend: u32) -> Result<Files, Failure> {
    let good = || picking(bench, number, backend);
    let component = match kind {
        Kind::Good | Kind::FailingCase | Kind::WrongSettings | Kind::BrokenTerms => good()?,
        Kind::Truncated => {
            let mut whole = good()?;
            whole.truncate(whole.len() / 2);
            whole
        }
        Kind::CoreModule => {
            ::wat::parse_str(format!("(module (global i32 (i32.const {number})))")).trying("no module")?
        }
        Kind::RandomBytes => random(number),
        Kind::UnknownImport => ::wat::parse_str(format!(
            r#"(component (import "tollgate:policy/teleport@0.1.0" (instance (export "to-{number}" (func)))))"#
        ))
        .trying("no component")?,
        Kind::TooSlow => router(bench, &format!("(drop (i32.const {number})) {}", wat::ENDLESS_LOOP))?,
    };
    let terms = match kind {
        Kind::WrongSettings => Some(format!("[settings]\nbackends = {number}\n")),
        Kind::BrokenTerms => Some(format!("cpu_budget = \"{number} parsecs\"\n")),
        _ => None,
    };
    let other = 1 - backend;
    let case = format!(
        r#"[{{ "name": "version {number}", "hook": "route", "backends": [{{ "id": 0 }}, {{ "id": 1 }}], "expect": {{ "pick": {other} }} }}]"#
    );
    Ok(Files { component, terms, cases: (kind == Kind::FailingCase).then_some(case) })
}

fn picking(bench: &Bench, number: u32, backend: u32) -> Result<Vec<u8>, Failure> {
    router(bench, &format!("(drop (i32.const {number})) {}", wat::answer(0, &[(2052, i64::from(backend))])))
}

/// A router that takes no settings.
fn router(bench: &Bench, body: &str) -> Result<Vec<u8>, Failure> {
    let configure = "(if (i32.ne (local.get 1) (i32.const 2)) (then
            (i32.store8 (i32.const 3000) (i32.const 110)) (i32.store8 (i32.const 3001) (i32.const 111))
            (i32.store8 (i32.const 1024) (i32.const 1))
            (i32.store (i32.const 1028) (i32.const 3000)) (i32.store (i32.const 1032) (i32.const 2))))
        (i32.const 1024)";
    component(&bench.wit, "router", &wat::module("", configure, &wat::hook(wat::ROUTE, body)))
}

/// Bytes of no pattern, the same each time.
fn random(number: u32) -> Vec<u8> {
    let mut state = u64::from(number) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(4096).collect()
}
