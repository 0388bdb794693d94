//! Targets of what policy authors hand in: components, `NAME.toml`, cases, and what a guest's memory holds when it answers.
//!
//! They need the whole host, so they are apart from the others: libFuzzer's targets build them with the feature `host`, and
//! the host's own tests take this file from here for their smoke run.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use tollgate::{
    clock::Clock,
    config::{Config, Policies, PolicyFile},
    policy::{FaultKind, Grants},
    ports::{catalogue::NoBackends, limits::LimitSet},
    wasm::{Cases, GuestPolicy, LoadError, NO_SETTINGS, Runtime, RuntimeConfig, Terms},
};

/// A target: it is given any bytes, and panics when something that must hold doesn't.
pub type Target = fn(&Bench, &[u8]);

/// The targets, by name.
pub const TARGETS: [(&str, Target); 4] =
    [("component", component), ("policy_terms", policy_terms), ("policy_cases", policy_cases), ("answer", answer)];

/// Most bytes of an input that become a guest's answer: their hexadecimal text must fit a policy's settings.
const MOST_ANSWER: usize = 4096;

/// Guests whose memory holds what they are told, each with what the canonical ABI wants of its hook.
const ANSWERING: [(&str, &str, &str, Answering); 5] = [
    ("authenticator", "authenticate", "check", Answering { hook: "i32 i32 i32 i64 i32 i32 i32 i32 i32", ..PLAIN }),
    ("admitter", "admit", "decide", Answering { hook: ADMIT, ..PLAIN }),
    ("router", "route", "choose", Answering { hook: ROUTE, ..PLAIN }),
    ("router", "route", "choose", Answering { hook: ROUTE, configured_at: 2048, ..PLAIN }),
    ("admitter", "admit", "decide", Answering { hook: ADMIT, answer_at: 2064, edits: EDITS, asks: ASKS, ..PLAIN }),
];
const ADMIT: &str = "i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32";
const ROUTE: &str = "i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32";
const EDITS: &str = r#"(import "tollgate:policy/edits@0.1.0" "set-json" (func $set_json (param i32 i32 i32 i32 i32)))"#;
const ASKS: &str = "(call $set_json (i32.load (i32.const 2048)) (i32.load (i32.const 2052)) (i32.load (i32.const 2056))
    (i32.load (i32.const 2060)) (i32.const 1032))";
const PLAIN: Answering = Answering { hook: "", configured_at: 1024, answer_at: 2048, edits: "", asks: "" };

/// What a guest does with the bytes that lie from 2048 on in its memory.
struct Answering {
    /// Parameters of its hook.
    hook: &'static str,
    /// Where the answer of `configure` lies; at 1024 it says yes.
    configured_at: u32,
    answer_at: u32,
    edits: &'static str,
    asks: &'static str,
}

impl Answering {
    /// `configure` reads settings like `{"a":"…"}`, two letters from `a` to `p` for each byte.
    fn wat(&self, interface: &str, function: &str) -> String {
        let Self { hook, configured_at, answer_at, edits, asks } = self;
        format!(
            r#"(module
            {edits}
            (memory (export "memory") 2)
            (global $next (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (if (i32.gt_u (i32.add (local.get $at) (local.get 3)) (i32.const 131072))
                    (then (local.set $at (i32.const 65536))))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func $half (param $at i32) (result i32) (i32.sub (i32.load8_u (local.get $at)) (i32.const 97)))
            (func (export "tollgate:policy/lifecycle@0.1.0#configure") (param $text i32) (param $length i32) (result i32)
                (local $end i32) (local $to i32)
                (local.set $end (i32.sub (i32.add (local.get $text) (local.get $length)) (i32.const 2)))
                (local.set $text (i32.add (local.get $text) (i32.const 6)))
                (local.set $to (i32.const 2048))
                (block $done (loop $again
                    (br_if $done (i32.ge_u (local.get $text) (local.get $end)))
                    (i32.store8 (local.get $to) (i32.or
                        (i32.shl (call $half (local.get $text)) (i32.const 4))
                        (call $half (i32.add (local.get $text) (i32.const 1)))))
                    (local.set $text (i32.add (local.get $text) (i32.const 2)))
                    (local.set $to (i32.add (local.get $to) (i32.const 1)))
                    (br $again)))
                (i32.const {configured_at}))
            (func (export "tollgate:policy/{interface}@0.1.0#{function}") (param {hook}) (result i32)
                {asks}
                (i32.const {answer_at})))"#
        )
    }
}

/// What the targets work on: made once.
#[derive(Debug)]
pub struct Bench {
    runtime: Runtime,
    gate: Policies,
    /// A guest, its hook, and what it answers when it is told nothing.
    answering: Vec<(GuestPolicy, &'static str, Value)>,
    components: Vec<Vec<u8>>,
}

impl Bench {
    /// `component` makes one of a world's name and a core module in WAT.
    ///
    /// # Panics
    /// When the runtime can't start, or a guest of this file can't be used.
    pub fn new(component: impl Fn(&str, &str) -> Vec<u8>) -> Self {
        let gate = Config::defaults_in(Path::new("/")).policies;
        let config = RuntimeConfig {
            cpu_budget: gate.max_cpu_budget,
            memory_bytes: 16 << 20,
            masked_headers: Vec::new(),
            default_limits: LimitSet::default(),
            ready_instances: 1,
            recheck_every: 0,
            cache: None,
        };
        let runtime = Runtime::start(config, Clock::system(), Arc::new(NoBackends)).expect("the runtime starts");
        let terms = Terms::from(&PolicyFile::defaults(&gate));
        let mut bench = Self { runtime, gate, answering: Vec::new(), components: Vec::new() };
        for (world, interface, function, answering) in ANSWERING {
            let made = component(world, &answering.wat(interface, function));
            let compiled = bench.runtime.compile(&made).expect("a guest of ours compiles");
            let started = bench.runtime.start_policy(&"answering".into(), &compiled, &terms);
            let Ok(policy) = started.expect("a guest of ours starts").warm() else {
                panic!("a guest of ours is quick");
            };
            let told_nothing = bench.ask(&policy, interface, None);
            bench.answering.push((policy, interface, told_nothing));
            bench.components.push(made);
        }
        bench
    }

    /// Components that load: seeds that follow the interface.
    pub fn components(&self) -> &[Vec<u8>] {
        &self.components
    }

    /// The answer of a fresh instance with these settings.
    fn ask(&self, policy: &GuestPolicy, hook: &str, settings: Option<&Value>) -> Value {
        let [report] = self.runtime.run_cases(policy, &case(hook, settings)).try_into().expect("one case, one report");
        report.got
    }

    /// How two calls after each other fail, if they do: of one policy with these settings, whose instance waits in its pool for the
    /// second. None when it can't be started, or when the time that a call may take is what failed it.
    fn ask_twice(&self, policy: &GuestPolicy, hook: &str, settings: &Value) -> Option<[Option<FaultKind>; 2]> {
        let [ready] = self.runtime.rehearse(policy, &case(hook, Some(settings))).ok()?.try_into().ok()?;
        let kinds = [(); 2].map(|()| ready.ask().err().map(|fault| fault.kind));
        Some(kinds).filter(|kinds| !kinds.contains(&Some(FaultKind::Budget)))
    }
}

/// One case without an expectation.
fn case(hook: &str, settings: Option<&Value>) -> Cases {
    let mut case = json!({ "name": "x", "hook": hook, "expect": "abstain" });
    if let Some(settings) = settings {
        case["settings"] = settings.clone();
    }
    Cases::parse(json!([case]).to_string().as_bytes()).expect("a case of ours is well-formed")
}

/// Loads any file as a policy, as far as it goes.
///
/// # Panics
/// When the compiler panics, or the message of a refusal is long.
pub fn component(bench: &Bench, input: &[u8]) {
    if let Err(error) = bench.runtime.load(&"any".into(), input, NO_SETTINGS, Grants::default()) {
        is_a_short_refusal(&error);
    }
}

fn is_a_short_refusal(error: &LoadError) {
    let text = error.to_string();
    assert!(!text.contains("panicked"), "nothing panics over a file: {text}");
    assert!(text.len() < 64 << 10, "a message doesn't grow with the file: {} bytes", text.len());
}

/// Reads any text as `NAME.toml`.
///
/// # Panics
/// When what passes isn't within the gate's bounds.
pub fn policy_terms(bench: &Bench, input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(file) = PolicyFile::parse(text, "any.toml", &bench.gate) else { return };
    let terms = Terms::from(&file);
    let settings: Value = serde_json::from_str(&terms.settings).expect("settings are JSON");
    assert!(settings.is_object(), "and an object: {settings}");
    for hook in tollgate::policy::Hook::ALL {
        assert!(terms.hook(hook).cpu <= bench.gate.max_cpu_budget, "no budget is beyond the gate's");
    }
}

/// Reads any text as cases, and runs those that are some on a router.
///
/// # Panics
/// When a case has no report.
pub fn policy_cases(bench: &Bench, input: &[u8]) {
    let Ok(cases) = Cases::parse(input) else { return };
    let (router, ..) = &bench.answering[2];
    assert_eq!(bench.runtime.run_cases(router, &cases).len(), cases.len());
}

/// Lets a guest answer with these bytes; the first says which guest.
///
/// # Panics
/// When what the guest answered has changed what it answers afterwards, on its own instance or on another.
pub fn answer(bench: &Bench, input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    let (policy, hook, told_nothing) = &bench.answering[usize::from(*which) % bench.answering.len()];
    let letters = |byte: &u8| [char::from(b'a' + (byte >> 4)), char::from(b'a' + (byte & 15))];
    let text: String = bytes.iter().take(MOST_ANSWER).flat_map(letters).collect();
    let settings = json!({ "a": text });
    bench.ask(policy, hook, Some(&settings));
    if let Some([first, second]) = bench.ask_twice(policy, hook, &settings) {
        assert_eq!(first, second, "the same bytes are the same answer the next time");
    }
    assert_eq!(bench.ask(policy, hook, None), *told_nothing, "one instance is nothing to another");
}
