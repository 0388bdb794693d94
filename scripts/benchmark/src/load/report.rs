//! What a load has seen.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Trying};

/// Longest time that a histogram tells apart, in nanoseconds: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Durations; percentiles of them.
#[derive(Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self(Histogram::new_with_bounds(1_000, LONGEST_NS, 3).trying("the histogram can't be made")?))
    }

    /// A duration above the longest counts as the longest.
    pub(crate) fn note(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS).clamp(1_000, LONGEST_NS));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let us = |quantile| Duration::from_nanos(self.0.value_at_quantile(quantile)).as_secs_f64() * 1e6;
        Percentiles { count: self.0.len(), p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999), max_us: us(1.0) }
    }
}

/// Percentiles of durations, in microseconds; all zero where nothing was counted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// What went wrong, by kind.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Errors {
    /// No connection came about.
    pub(crate) connect: u64,
    /// The connection broke, or what came was no HTTP.
    pub(crate) broken: u64,
    /// The answer was not 200.
    pub(crate) status: u64,
    /// No answer by the end of the run.
    pub(crate) unfinished: u64,
    /// The first of them, in words.
    pub(crate) first: Option<String>,
}

impl Errors {
    pub(crate) fn total(&self) -> u64 {
        self.connect + self.broken + self.status + self.unfinished
    }
}

/// What a load has seen while it was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// How long was measured.
    pub(crate) seconds: f64,
    /// Calls that were answered whole, with 200, in that time.
    pub(crate) calls: u64,
    /// Lines of answers that came in that time.
    pub(crate) lines: u64,
    /// From the moment a call was meant to start to the end of its answer.
    pub(crate) latency: Percentiles,
    /// From the same moment to the first line of the answer.
    pub(crate) first_line: Percentiles,
    /// Between two arrivals of lines of one answer.
    pub(crate) gap: Percentiles,
    pub(crate) errors: Errors,
}
