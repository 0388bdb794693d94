//! The numbers of limits that are shared through Redis. All but the time of its answers are read where they are kept, at the
//! moment somebody asks.

use std::{
    fmt::{Debug, Error, Formatter, Result as FmtResult},
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
};

/// Upper ends of the buckets, in seconds.
const BUCKETS: [f64; 10] = [0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1];

/// What sharing limits came to since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisNumbers {
    /// Calls that Redis was not asked about, or didn't answer, by reason.
    pub unavailable: [(&'static str, u64); 4],
    /// Whether limits aren't shared now.
    pub is_degraded: bool,
    /// Milliseconds in which they weren't.
    pub degraded_ms: u64,
    /// Counters that were told what was spent without Redis.
    pub replayed: u64,
    /// Calls that waited too long, and whose reservations were taken back.
    pub cancelled: u64,
    /// Ends of calls that Redis answered with an error, so that it counts what they had reserved.
    pub lost: u64,
    /// Counters whose spending without Redis it answered with an error, so that it doesn't know of it.
    pub untold: u64,
    /// Units spent without Redis that it was never told of.
    pub forgotten_units: u64,
    /// How often Redis had lost its counters.
    pub losses: u64,
    /// Budgets that it was then told again.
    pub restored: u64,
    /// Units of budgets that are written nowhere.
    pub unwritten_units: u64,
    /// Calls that run, or whose end Redis has yet to hear of.
    pub waiting: u64,
}

type Source = Box<dyn Fn() -> RedisNumbers + Send + Sync>;

/// Numbers that are shown once there is a source.
#[derive(Clone)]
pub(super) struct RedisMetrics {
    took: Histogram,
    source: Arc<OnceLock<Source>>,
}

impl Default for RedisMetrics {
    fn default() -> Self {
        Self { took: Histogram::new(BUCKETS), source: Arc::default() }
    }
}

impl RedisMetrics {
    pub(super) fn read_from(&self, source: impl Fn() -> RedisNumbers + Send + Sync + 'static) {
        if self.source.set(Box::new(source)).is_err() {
            tracing::error!("the metrics have their Redis already");
        }
    }

    pub(super) fn took(&self, time: Duration) {
        self.took.observe(time.as_secs_f64());
    }
}

impl Collector for RedisMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(source) = self.source.get() else { return Ok(()) };
        let numbers = source();
        let help = "How long a call waited for its limits to be reserved in Redis";
        self.took.encode(encoder.encode_descriptor("redis_duration_seconds", help, None, MetricType::Histogram)?)?;
        let help = "Calls that Redis was not asked about, or didn't answer, by reason";
        let mut family = encoder.encode_descriptor("redis_unavailable", help, None, MetricType::Counter)?;
        for (reason, count) in numbers.unavailable {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        for (name, help, count) in [
            ("redis_replayed", "Counters that were told what was spent without Redis", numbers.replayed),
            (
                "redis_cancelled",
                "Calls that waited too long, and whose reservations were taken back",
                numbers.cancelled,
            ),
            ("redis_lost", "Ends of calls that Redis answered with an error", numbers.lost),
            (
                "redis_untold",
                "Counters of which Redis answered with an error what was spent without it, so that it isn't counted there",
                numbers.untold,
            ),
            ("redis_forgotten_units", "Units spent without Redis of which it was never told", numbers.forgotten_units),
            ("redis_losses", "How often Redis had lost its counters, so that windows began anew", numbers.losses),
            ("redis_restored", "Budgets that Redis had lost and was told again from the store", numbers.restored),
            (
                "redis_unwritten_units",
                "Units of budgets that found no place to wait for the store (limits.max_counters)",
                numbers.unwritten_units,
            ),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let seconds = ConstCounter::new(Duration::from_millis(numbers.degraded_ms).as_secs_f64());
        let help = "Seconds in which limits were not shared";
        seconds.encode(encoder.encode_descriptor("redis_degraded_seconds", help, None, seconds.metric_type())?)?;
        let waiting = i64::try_from(numbers.waiting).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("redis_degraded", "Whether limits are not shared now (1)", i64::from(numbers.is_degraded)),
            ("redis_waiting", "Calls that run, or whose end Redis has yet to hear of", waiting),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

impl Debug for RedisMetrics {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("RedisMetrics")
    }
}
