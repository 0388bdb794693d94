//! One row of the table: what was seen, and whether it is what was promised.

use std::time::{Duration, Instant};

use super::super::Report;
use super::{fault::Fault, load::Seen};

pub(super) const HEAD: &str = "\
| Redis is | served | refused | errors | overshoot / allowed | p99 before | added p99, met | added p50 / p99, while degraded | degraded after | back after |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|";

/// A minute: what limits are of.
const WINDOW: Duration = Duration::from_secs(60);
/// Within this after the fault a call has met it, where no gate said so.
const MET: Duration = Duration::from_secs(1);
/// What a primary that dies may not have told its replica.
const NOT_REPLICATED: Duration = Duration::from_secs(1);

/// What a paused Redis may add, in ms: to calls that meet it, and once the breaker is open.
const MOST_ADDED_MET_MS: f64 = 30.0;
const MOST_ADDED_OPEN_MS: f64 = 0.1;
/// By when the breaker is open, in ms.
const OPEN_BY_MS: f64 = 1_000.0;

/// When what happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    pub(super) struck: Instant,
    /// When the Redis that was there had certainly failed.
    pub(super) gone: Instant,
    /// When both gates said so.
    pub(super) degraded: Option<Instant>,
    pub(super) healed: Instant,
    /// When all gates shared limits again.
    pub(super) back: Instant,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) fault: Fault,
    pub(super) limit: u32,
    /// What all gates together may admit by themselves.
    pub(super) shares: u32,
    pub(super) seen: Vec<Seen>,
    pub(super) first_error: Option<String>,
    pub(super) moments: Moments,
    /// Calls about which Redis was not asked, or that it didn't answer.
    pub(super) unavailable: f64,
    pub(super) forgotten_units: f64,
    pub(super) lost: f64,
}

impl Row {
    pub(super) fn line(&self) -> String {
        let moments = self.moments;
        let met = ms(percentile(self.met(), 99)) - self.steady_p99();
        let (p50, p99) = self.added_while_degraded();
        let degraded = moments.degraded.map(|since| ms(since.duration_since(moments.struck)));
        let back = degraded.map(|_| ms(moments.back.duration_since(moments.healed)));
        let or_never = |ms: Option<f64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0}"));
        let both = if degraded.is_none() { "–".to_owned() } else { format!("{p50:+.2} / {p99:+.2}") };
        format!(
            "| {} | {} | {} | {} | {} / {} | {:.2} | {met:+.2} | {both} | {} | {} |",
            self.fault.title(),
            self.admitted(),
            self.of_status(429),
            self.errors(),
            self.overshoot(),
            self.allowed(),
            self.steady_p99(),
            or_never(degraded),
            back.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0}")),
        )
    }

    /// Holds it against what was promised; of times only where they can be held.
    pub(super) fn judge(&self, is_smoke: bool, report: &mut Report) {
        let title = self.fault.title();
        let first = self.first_error.as_deref().unwrap_or_default();
        report.promise(self.errors() == 0, format!("{title}: {} calls failed: {first}", self.errors()));
        let (overshoot, allowed) = (self.overshoot(), self.allowed());
        report.promise(overshoot <= allowed, format!("{title}: {overshoot} calls beyond the limit, {allowed} may be"));
        report.promise(self.admitted() > 0, format!("{title}: nothing was served"));
        let free_refused = self.seen.iter().filter(|seen| !seen.is_counted && seen.status == 429).count();
        report
            .promise(free_refused == 0, format!("{title}: {free_refused} calls without a limit in reach were refused"));
        report.promise(
            self.forgotten_units == 0.0 && self.lost == 0.0,
            format!("{title}: {} units and {} ends of calls never reached Redis", self.forgotten_units, self.lost),
        );
        if !is_smoke && self.fault == Fault::Paused {
            self.judge_times(report);
        }
    }

    fn judge_times(&self, report: &mut Report) {
        let title = self.fault.title();
        let met = ms(percentile(self.met(), 99)) - self.steady_p99();
        report.promise(met <= MOST_ADDED_MET_MS, format!("{title}: {met:.2} ms were added to calls that met it"));
        let after = self.moments.degraded.map(|since| ms(since.duration_since(self.moments.struck)));
        report.promise(
            after.is_some_and(|after| after <= OPEN_BY_MS),
            format!("{title}: gates said `degraded` after {after:?} ms"),
        );
        let (p50, _) = self.added_while_degraded();
        report.promise(p50 <= MOST_ADDED_OPEN_MS, format!("{title}: {p50:.2} ms were added once the breaker was open"));
    }

    fn of_status(&self, status: u16) -> usize {
        self.counted().filter(|seen| seen.status == status).count()
    }

    fn counted(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(|seen| seen.is_counted)
    }

    fn admitted(&self) -> usize {
        self.of_status(200)
    }

    /// Of both keys.
    fn errors(&self) -> usize {
        self.seen.iter().filter(|seen| !matches!(seen.status, 200 | 429)).count()
    }

    /// Minutes that the row has seen, begun ones too: more than one on a machine that is very slow.
    fn windows(&self) -> usize {
        let first = self.seen.iter().map(|seen| seen.began).min();
        let last = self.seen.iter().map(|seen| seen.began + seen.took).max();
        let took = first.zip(last).map_or(Duration::ZERO, |(first, last)| last.duration_since(first));
        usize::try_from(took.as_secs() / WINDOW.as_secs()).unwrap_or(usize::MAX).saturating_add(1)
    }

    fn overshoot(&self) -> usize {
        self.admitted().saturating_sub(units(self.limit) * self.windows())
    }

    /// What may be admitted beyond the limit.
    fn allowed(&self) -> usize {
        let shares = if self.unavailable > 0.0 { units(self.shares) * self.windows() } else { 0 };
        let since = match self.fault {
            Fault::Killed | Fault::Emptied => None,
            Fault::FailedOver => Some(NOT_REPLICATED),
            Fault::Paused | Fault::Slowed | Fault::ScriptFlushed | Fault::ReadOnly => return shares,
        };
        let Moments { struck, gone, .. } = self.moments;
        let is_forgotten = |seen: &&Seen| {
            let is_late = since.is_none_or(|since| seen.began + since >= struck);
            seen.status == 200 && seen.began < gone && is_late
        };
        shares + self.counted().filter(is_forgotten).count()
    }

    fn free(&self, is_such: impl Fn(&Seen) -> bool) -> Vec<Duration> {
        self.seen.iter().filter(|seen| !seen.is_counted && is_such(seen)).map(|seen| seen.took).collect()
    }

    fn steady(&self) -> Vec<Duration> {
        self.free(|seen| seen.began + seen.took <= self.moments.struck)
    }

    fn steady_p99(&self) -> f64 {
        ms(percentile(self.steady(), 99))
    }

    /// Calls that ran when it failed, or began before that was known.
    fn met(&self) -> Vec<Duration> {
        let struck = self.moments.struck;
        let until = self.moments.degraded.unwrap_or(struck + MET);
        self.free(|seen| seen.began + seen.took > struck && seen.began < until)
    }

    /// Added to the median and to p99.
    fn added_while_degraded(&self) -> (f64, f64) {
        let until = if self.fault.lasts() { self.moments.healed } else { self.moments.back };
        let during =
            self.free(|seen| self.moments.degraded.is_some_and(|since| seen.began > since && seen.began < until));
        let added = |percent| ms(percentile(during.clone(), percent)) - ms(percentile(self.steady(), percent));
        (added(50), added(99))
    }
}

fn units(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The time within which so many of a hundred were; none: no time.
fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(rank).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    fn row(fault: Fault, admitted: usize, unavailable: f64) -> Row {
        let struck = now() + Duration::from_secs(10);
        let seen = |number: usize| Seen {
            began: struck - Duration::from_secs(u64::from(number.is_multiple_of(2)) * 5),
            took: Duration::from_millis(1),
            status: 200,
            is_counted: true,
        };
        let moments = Moments { struck, gone: struck, degraded: None, healed: struck, back: struck };
        Row {
            fault,
            limit: 10,
            shares: 10,
            seen: (0..admitted).map(seen).collect(),
            first_error: None,
            moments,
            unavailable,
            forgotten_units: 0.0,
            lost: 0.0,
        }
    }

    fn broken(row: &Row) -> usize {
        let mut report = Report::default();
        row.judge(true, &mut report);
        report.broken.len()
    }

    #[test]
    fn more_than_limit_and_shares_is_found() {
        assert_eq!((broken(&row(Fault::Paused, 20, 1.0)), broken(&row(Fault::Paused, 21, 1.0))), (0, 1));
        assert_eq!((broken(&row(Fault::ScriptFlushed, 10, 0.0)), broken(&row(Fault::ScriptFlushed, 11, 0.0))), (0, 1));
    }

    #[test]
    fn what_redis_forgot_may_pass_again() {
        // Every other call was served before Redis died.
        assert_eq!((broken(&row(Fault::Emptied, 20, 0.0)), broken(&row(Fault::Emptied, 21, 0.0))), (0, 0));
        assert_eq!(row(Fault::Emptied, 20, 0.0).allowed(), 10);
        assert_eq!(row(Fault::FailedOver, 20, 0.0).allowed(), 0);
    }

    #[test]
    fn a_percentile_is_a_time_that_was_seen() {
        let times = |count| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!((percentile(times(100), 99), percentile(times(3), 50)), (times(99)[98], times(2)[1]));
        assert_eq!(percentile(Vec::new(), 99), Duration::ZERO);
    }
}
