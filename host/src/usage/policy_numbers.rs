//! Numbers of policies beside their calls: loading, breakers, instances. Read where they are counted, when somebody asks.

use std::{
    fmt::{Debug, Error, Formatter, Result as FmtResult},
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

/// Three counters by the word that stands for each.
pub type ThreeCounts = [(&'static str, u64); 3];

/// One policy's numbers at one moment; none: it isn't in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyNumbers {
    /// Its name.
    pub policy: String,
    /// Whether a breaker of it is open.
    pub is_stopped: Option<bool>,
    /// What it can do, in plain words; nothing when it isn't in force.
    pub capabilities: Vec<&'static str>,
    /// How often one opened.
    pub openings: u64,
    /// How often its version before took its place.
    pub steps_back: u64,
    /// Versions that came into force.
    pub passed: u64,
    /// Versions that didn't, by the step at which they stopped.
    pub failed: Vec<(&'static str, u64)>,
    /// Lines that the log didn't take.
    pub log_lines_dropped: u64,
    /// Instances that were replaced, by reason.
    pub retired: Option<ThreeCounts>,
    /// Decisions that were made a second time, by what came out.
    pub rechecked: Option<ThreeCounts>,
}

type Source = Box<dyn Fn() -> Vec<PolicyNumbers> + Send + Sync>;
type Samples<'a> = Vec<(&'a str, Option<&'static str>, u64)>;

/// Metrics without numbers of their own; none are shown before there is a source.
#[derive(Clone, Default)]
pub(super) struct PolicyMetrics(Arc<OnceLock<Source>>);

impl PolicyMetrics {
    pub(super) fn read_from(&self, source: impl Fn() -> Vec<PolicyNumbers> + Send + Sync + 'static) {
        if self.0.set(Box::new(source)).is_err() {
            tracing::error!("the metrics have their policies already");
        }
    }
}

impl Collector for PolicyMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(source) = self.0.get() else { return Ok(()) };
        let policies = source();
        let plain = |value: fn(&PolicyNumbers) -> u64| -> Samples<'_> {
            policies.iter().map(|of| (of.policy.as_str(), None, value(of))).collect()
        };
        let by = |values: fn(&PolicyNumbers) -> Option<ThreeCounts>| -> Samples<'_> {
            let each = policies.iter().filter_map(|of| Some((of.policy.as_str(), values(of)?)));
            each.flat_map(|(policy, values)| values.map(|(word, value)| (policy, Some(word), value))).collect()
        };
        let help = "Whether a policy isn't asked because it kept failing (1)";
        let mut open = encoder.encode_descriptor("policy_breaker_open", help, None, MetricType::Gauge)?;
        for (policy, is_stopped) in policies.iter().filter_map(|of| Some((of.policy.as_str(), of.is_stopped?))) {
            open.encode_family(&[("policy", policy)])?.encode_gauge(&i64::from(is_stopped))?;
        }
        let help = "What a policy in force can do, told by what it imports (1)";
        let mut can = encoder.encode_descriptor("policy_capabilities", help, None, MetricType::Gauge)?;
        for of in &policies {
            for capability in &of.capabilities {
                let labels = [("policy", of.policy.as_str()), ("capability", *capability)];
                can.encode_family(&labels)?.encode_gauge(&1_i64)?;
            }
        }
        let failed = policies
            .iter()
            .flat_map(|of| of.failed.iter().map(|(step, count)| (of.policy.as_str(), Some(*step), *count)));
        let mut write = |name, help, label, samples| counters(&mut encoder, (name, help, label), samples);
        let help = "How often a policy was no longer asked because it kept failing";
        write("policy_breaker_openings", help, "", plain(|of| of.openings))?;
        let help = "How often a policy's version before took its place because it kept failing";
        write("policy_steps_back", help, "", plain(|of| of.steps_back))?;
        write("policy_loads", "Versions of a policy that came into force", "", plain(|of| of.passed))?;
        let help = "Versions of a policy that didn't come into force, by the step at which they stopped";
        write("policy_load_failures", help, "step", failed.collect())?;
        let help = "Lines of a policy that the log didn't take";
        write("policy_log_lines_dropped", help, "", plain(|of| of.log_lines_dropped))?;
        let help = "Instances of a policy that were replaced, by reason";
        write("policy_instances_retired", help, "reason", by(|of| of.retired))?;
        let help = "Decisions of a policy that were made again on a fresh instance, by what came out";
        write("policy_rechecks", help, "outcome", by(|of| of.rechecked))
    }
}

/// One family of counters: its name, its help, and the second label's name.
fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, label): (&str, &str, &str),
    samples: Samples<'_>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (policy, word, value) in samples {
        let labels: Vec<(&str, &str)> =
            [Some(("policy", policy)), word.map(|word| (label, word))].into_iter().flatten().collect();
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Debug for PolicyMetrics {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("PolicyMetrics")
    }
}
