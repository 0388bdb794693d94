//! The counters of limits. They are read where the limits are held, at the moment somebody asks: nothing is kept here.

use std::{
    fmt::{Debug, Error, Formatter, Result as FmtResult},
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};

/// What the limits did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitNumbers {
    /// Calls whose charges were reserved.
    pub admitted: u64,
    /// Calls that found a limit used up, or no place for a counter.
    pub refused: u64,
    /// How often what a call used made a counter pass its capacity.
    pub debts: u64,
    /// By how many units they passed it.
    pub debt_units: u64,
    /// Units that were reserved beyond a capacity.
    pub overshoot_units: u64,
}

type Source = Box<dyn Fn() -> LimitNumbers + Send + Sync>;

/// Counters without numbers of their own; none are shown before there is a source.
#[derive(Clone, Default)]
pub(super) struct LimitCounters(Arc<OnceLock<Source>>);

impl LimitCounters {
    pub(super) fn read_from(&self, source: impl Fn() -> LimitNumbers + Send + Sync + 'static) {
        if self.0.set(Box::new(source)).is_err() {
            tracing::error!("the metrics have their limits already");
        }
    }
}

impl Collector for LimitCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(source) = self.0.get() else { return Ok(()) };
        let LimitNumbers { admitted, refused, debts, debt_units, overshoot_units } = source();
        for (name, help, number) in [
            ("limits_admitted", "Calls whose charges were reserved", admitted),
            ("limits_refused", "Calls that found a limit used up, or no place for a counter", refused),
            ("limits_debts", "How often what a call used made a counter pass its capacity", debts),
            ("limits_debt_units", "Units by which what was used passed a capacity; later calls pay them", debt_units),
            ("limits_overshoot_units", "Units reserved beyond a capacity: a fault if not 0", overshoot_units),
        ] {
            let counter = ConstCounter::new(number);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

impl Debug for LimitCounters {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("LimitCounters")
    }
}
