//! `tollgate check`: everything that `serve` would need, without serving; all that is wrong at once. Makes what `serve`
//! would make in the state folder.

use std::{collections::BTreeMap, num::NonZeroU64};

use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::{
    Format,
    output::{self, Failure},
};
use crate::{
    app::{
        Checked, StartError,
        declared::{AllBackends, DeclaredBackend, LeftOut},
        policies::Policies,
    },
    clock::Clock,
    config::{Config, ConfigErrors, Limits},
    policy::Hook,
    wire::causes::causes,
};

/// What was found, as a script reads it.
#[derive(Debug, Default, Serialize)]
struct Findings {
    /// Whether a gate would start.
    ok: bool,
    hooks: Vec<HookChain>,
    backends: Vec<Backend>,
    /// `[limits]` by key; what isn't there is unlimited.
    limits: BTreeMap<&'static str, NonZeroU64>,
    /// `[redis]` without what may be secret; none when limits hold in one process alone.
    redis: Option<String>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

/// Which policies decide at a hook, in order.
#[derive(Debug, Serialize)]
struct HookChain {
    hook: &'static str,
    policies: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Backend {
    name: String,
    url: String,
    /// `config` or `store`.
    source: &'static str,
    drained: bool,
}

/// What keeps a gate from starting; `key` and `source` where it is one key of the configuration.
#[derive(Debug, Serialize)]
struct Problem {
    key: Option<String>,
    source: Option<String>,
    message: String,
    hint: Option<String>,
}

impl Problem {
    fn of(message: String) -> Self {
        Self { key: None, source: None, message, hint: None }
    }
}

/// A configuration that can't be read: its own problems are all that is known.
pub(super) fn unreadable(errors: &ConfigErrors, format: Format) -> Failure {
    if format == Format::Table {
        return Failure::configuration(errors.to_string());
    }
    let problems = errors.problems().iter().map(|problem| Problem {
        key: (!problem.key.is_empty()).then(|| problem.key.clone()),
        source: Some(problem.source.clone()),
        message: problem.message.clone(),
        hint: problem.hint.clone(),
    });
    let findings = Findings { problems: problems.collect(), ..Findings::default() };
    let count = format!("{} in the configuration", problems_text(findings.problems.len()));
    output::json(&findings).err().unwrap_or_else(|| Failure::configuration(count))
}

pub(super) async fn check(config: &Config, format: Format) -> Result<(), Failure> {
    let checked = Checked::of(config, &Clock::system(), &TaskTracker::new()).await;
    let problems: Vec<Problem> = checked.problems.iter().flat_map(texts).map(Problem::of).collect();
    let findings = Findings {
        ok: problems.is_empty(),
        hooks: checked.policies.as_ref().map(hooks).unwrap_or_default(),
        backends: checked.backends.usable.iter().map(backend).collect(),
        limits: limits(&config.limits),
        redis: config.redis.as_ref().map(|redis| format!("{} ({})", redis.url, redis.mode.as_str())),
        warnings: config.warnings().into_iter().chain(unused(&checked.backends)).collect(),
        problems,
    };
    match format {
        Format::Json => output::json(&findings)?,
        Format::Table if findings.ok => {
            print(&findings);
            unused(&checked.backends).for_each(|text| output::note(&format!("note: {text}")));
        }
        Format::Table => {}
    }
    if findings.ok {
        return Ok(());
    }
    let count = problems_text(findings.problems.len());
    let text = match (format, findings.problems.as_slice()) {
        (Format::Json, _) => count,
        (Format::Table, [problem]) => problem.message.clone(),
        (Format::Table, problems) => {
            let lines: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
            format!("{}\n{count}", lines.join("\n"))
        }
    };
    let is_configuration = checked.problems.iter().any(StartError::is_configuration);
    Err(if is_configuration { Failure::configuration(text) } else { Failure::failed(text) })
}

fn texts(error: &StartError) -> Vec<String> {
    match error {
        StartError::Policies(problems) => problems.list().to_vec(),
        other => vec![causes(other)],
    }
}

fn hooks(policies: &Policies) -> Vec<HookChain> {
    let chains = policies.chains().load_full();
    let chain = |hook: Hook| {
        let deciding = chains.policies().filter(|policy| policy.decides(hook));
        HookChain { hook: hook.as_str(), policies: deciding.map(|policy| policy.name().to_string()).collect() }
    };
    Hook::ALL.map(chain).into()
}

fn backend(DeclaredBackend { config, origin, is_drained }: &DeclaredBackend) -> Backend {
    let (name, url) = (config.name.clone(), config.url.to_string());
    Backend { name, url, source: origin.as_str(), drained: *is_drained }
}

/// What was added, and serves nobody.
fn unused(backends: &AllBackends) -> impl Iterator<Item = String> {
    let text =
        |left_out: &LeftOut| format!("added backend '{}' is not used: {}", left_out.stored.name, left_out.reason);
    backends.left_out.iter().map(text)
}

fn limits(limits: &Limits) -> BTreeMap<&'static str, NonZeroU64> {
    let Limits { requests_per_minute, tokens_per_minute, concurrent, tokens_per_day, tokens_per_month, .. } = *limits;
    let all = [
        ("requests_per_minute", Some(requests_per_minute)),
        ("tokens_per_minute", tokens_per_minute),
        ("concurrent", concurrent),
        ("tokens_per_day", tokens_per_day),
        ("tokens_per_month", tokens_per_month),
    ];
    all.into_iter().filter_map(|(key, limit)| Some((key, limit?))).collect()
}

fn print(findings: &Findings) {
    for chain in &findings.hooks {
        let policies = if chain.policies.is_empty() { "-".to_owned() } else { chain.policies.join(", ") };
        output::result(&format!("{}: {policies}", chain.hook));
    }
    for backend in &findings.backends {
        let drained = if backend.drained { " (drained)" } else { "" };
        output::result(&format!("backend {}: {}{drained}", backend.name, backend.url));
    }
    for (key, limit) in &findings.limits {
        output::result(&format!("limits.{key}: {limit}"));
    }
    if let Some(redis) = &findings.redis {
        output::result(&format!("redis: {redis}"));
    }
    output::result("the configuration can be used");
}

fn problems_text(count: usize) -> String {
    if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") }
}
