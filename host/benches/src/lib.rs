//! What the benchmarks share.

use std::{
    fmt::{self, Display, Formatter},
    ops::AddAssign,
    time::Duration,
};

use hdrhistogram::Histogram;

/// Longest time that is told apart, in nanoseconds: a second.
const LONGEST_NS: u64 = 1_000_000_000;

/// Durations, each to three digits. A million of them take no more room than ten, which a list would.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("these bounds are in order"))
    }
}

impl Times {
    /// A duration above a second counts as a second.
    pub fn note(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS).min(LONGEST_NS));
    }

    /// The time that so many percent of these took at most, in nanoseconds. Zero of none.
    pub fn ns(&self, percent: u8) -> u64 {
        self.0.value_at_percentile(percent.into())
    }
}

impl AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.0.add(other.0).expect("all have the same bounds");
    }
}

/// The median, the 99th percentile and the longest, in milliseconds.
impl Display for Times {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let [p50, p99, longest] =
            [50, 99, 100].map(|percent| Duration::from_nanos(self.ns(percent)).as_secs_f64() * 1e3);
        write!(out, "{p50:>6.2} {p99:>6.2} {longest:>6.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_of_a_hundred_times_is_the_one_at_its_place() {
        let mut times = Times::default();
        assert_eq!(times.ns(50), 0);
        (1..=100).for_each(|ms| times.note(Duration::from_millis(ms)));
        assert_eq!([50, 99, 100].map(|percent| (times.ns(percent) + 500_000) / 1_000_000), [50, 99, 100]);
        let mut both = Times::default();
        both.note(Duration::from_secs(60));
        both += times;
        assert_eq!(both.to_string(), " 51.02 100.01 1000.34", "a minute counts as a second");
    }
}
