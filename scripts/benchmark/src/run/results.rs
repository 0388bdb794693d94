//! What a run has measured: every raw figure, as the JSON file has it.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use serde::{Deserialize, Serialize};

use crate::{contender::Kind, load::Report};

/// One run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Results {
    /// What was measured: `git describe`.
    pub(crate) commit: String,
    /// When, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) contenders: Vec<Contender>,
    /// What was not measured, and why.
    pub(crate) left_out: Vec<LeftOut>,
}

/// Where it was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
}

impl Display for Machine {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory_mib, kernel } = self;
        write!(out, "{processor}, {cores} cores, {} GiB, Linux {kernel}", (memory_mib + 512) / 1024)
    }
}

/// How it was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Settings {
    /// Whether it only shows that all is served: its times are too short to be compared with anything.
    pub(crate) is_smoke: bool,
    pub(crate) rounds: usize,
    pub(crate) warm_up_seconds: f64,
    pub(crate) measured_seconds: f64,
    /// Keep-alive connections of the closed loop.
    pub(crate) connections: usize,
    /// Calls a second of the open loop.
    pub(crate) rate: f64,
    /// Streams at once, of lines at a pace.
    pub(crate) streams: usize,
    /// Streams held open to see their memory.
    pub(crate) held_streams: usize,
    /// Whether load and backend never slept.
    pub(crate) spins: bool,
}

/// One column.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) version: Option<String>,
    pub(crate) rounds: Vec<Round>,
    /// Memory of one open stream, in bytes; none for what has no process.
    pub(crate) stream_bytes: Option<f64>,
}

/// One start, and what was measured until its end.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Round {
    /// From the start of the process to its first answered call, in milliseconds.
    pub(crate) start_ms: Option<f64>,
    /// After that call, in bytes.
    pub(crate) idle_resident_bytes: Option<u64>,
    /// By row: as many calls as are answered.
    pub(crate) closed: BTreeMap<String, Figures>,
    /// Short streams at a fixed rate.
    pub(crate) open: Figures,
    /// Streams of 200 lines at a pace.
    pub(crate) paced: Figures,
}

/// One load, and what it cost the proxy.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Figures {
    /// CPU time of the proxy's own process, in seconds; none where there is no proxy.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) report: Report,
}

/// A column that is not there.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) kind: Kind,
    pub(crate) why: String,
}

/// One kind of call of the closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) model: &'static str,
    pub(crate) body_bytes: usize,
}

/// The rows of the closed loop.
pub(crate) const ROWS: [Row; 4] = [
    Row { name: "1 KiB", model: "bytes-1024:latest", body_bytes: 1024 },
    Row { name: "16 KiB", model: "bytes-16384:latest", body_bytes: 1024 },
    Row { name: "256 KiB", model: "bytes-262144:latest", body_bytes: 1024 },
    Row { name: "1 KiB, request of 16 KiB", model: "bytes-1024:latest", body_bytes: 16 << 10 },
];

impl Figures {
    /// CPU of the proxy for one call, in microseconds.
    pub(crate) fn cpu_us_per_call(&self) -> Option<f64> {
        per(self.cpu_seconds, self.report.calls)
    }

    /// CPU of the proxy for one line, in microseconds.
    pub(crate) fn cpu_us_per_line(&self) -> Option<f64> {
        per(self.cpu_seconds, self.report.lines)
    }

    pub(crate) fn calls_per_second(&self) -> f64 {
        number(self.report.calls) / self.report.seconds
    }
}

impl Contender {
    /// The median over the rounds of one figure; none where a round doesn't have it.
    pub(crate) fn median(&self, figure: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        middle(self.rounds.iter().map(figure).collect::<Option<Vec<f64>>>()?)
    }

    /// The median over the rounds of how many times the other's figure this one's is in the same round: what slows the
    /// machine for a while slows both.
    pub(crate) fn times(&self, other: &Self, figure: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        middle(pairs.map(|(mine, theirs)| Some(figure(mine)? / figure(theirs)?)).collect::<Option<Vec<f64>>>()?)
    }

    pub(crate) fn errors(&self) -> u64 {
        let of = |figures: &Figures| figures.report.errors.total();
        self.rounds
            .iter()
            .map(|round| of(&round.open) + of(&round.paced) + round.closed.values().map(of).sum::<u64>())
            .sum()
    }
}

impl Results {
    pub(crate) fn contender(&self, kind: Kind) -> Option<&Contender> {
        self.contenders.iter().find(|contender| contender.kind == kind)
    }
}

fn middle(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    let (low, high) = (all.get(all.len().checked_sub(1)? / 2)?, all.get(all.len() / 2)?);
    Some((low + high) / 2.0)
}

fn per(cpu_seconds: Option<f64>, count: u64) -> Option<f64> {
    cpu_seconds.filter(|_| count > 0).map(|seconds| seconds * 1e6 / number(count))
}

/// Counts of a run lie far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, and nothing here counts so far")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_two_lies_between_and_one_gap_is_none() {
        let figures = || {
            Figures {
            cpu_seconds: Some(2.0),
            report: serde_json::from_str(
                r#"{"seconds":2,"calls":1000,"lines":0,"latency":{"count":0,"p50_us":0,"p99_us":0,"p999_us":0,"max_us":0},
                "first_line":{"count":0,"p50_us":0,"p99_us":0,"p999_us":0,"max_us":0},
                "gap":{"count":0,"p50_us":0,"p99_us":0,"p999_us":0,"max_us":0},
                "errors":{"connect":0,"broken":1,"status":0,"unfinished":2,"first":null}}"#,
            )
            .unwrap(),
        }
        };
        let round = |start_ms| Round {
            start_ms,
            idle_resident_bytes: None,
            closed: BTreeMap::new(),
            open: figures(),
            paced: figures(),
        };
        let with = |starts: &[Option<f64>]| Contender {
            kind: Kind::Nginx,
            version: None,
            rounds: starts.iter().map(|start| round(*start)).collect(),
            stream_bytes: None,
        };
        assert_eq!(with(&[Some(3.0), Some(1.0)]).median(|round| round.start_ms), Some(2.0));
        assert_eq!(with(&[Some(9.0), Some(1.0), Some(2.0)]).median(|round| round.start_ms), Some(2.0));
        assert_eq!(with(&[Some(3.0), None]).median(|round| round.start_ms), None);
        assert_eq!(with(&[]).median(|round| round.start_ms), None);
        let twice = with(&[Some(2.0), Some(8.0), Some(50.0)]);
        assert_eq!(twice.times(&with(&[Some(1.0), Some(4.0), Some(1.0)]), |round| round.start_ms), Some(2.0));
        assert_eq!(twice.times(&with(&[Some(1.0), None]), |round| round.start_ms), None);
        assert_eq!(with(&[None]).errors(), 6);
        assert_eq!(figures().cpu_us_per_call(), Some(2000.0));
        assert_eq!(figures().cpu_us_per_line(), None);
    }
}
