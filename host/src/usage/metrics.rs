//! Metrics, with labels of bounded kinds only: never a key, a user or a path.

use std::{
    fmt::{Debug, Formatter, Result as FmtResult},
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{
    admin::AdminNumbers,
    backend_gauges::{BackendGauges, BackendNumbers},
    edges::Edges,
    estimate_error::EstimateError,
    few::Few,
    limit_counters::{LimitCounters, LimitNumbers},
    limit_refusals::LimitRefusals,
    policy_numbers::{PolicyMetrics, PolicyNumbers},
    redis_numbers::{RedisMetrics, RedisNumbers},
};
use crate::{
    llm::{Operation, Surface},
    policy::{FaultKind, Hook, Observer},
};

/// Upper ends of the buckets of a policy call's duration, in seconds: from half a microsecond to the wall cap.
const POLICY_BUCKETS: [f64; 13] = [
    0.000_000_5,
    0.000_001,
    0.000_002,
    0.000_005,
    0.000_01,
    0.000_02,
    0.000_05,
    0.000_1,
    0.000_5,
    0.001,
    0.002,
    0.01,
    0.1,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    surface: &'static str,
    operation: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    surface: &'static str,
    direction: &'static str,
    estimated: &'static str,
}

/// Which way tokens went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the model.
    Input,
    /// From the model.
    Output,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    policy: Arc<str>,
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    policy: Arc<str>,
    hook: &'static str,
    kind: &'static str,
}

type Seconds = Family<PolicyLabels, Histogram, fn() -> Histogram>;

/// All metrics of a gate. One per process; cheap to read and write from any thread.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    known_requests: Few<RequestLabels, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
    tokens: Family<TokenLabels, Counter>,
    known_tokens: Few<TokenLabels, Counter>,
    estimate_error: EstimateError,
    policy_seconds: Seconds,
    known_policies: Few<PolicyLabels, Histogram>,
    policy_faults: Family<FaultLabels, Counter>,
    backends: BackendGauges,
    limits: LimitCounters,
    limit_refusals: LimitRefusals,
    policies: PolicyMetrics,
    redis: RedisMetrics,
    edges: Edges,
    admin: AdminNumbers,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tollgate");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Calls that ended, by surface, operation and status class", requests.clone());
        let in_flight = Gauge::default();
        registry.register("requests_in_flight", "Calls in progress", in_flight.clone());
        let tokens = Family::<TokenLabels, Counter>::default();
        registry.register("tokens", "Tokens that models read and wrote, counted by them or estimated", tokens.clone());
        let estimate_error = EstimateError::register(&mut registry);
        let policy_seconds = Seconds::new_with_constructor(|| Histogram::new(POLICY_BUCKETS));
        registry.register(
            "policy_call_duration_seconds",
            "How long a policy took to answer; its count is the number of calls",
            policy_seconds.clone(),
        );
        let policy_faults = Family::<FaultLabels, Counter>::default();
        registry.register("policy_faults", "Policy calls that failed, by kind of fault", policy_faults.clone());
        let backends = BackendGauges::default();
        let limits = LimitCounters::default();
        registry.register_collector(Box::new(backends.clone()));
        registry.register_collector(Box::new(limits.clone()));
        let policies = PolicyMetrics::default();
        registry.register_collector(Box::new(policies.clone()));
        let redis = RedisMetrics::default();
        registry.register_collector(Box::new(redis.clone()));
        let limit_refusals = LimitRefusals::register(&mut registry);
        let (edges, admin) = (Edges::register(&mut registry), AdminNumbers::register(&mut registry));
        Self {
            registry,
            requests,
            known_requests: Few::default(),
            in_flight,
            tokens,
            known_tokens: Few::default(),
            estimate_error,
            policy_seconds,
            known_policies: Few::default(),
            policy_faults,
            backends,
            limits,
            limit_refusals,
            policies,
            redis,
            edges,
            admin,
        }
    }
}

impl Metrics {
    /// The numbers of the edges.
    pub fn edges(&self) -> &Edges {
        &self.edges
    }

    /// A call has begun.
    pub fn call_began(&self) {
        self.in_flight.inc();
    }

    /// A call has ended with this status.
    pub fn call_ended(&self, surface: Surface, operation: Operation, status: u16) {
        let labels =
            RequestLabels { surface: surface.as_str(), operation: operation.as_str(), status: status_class(status) };
        let make = || (labels.clone(), self.requests.get_or_create(&labels).clone());
        self.known_requests.with(|known| *known == labels, make, Counter::inc);
        self.in_flight.dec();
    }

    /// A call took so many tokens.
    pub fn tokens_took(&self, surface: Surface, direction: Direction, tokens: u64, is_estimated: bool) {
        if tokens == 0 {
            return;
        }
        let (surface, direction) = (surface.as_str(), direction.as_str());
        let estimated = if is_estimated { "true" } else { "false" };
        let labels = TokenLabels { surface, direction, estimated };
        let make = || (labels.clone(), self.tokens.get_or_create(&labels).clone());
        self.known_tokens.with(|known| *known == labels, make, |counter| counter.inc_by(tokens));
    }

    /// A call of which so many tokens were expected took so many.
    pub fn estimate_missed(&self, direction: Direction, expected: u32, used: u64) {
        self.estimate_error.note(direction, expected, used);
    }

    /// Backends are asked for whenever the metrics are read, so that what is gone is gone here too. Only the first source
    /// counts.
    pub fn backends_from(&self, source: impl Fn() -> Vec<BackendNumbers> + Send + Sync + 'static) {
        self.backends.read_from(source);
    }

    /// The limits are asked for whenever the metrics are read. Only the first source counts.
    pub fn limits_from(&self, source: impl Fn() -> LimitNumbers + Send + Sync + 'static) {
        self.limits.read_from(source);
    }

    /// The policies are asked for whenever the metrics are read. Only the first source counts.
    pub fn policies_from(&self, source: impl Fn() -> Vec<PolicyNumbers> + Send + Sync + 'static) {
        self.policies.read_from(source);
    }

    /// This limit refused a call.
    pub fn limit_refused(&self, policy: &str, limit: &str) {
        self.limit_refusals.note(policy, limit);
    }

    /// Redis is asked for whenever the metrics are read. Only the first source counts.
    pub fn redis_from(&self, source: impl Fn() -> RedisNumbers + Send + Sync + 'static) {
        self.redis.read_from(source);
    }

    /// A call waited so long for its limits in Redis.
    pub fn redis_took(&self, time: Duration) {
        self.redis.took(time);
    }

    /// The numbers of the admin listener.
    pub fn admin(&self) -> &AdminNumbers {
        &self.admin
    }

    /// The metrics as OpenMetrics text.
    pub fn render(&self) -> String {
        self.edges.look();
        let mut text = String::new();
        // Writing to a string can't fail; an encoder's error would leave what was written before it.
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }
}

impl Observer for Metrics {
    fn asked(&self, policy: &str, hook: Hook, took: Duration, fault: Option<FaultKind>) {
        let hook = hook.as_str();
        let make = || {
            let labels = PolicyLabels { policy: policy.into(), hook };
            let histogram = self.policy_seconds.get_or_create(&labels).clone();
            (labels, histogram)
        };
        let is = |known: &PolicyLabels| known.hook == hook && *known.policy == *policy;
        self.known_policies.with(is, make, |histogram| histogram.observe(took.as_secs_f64()));
        if let Some(kind) = fault {
            let labels = FaultLabels { policy: policy.into(), hook, kind: kind.as_str() };
            self.policy_faults.get_or_create(&labels).inc();
        }
    }
}

impl Debug for Metrics {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("Metrics")
    }
}

impl Direction {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

fn status_class(status: u16) -> &'static str {
    match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_stands_in_the_text() {
        let metrics = Metrics::default();
        metrics.call_began();
        metrics.call_began();
        metrics.call_ended(Surface::OpenAi, Operation::Chat, 429);
        metrics.tokens_took(Surface::Ollama, Direction::Input, 7, true);
        metrics.tokens_took(Surface::Ollama, Direction::Output, 0, false);
        metrics.estimate_missed(Direction::Input, 10, 7);
        metrics.estimate_missed(Direction::Input, 10, 14);
        metrics.estimate_missed(Direction::Input, 10, 10);
        metrics.backends_from(|| {
            vec![BackendNumbers { name: "gpu-1".into(), is_up: true, is_drained: false, in_flight: 3 }]
        });
        metrics.limits_from(|| LimitNumbers { admitted: 9, refused: 4, debts: 2, debt_units: 70, overshoot_units: 0 });
        metrics.asked("api-key", Hook::Authenticate, Duration::from_micros(3), Some(FaultKind::Budget));
        let text = metrics.render();
        for line in [
            r#"tollgate_requests_total{surface="openai",operation="chat",status="4xx"} 1"#,
            "tollgate_requests_in_flight 1",
            r#"tollgate_tokens_total{surface="ollama",direction="input",estimated="true"} 7"#,
            r#"tollgate_estimate_error_tokens_total{direction="input",kind="spare"} 3"#,
            r#"tollgate_estimate_error_tokens_total{direction="input",kind="owed"} 4"#,
            r#"tollgate_estimate_error_tokens_total{direction="output",kind="owed"} 0"#,
            r#"tollgate_backend_up{backend="gpu-1"} 1"#,
            r#"tollgate_backend_drained{backend="gpu-1"} 0"#,
            r#"tollgate_backend_in_flight{backend="gpu-1"} 3"#,
            "tollgate_limits_admitted_total 9",
            "tollgate_limits_refused_total 4",
            "tollgate_limits_debts_total 2",
            "tollgate_limits_debt_units_total 70",
            "tollgate_limits_overshoot_units_total 0",
            r#"tollgate_policy_faults_total{policy="api-key",hook="authenticate",kind="budget"} 1"#,
            r#"tollgate_policy_call_duration_seconds_bucket{le="0.000005",policy="api-key",hook="authenticate"} 1"#,
            r#"tollgate_policy_call_duration_seconds_count{policy="api-key",hook="authenticate"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("surface=\"ollama\",direction=\"output\""), "nothing was written:\n{text}");
    }
}
