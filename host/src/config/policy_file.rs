//! `NAME.toml`: what an operator says of one policy. Read like the configuration itself, with every problem at once.
//!
//! The gate's own configuration bounds what a policy may be given. Settings are the policy's business: any table, handed
//! over as JSON.

use std::time::Duration;

use bytesize::MIB;
use figment::value::{Num, Value};
use http::HeaderName;

use super::error::{Complaint, Problem};
use super::policies::{CPU_BUDGETS, MEMORIES};
use super::reader::{Reader, Section};
use super::sections::Policies;
use super::sources::Merged;
use super::values::{self, Checked};
use crate::wire::headers;

/// Longest settings, as JSON text in bytes: a guest takes no more in one call.
const SETTINGS_MAX: usize = 128 << 10;
/// Deepest table or list within settings.
const DEPTH_MAX: usize = 32;
/// Prefixes of headers that a policy may be granted.
const HEADERS_MAX: usize = 32;
/// Longest of them, in bytes: as long as the names that policies may set.
const HEADER_PREFIX_MAX: usize = 64;
const HOST_CALLS: u32 = 10_000;
const LOG_LINES: u32 = 100;
const MAX_CALLS: u32 = 100_000;
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
const MAX_GROWTH: u64 = 4 * MIB;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The hooks in the order in which a call meets them.
const HOOKS: [&str; 4] = ["authenticate", "admit", "route", "settle"];
const ON_FAULT: &[(&str, OnFault)] = &[("refuse", OnFault::Refuse), ("abstain", OnFault::Abstain)];
const ON_REMOVE: &[(&str, OnRemove)] = &[("keep", OnRemove::Keep), ("unload", OnRemove::Unload)];
const REUSE: &[(&str, Reuse)] = &[("pooled", Reuse::Pooled), ("per-call", Reuse::PerCall)];

/// What becomes of a call at a hook where the policy failed to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFault {
    /// It is refused with 503.
    #[default]
    Refuse,
    /// It goes on as if the policy had no opinion.
    Abstain,
}

/// What becomes of a policy whose file is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRemove {
    /// It serves on.
    Keep,
    /// It is no longer asked; the built-in policy of its name is.
    Unload,
}

/// How long an instance lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// For many calls.
    #[default]
    Pooled,
    /// For one.
    PerCall,
}

/// What one hook may cost, and what its fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookTerms {
    /// CPU time of one call, `100us` up to `policies.max_cpu_budget`. Default: the policy's own `cpu_budget`, or the gate's.
    pub cpu_budget: Duration,
    /// Calls to the host within one call, 1 to 10,000. Default 10,000.
    pub host_calls: u32,
    /// What a fault does. `abstain` is taken for `route` only.
    pub on_fault: OnFault,
}

/// One policy's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Where it is asked among the policies that join, 0 to 1000; the smallest first, then by name. Default 500.
    pub order: Option<u32>,
    /// `[settings]` as JSON. Default `{}`.
    pub settings: String,
    /// `[grants] raw_credential`: whether it may read callers' credentials in clear, to know callers by something else than a
    /// key. Default false.
    pub raw_credential: bool,
    /// `[grants] headers`: how the names of headers begin that it may set (`edits`), at most 32, of at most 64 bytes each, in
    /// small letters. What no policy may set stays so. An empty list: no header. Default: all that policies may set.
    pub headers: Option<Vec<String>>,
    /// By hook, in the order in which a call meets them; `[hooks.NAME]` or else the file's own `cpu_budget`, `host_calls` and
    /// `on_fault`.
    pub hooks: [HookTerms; 4],
    /// Memory of one instance in bytes, `1MiB` up to `policies.max_memory`. Default: the gate's.
    pub memory: u64,
    /// Lines that it may write to the log in a second, 0 to 1000. Default 100.
    pub log_lines: u32,
    /// Whether instances are used again. Default `pooled`; with `raw_credential` it is `per-call`: the memory of an instance may
    /// hold the credential of an earlier caller, and what the policy then writes is blanked for the present one only.
    pub reuse: Reuse,
    /// What happens when the component is removed. Default: `keep` for one that authenticates, else `unload`.
    pub on_remove: Option<OnRemove>,
    /// Calls after which an instance is replaced, 1 to 1,000,000,000. Default 100,000.
    pub max_calls: u32,
    /// Age at which it is replaced, `1s` to `24h`; looked at after every sixteenth call. Default `1h`.
    pub max_age: Duration,
    /// Growth of its memory at which it is replaced, up to `1GiB`. Default `4MiB`.
    pub max_growth: u64,
}

impl PolicyFile {
    /// Where a policy that joins is asked that doesn't say it.
    pub const ORDER: u32 = 500;

    /// What holds for a policy without a file.
    pub fn defaults(gate: &Policies) -> Self {
        let reader = Reader::new(Merged::empty(std::path::Path::new(".")), Vec::new());
        reader.root(|keys| file(keys, gate))
    }

    /// Reads the text of `label`, within the bounds of the gate.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn parse(text: &str, label: &str, gate: &Policies) -> Result<Self, Vec<Problem>> {
        let reader = Reader::new(Merged::of_text(text, label).map_err(|problem| vec![problem])?, Vec::new());
        let file = reader.root(|keys| file(keys, gate));
        let problems = reader.into_problems();
        if problems.is_empty() { Ok(file) } else { Err(problems) }
    }

    /// What is wrong with an order of its own in `label`, when the policy has the name of a built-in one.
    pub fn misplaced_order(&self, label: &str, is_built_in: bool) -> Option<String> {
        (is_built_in && self.order.is_some()).then(|| {
            format!(
                "order ({label}): is for policies that join; this one is asked in the place of the built-in policy of its \
                 name: leave it out"
            )
        })
    }
}

fn file(keys: &mut Section<'_>, gate: &Policies) -> PolicyFile {
    let bound = *CPU_BUDGETS.start()..=gate.max_cpu_budget;
    let own = HookTerms {
        cpu_budget: keys.or("cpu_budget", gate.cpu_budget, values::duration(bound.clone())),
        host_calls: keys.or("host_calls", HOST_CALLS, values::whole(1..=u64::from(HOST_CALLS))),
        on_fault: keys.or("on_fault", OnFault::Refuse, |value| on_fault(value, "")),
    };
    let hooks = keys.table("hooks", |keys| {
        HOOKS.map(|hook| {
            keys.table(hook, |keys| HookTerms {
                cpu_budget: keys.or("cpu_budget", own.cpu_budget, values::duration(bound.clone())),
                host_calls: keys.or("host_calls", own.host_calls, values::whole(1..=u64::from(HOST_CALLS))),
                on_fault: keys.or("on_fault", own.on_fault, |value| on_fault(value, hook)),
            })
        })
    });
    let (raw_credential, headers) = keys.table("grants", |keys| {
        let raw_credential = keys.or("raw_credential", false, values::boolean);
        (raw_credential, keys.optional_list("headers", HEADERS_MAX, header_prefix))
    });
    PolicyFile {
        order: keys.optional("order", values::whole(0..=1000)),
        settings: keys.or("settings", "{}".to_owned(), settings),
        raw_credential,
        headers,
        hooks,
        memory: keys.or("memory", gate.memory, values::size(*MEMORIES.start()..=gate.max_memory)),
        log_lines: keys.or("log_lines", LOG_LINES, values::whole(0..=1000)),
        reuse: keys.or("reuse", if raw_credential { Reuse::PerCall } else { Reuse::Pooled }, values::choice(REUSE)),
        on_remove: keys.optional("on_remove", values::choice(ON_REMOVE)),
        max_calls: keys.or("max_calls", MAX_CALLS, values::whole(1..=1_000_000_000)),
        max_age: keys.or("max_age", MAX_AGE, values::duration(Duration::from_secs(1)..=DAY)),
        max_growth: keys.or("max_growth", MAX_GROWTH, values::size(64 << 10..=*MEMORIES.end())),
    }
}

/// A policy that abstains at `authenticate` or `admit` because it fails would let pass what it is there to refuse, or
/// charge nothing. At `route` whom a call may reach is settled already.
fn on_fault(value: &Value, hook: &str) -> Checked<OnFault> {
    let on_fault = values::choice(ON_FAULT)(value)?;
    if on_fault == OnFault::Abstain && hook != "route" {
        let complaint = match hook {
            "" => Complaint::new(
                "\"abstain\" can't be said of all hooks: without an answer of `admit` nothing is charged",
            ),
            "settle" => Complaint::new("\"abstain\" changes nothing here: a fault of this hook refuses no call"),
            _ => Complaint::new("\"abstain\" would let pass what the policy is there to refuse"),
        };
        return Err(complaint.with_hint("leave it out, or write it in [hooks.route]"));
    }
    Ok(on_fault)
}

/// How the name of a header begins that a policy may be granted. What it may never set is said here, not by each call. A `*`,
/// which a name may hold, would be meant as a wildcard.
fn header_prefix(value: &Value) -> Checked<String> {
    let prefix = values::text(value)?;
    let is_usual = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let is_prefix = prefix.len() <= HEADER_PREFIX_MAX && prefix.bytes().all(is_usual);
    let name = HeaderName::try_from(prefix.as_str()).ok().filter(|_| is_prefix).ok_or_else(|| {
        let complaint =
            format!("not how a header's name begins, in small letters and at most {HEADER_PREFIX_MAX} bytes");
        Complaint::new(complaint).with_hint("write it like \"x-team-\", without a colon or a *")
    })?;
    if !headers::may_be_set(&name) {
        return Err(Complaint::new("no policy may set such a header").with_hint("leave it out, or name another one"));
    }
    Ok(prefix)
}

fn settings(value: &Value) -> Checked<String> {
    if value.as_dict().is_none() {
        return Err(
            values::wrong_type("a table", value).with_hint("write [settings] and the policy's own keys below it")
        );
    }
    if !is_json(value, DEPTH_MAX) {
        let complaint = format!("holds a number that JSON hasn't, or is nested more than {DEPTH_MAX} deep");
        return Err(Complaint::new(complaint));
    }
    let json = serde_json::to_string(value).map_err(|_| Complaint::new("can't be written as JSON"))?;
    if json.len() > SETTINGS_MAX {
        return Err(Complaint::new(format!("has more than {SETTINGS_MAX} bytes as JSON")));
    }
    Ok(json)
}

fn is_json(value: &Value, depth: usize) -> bool {
    match value {
        _ if depth == 0 => false,
        Value::Dict(_, dict) => dict.values().all(|value| is_json(value, depth - 1)),
        Value::Array(_, items) => items.iter().all(|value| is_json(value, depth - 1)),
        Value::Num(_, Num::F32(number)) => number.is_finite(),
        Value::Num(_, Num::F64(number)) => number.is_finite(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn gate() -> Policies {
        Config::defaults_in(std::path::Path::new("/")).policies
    }

    fn refused(text: &str, expected: &str) {
        let problems = PolicyFile::parse(text, "a.toml", &gate()).unwrap_err();
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [expected], "{text}");
    }

    #[test]
    fn an_empty_file_says_what_no_file_says() {
        assert_eq!(PolicyFile::parse("", "a.toml", &gate()), Ok(PolicyFile::defaults(&gate())));
        let defaults = PolicyFile::defaults(&gate());
        assert_eq!((defaults.settings.as_str(), defaults.memory, defaults.max_calls), ("{}", 64 << 20, 100_000));
        assert_eq!(defaults.hooks[0].cpu_budget, Duration::from_millis(2));
    }

    #[test]
    fn a_hook_has_its_own_terms_or_those_of_the_file() {
        let text = "order = 7\ncpu_budget = \"1ms\"\nreuse = \"per-call\"\non_remove = \"keep\"\n[hooks.route]\n\
                    cpu_budget = \"20ms\"\non_fault = \"abstain\"\n[settings]\ndeep = { list = [1, 2.5, \"x\", true] }\n";
        let file = PolicyFile::parse(text, "a.toml", &gate()).unwrap();
        assert_eq!((file.order, file.reuse, file.on_remove), (Some(7), Reuse::PerCall, Some(OnRemove::Keep)));
        assert_eq!(file.hooks.map(|hook| hook.cpu_budget.as_millis()), [1, 1, 20, 1]);
        assert_eq!(file.hooks.map(|hook| hook.on_fault == OnFault::Abstain), [false, false, true, false]);
        assert_eq!(file.settings, r#"{"deep":{"list":[1,2.5,"x",true]}}"#);
    }

    #[test]
    fn nothing_is_granted_that_nobody_wrote() {
        assert!(!PolicyFile::parse("[grants]", "a.toml", &gate()).unwrap().raw_credential);
        assert!(PolicyFile::parse("[grants]\nraw_credential = true", "a.toml", &gate()).unwrap().raw_credential);
        refused(
            "grants.raw_credentials = true",
            "grants.raw_credentials (a.toml): unknown key; did you mean `raw_credential`?",
        );
    }

    #[test]
    fn what_reads_credentials_keeps_no_instance_unless_its_operator_wants_it() {
        let reuse = |text: &str| PolicyFile::parse(text, "a.toml", &gate()).unwrap().reuse;
        assert_eq!(reuse("grants.raw_credential = true"), Reuse::PerCall);
        assert_eq!(reuse("grants.raw_credential = false"), Reuse::Pooled);
        assert_eq!(reuse("reuse = \"pooled\"\ngrants.raw_credential = true"), Reuse::Pooled);
        assert_eq!(reuse("grants.headers = []"), Reuse::Pooled);
    }

    #[test]
    fn headers_are_granted_by_how_their_names_begin() {
        let granted = |text: &str| PolicyFile::parse(text, "a.toml", &gate()).unwrap().headers;
        assert_eq!(granted("[grants]\nraw_credential = true"), None, "all that policies may set");
        assert_eq!(granted("grants.headers = []"), Some(Vec::new()));
        let prefixes = ["x-team-", "x-request-priority"].map(str::to_owned);
        assert_eq!(granted("grants.headers = [\"x-team-\", \"x-request-priority\"]"), Some(prefixes.to_vec()));
        assert_eq!(granted(&format!("grants.headers = [\"{}\"]", "x".repeat(64))).map(|list| list.len()), Some(1));
        for wrong in ["X-Team", "x-team*", "x-team:", "x team", "é", &"x".repeat(65)] {
            refused(
                &format!("grants.headers = [\"{wrong}\"]"),
                "grants.headers[0] (a.toml): not how a header's name begins, in small letters and at most 64 bytes; write it like \
                 \"x-team-\", without a colon or a *",
            );
        }
        for never in ["authorization", "x-tollgate-", "content-type", "set-cookie"] {
            refused(
                &format!("grants.headers = [\"x-a\", \"{never}\"]"),
                "grants.headers[1] (a.toml): no policy may set such a header; leave it out, or name another one",
            );
        }
        refused(
            "grants.headers = \"x-team-\"",
            "grants.headers (a.toml): expected a list, found a text; write a list, like [\"a\", \"b\"]",
        );
        refused(
            "grants.headers = [\"\"]",
            "grants.headers[0] (a.toml): may not be empty; leave the key out for the default",
        );
        let many = vec!["\"x-a\""; 33].join(", ");
        refused(&format!("grants.headers = [{many}]"), "grants.headers (a.toml): has more than 32 entries");
    }

    #[test]
    fn what_is_wrong_names_file_and_key_and_says_what_to_do() {
        refused("memroy = 1", "memroy (a.toml): unknown key; did you mean `memory`?");
        refused("[hooks.rout]", "hooks.rout (a.toml): unknown key; did you mean `route`?");
        refused("cpu_budget = \"21ms\"", "cpu_budget (a.toml): out of range; choose from 100us to 20ms");
        refused("memory = \"512MiB\"", "memory (a.toml): out of range; choose from 1MiB to 256MiB");
        refused("host_calls = 10001", "host_calls (a.toml): out of range; write a whole number from 1 to 10000");
        refused(
            "settings = 1",
            "settings (a.toml): expected a table, found a number; write [settings] and the policy's own keys below it",
        );
        refused(
            "[settings]\nx = inf",
            "settings (a.toml): holds a number that JSON hasn't, or is nested more than 32 deep",
        );
        refused(
            "reuse = \"pool\"",
            "reuse (a.toml): must be one of \"pooled\", \"per-call\"; did you mean \"pooled\"?",
        );
        refused(
            "on_fault = \"abstain\"",
            "on_fault (a.toml): \"abstain\" can't be said of all hooks: without an answer of `admit` nothing is charged; \
             leave it out, or write it in [hooks.route]",
        );
        refused(
            "hooks.admit.on_fault = \"abstain\"",
            "hooks.admit.on_fault (a.toml): \"abstain\" would let pass what the policy is there to refuse; leave it out, \
             or write it in [hooks.route]",
        );
        let problems = PolicyFile::parse("= 1", "a.toml", &gate()).unwrap_err();
        assert!(problems[0].to_string().starts_with("a.toml: not TOML: line 1"), "{problems:?}");
    }
}
