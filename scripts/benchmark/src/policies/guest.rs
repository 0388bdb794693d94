//! Hostile guests: each behaves until a call comes that is marked, and then does its worst.
//!
//! A call is marked by what each hook is told: the cap of its answer, and at `authenticate` the length of its body.

use std::{fs, path::Path};

use super::{component, wat};
use crate::failure::{Failure, Trying};

/// The cap of a marked call's answer, in tokens.
pub(super) const MARKED_CAP: usize = 13;
/// The length of its body, in bytes.
pub(super) const MARKED_BYTES: usize = 2013;

/// The hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Authenticate,
    Admit,
    Route,
    Settle,
}

impl Hook {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Authenticate => "authenticate",
            Self::Admit => "admit",
            Self::Route => "route",
            Self::Settle => "settle",
        }
    }

    /// The world, what the module exports, how many parameters that has, and where `reject` stands among its decisions.
    fn shape(self) -> (&'static str, (&'static str, &'static str), usize, u8) {
        match self {
            Self::Authenticate => ("authenticator", wat::AUTHENTICATE, 9, 1),
            Self::Admit => ("admitter", wat::ADMIT, 14, 1),
            Self::Route => ("router", wat::ROUTE, 16, 2),
            Self::Settle => ("observer", wat::SETTLE, 1, 0),
        }
    }

    /// No opinion, where opinions are asked for.
    fn passes(self) -> String {
        match self {
            Self::Settle => String::new(),
            _ => wat::answer(self.shape().3 + 1, &[]),
        }
    }
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    EndlessLoop,
    MemoryHog,
    DeepRecursion,
    TableGrowth,
    BadUtf8,
    WrongDiscriminant,
    Trap,
    Panic,
    LogFlood,
    HostCallFlood,
    SpoilsItsState,
    HugeAnswer,
}

impl Guest {
    pub(super) const ALL: [Self; 12] = [
        Self::EndlessLoop,
        Self::MemoryHog,
        Self::DeepRecursion,
        Self::TableGrowth,
        Self::BadUtf8,
        Self::WrongDiscriminant,
        Self::Trap,
        Self::Panic,
        Self::LogFlood,
        Self::HostCallFlood,
        Self::SpoilsItsState,
        Self::HugeAnswer,
    ];

    /// As a policy's name has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EndlessLoop => "endless-loop",
            Self::MemoryHog => "memory-hog",
            Self::DeepRecursion => "deep-recursion",
            Self::TableGrowth => "table-growth",
            Self::BadUtf8 => "bad-utf8",
            Self::WrongDiscriminant => "wrong-discriminant",
            Self::Trap => "trap",
            Self::Panic => "panic",
            Self::LogFlood => "log-flood",
            Self::HostCallFlood => "host-call-flood",
            Self::SpoilsItsState => "spoils-its-state",
            Self::HugeAnswer => "huge-answer",
        }
    }

    /// The faults that it may be. Whether a guest that takes all meets its own bound first or that of CPU time is the
    /// machine's doing.
    pub(super) fn faults(self) -> &'static [&'static str] {
        match self {
            Self::EndlessLoop => &["budget"],
            Self::MemoryHog | Self::DeepRecursion | Self::TableGrowth => &["memory", "budget"],
            Self::LogFlood | Self::HostCallFlood => &["trap", "budget"],
            _ => &["trap"],
        }
    }

    /// Its component. `built` is the folder of the policies of the host's tests.
    pub(super) fn component(self, hook: Hook, wit: &Path, built: &Path) -> Result<Vec<u8>, Failure> {
        if self == Self::Panic {
            let place = built.join(format!("ask_{}.wasm", hook.name()));
            return fs::read(&place)
                .trying(format_args!("{} can't be read; build it with ./scripts/test gallery", place.display()));
        }
        let (world, export, _, _) = hook.shape();
        let body = format!(
            "{} {} {}",
            unless_marked(hook),
            self.body(hook),
            if hook == Hook::Settle { "" } else { "(unreachable)" }
        );
        let imports = r#"(import "tollgate:policy/env@0.1.0" "log" (func $log (param i32 i32 i32)))
            (import "tollgate:policy/env@0.1.0" "now-ms" (func $now (result i64)))
            (table $table 1 funcref)
            (data (i32.const 3000) "flood")"#;
        component(wit, world, &wat::module(imports, "(i32.const 1024)", &wat::hook(export, &body)))
    }

    /// What it does at a marked call.
    fn body(self, hook: Hook) -> String {
        let (_, _, parameters, reject) = hook.shape();
        let is_told = hook == Hook::Settle;
        let answers = |wat: String| format!("(return {wat})");
        let text = |body: &str| body.to_owned();
        match self {
            Self::EndlessLoop => text(wat::ENDLESS_LOOP),
            Self::MemoryHog => text(wat::MEMORY_HOG),
            Self::DeepRecursion => {
                let arguments: String = (0..parameters).map(|at| format!("(local.get {at})")).collect();
                let call = format!("(call $hook {arguments})");
                if is_told { call } else { answers(call) }
            }
            Self::TableGrowth => text(
                "(loop $again (drop (table.grow $table (ref.null func) (i32.const 60000))) (br $again)) (unreachable)",
            ),
            // An observer answers nothing: what it says it says to the log.
            Self::BadUtf8 if is_told => text(
                "(i32.store (i32.const 3000) (i32.const -1)) (call $log (i32.const 1) (i32.const 3000) (i32.const 4))",
            ),
            Self::BadUtf8 => answers_from(&wat::rejection(reject, b"no", b"\xff\xfe")),
            Self::WrongDiscriminant if is_told => text("(call $log (i32.const 9) (i32.const 3000) (i32.const 4))"),
            Self::WrongDiscriminant => answers_from(&wat::answer(9, &[])),
            Self::Trap | Self::Panic => text("(unreachable)"),
            Self::LogFlood => text(
                "(loop $again (call $log (i32.const 1) (i32.const 3000) (i32.const 64)) (br $again)) (unreachable)",
            ),
            Self::HostCallFlood => text("(loop $again (drop (call $now)) (br $again)) (unreachable)"),
            // All of its memory, also what its allocator and its answers go by; it has no other state.
            Self::SpoilsItsState => {
                let spoils =
                    "(memory.fill (i32.const 0) (i32.const 255) (i32.const 131072)) (global.set $next (i32.const -1))";
                if is_told { format!("{spoils} (unreachable)") } else { format!("{spoils} (return (i32.const 2048))") }
            }
            Self::HugeAnswer if is_told => text("(call $log (i32.const 1) (i32.const 0) (i32.const 1000000000))"),
            // A subject, charges or backends; the last two as a list, whose case is `admit` or `ranked`.
            Self::HugeAnswer => answers_from(&wat::answer(
                u8::from(hook == Hook::Route),
                &[(2052, 0), (2056, 1_000_000_000), (2060, 0)],
            )),
        }
    }
}

/// What stores an answer and leaves its address.
fn answers_from(wat: &str) -> String {
    format!("{wat} (return)")
}

fn unless_marked(hook: Hook) -> String {
    let is_other = match hook {
        Hook::Authenticate => format!("(i64.ne (local.get 3) (i64.const {MARKED_BYTES}))"),
        Hook::Admit | Hook::Route => format!("(i32.ne (local.get 7) (i32.const {MARKED_CAP}))"),
        Hook::Settle => format!("(i32.ne (i32.load offset=32 (local.get 0)) (i32.const {MARKED_CAP}))"),
    };
    format!("(if {is_other} (then {} (return)))", hook.passes())
}

/// A policy that decides first about calls of Ollama's dialect at this hook, so that no later policy is asked; none where
/// every policy is asked.
pub(super) fn doorman(hook: Hook, wit: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let decides = match hook {
        // `allow`, with the subject that lies at 3000, `b`.
        Hook::Authenticate => {
            format!(
                "(i32.store8 (i32.const 3000) (i32.const 98)) {}",
                wat::answer(0, &[(2052, 3000), (2056, 1), (2060, 0)])
            )
        }
        Hook::Route => wat::answer(0, &[(2052, 0)]),
        Hook::Admit | Hook::Settle => return Ok(None),
    };
    let (world, export, _, _) = hook.shape();
    let body = format!("(if (i32.eqz (local.get 0)) (then {decides} (return))) {}", hook.passes());
    component(wit, world, &wat::module("", "(i32.const 1024)", &wat::hook(export, &body))).map(Some)
}
