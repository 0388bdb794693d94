//! The gauges of backends. They are read where the backends are, at the moment somebody asks: nothing is kept here, so a
//! backend that is gone leaves no number behind.

use std::{
    fmt::{Debug, Error, Formatter, Result as FmtResult},
    sync::{Arc, OnceLock},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};

/// One backend's numbers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendNumbers {
    /// As declared.
    pub name: Arc<str>,
    /// Whether it answered when last asked.
    pub is_up: bool,
    /// Whether it gets no new calls.
    pub is_drained: bool,
    /// Calls that it serves now.
    pub in_flight: u32,
}

type Source = Box<dyn Fn() -> Vec<BackendNumbers> + Send + Sync>;

/// Gauges without numbers of their own; none are shown before there is a source.
#[derive(Clone, Default)]
pub(super) struct BackendGauges(Arc<OnceLock<Source>>);

impl BackendGauges {
    pub(super) fn read_from(&self, source: impl Fn() -> Vec<BackendNumbers> + Send + Sync + 'static) {
        if self.0.set(Box::new(source)).is_err() {
            tracing::error!("the metrics have their backends already");
        }
    }
}

impl Collector for BackendGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(source) = self.0.get() else { return Ok(()) };
        let backends = source();
        let mut gauge = |name, help, value: fn(&BackendNumbers) -> i64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for backend in &backends {
                family.encode_family(&[("backend", &*backend.name)])?.encode_gauge(&value(backend))?;
            }
            Ok::<(), Error>(())
        };
        gauge("backend_up", "Whether a backend answers its probe (1) or not (0)", |of| i64::from(of.is_up))?;
        gauge("backend_drained", "Whether a backend gets no new calls (1)", |of| i64::from(of.is_drained))?;
        gauge("backend_in_flight", "Calls that a backend serves now", |of| i64::from(of.in_flight))
    }
}

impl Debug for BackendGauges {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("BackendGauges")
    }
}
