//! What the benchmarks share.

use std::time::Duration;

/// The time that so many percent of these took at most, in nanoseconds: they are sorted. Zero of none.
pub fn percentile_ns(sorted: &[Duration], percent: usize) -> u128 {
    sorted.get(sorted.len() * percent / 100).map_or(0, Duration::as_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_of_a_hundred_times_is_the_one_at_its_place() {
        let times: Vec<_> = (0..100).map(Duration::from_nanos).collect();
        assert_eq!([50, 99].map(|percent| percentile_ns(&times, percent)), [50, 99]);
        assert_eq!(percentile_ns(&[], 50), 0);
    }
}
