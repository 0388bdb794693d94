//! Exactly as many callers pass as a limit says: over one gate without Redis, and over three that share one.
//!
//! Calls are held by the backend until all others were refused, so that no run depends on how fast anything is.

use std::net::SocketAddr;

use tokio::task::JoinSet;

use super::{
    Bench, Report,
    caller::{Call, until},
    gates::{Gates, SOON, Site},
    redis::Redis,
    tokens,
};
use crate::{clock::now, failure::Failure};

pub(super) const CALLERS: usize = 200;
/// Runs of each kind, each with a fresh key.
const RUNS: usize = 20;
const RUNS_OF_A_SMOKE: usize = 3;
/// What a minute admits, and how many may run at the same time.
const A_MINUTE: usize = 100;
const AT_ONCE: usize = 5;
/// A run that takes longer, in seconds, has seen more than one minute's worth: it says nothing of one.
const ONE_MINUTE: u64 = 55;

/// Limits that are shared with no haste: a slow moment of this machine is no outage.
const PATIENT: &str = "deadline = \"10s\"\nreplicas = 3\n";

pub(super) async fn look(bench: &Bench) -> Result<Report, Failure> {
    let mut report = Report::default();
    report.say(&format!("### {CALLERS} callers at once\n"));
    report.say("| limit | gates | runs | succeeded in each run | most at the same time at the backend |");
    report.say("|---|---|---:|---|---:|");
    let mut of_tokens = Report::default();
    for (gates, redis) in [(1, false), (3, true)] {
        let site = Site::new(bench.folder.join(format!("exact-{gates}")), &bench.program)?;
        let redis = redis.then(|| Redis::start(&site.folder, &[])).transpose()?;
        let section = redis.as_ref().map(|redis| format!("url = \"redis://{}\"\n{PATIENT}", redis.address));
        site.configure(bench.backend.address, section.as_deref())?;
        let keys = Keys::make(&site, if bench.is_smoke { RUNS_OF_A_SMOKE } else { RUNS })?;
        let running = site.start(gates, &bench.caller).await?;
        let title = if redis.is_some() { format!("{gates}, one Redis") } else { format!("{gates}, no Redis") };
        requests(bench, &running, &keys, &title, &mut report).await?;
        at_once(bench, &running, &keys, &title, &mut report).await?;
        tokens::look(bench, &running, &keys, &title, &mut of_tokens).await?;
        let overshoot = running.sum("tollgate_limits_overshoot_units_total").await?;
        report.promise(overshoot == 0.0, format!("{title}: {overshoot} units were reserved beyond a limit"));
    }
    report.say("\n### Tokens\n");
    report.say(tokens::HEAD);
    report.say(of_tokens.text.trim_end());
    report.broken.extend(of_tokens.broken);
    Ok(report)
}

/// Keys of one site, each for one run.
#[derive(Debug)]
pub(super) struct Keys {
    requests: Vec<String>,
    at_once: Vec<String>,
    pub(super) capped: String,
    pub(super) open: String,
}

impl Keys {
    fn make(site: &Site, runs: usize) -> Result<Self, Failure> {
        let many = |kind: &str, limits: &[&str]| -> Result<Vec<String>, Failure> {
            (0..runs).map(|run| site.key(&format!("{kind}-{run}"), limits)).collect()
        };
        let tokens = tokens::LIMIT.to_string();
        let of_tokens = ["--tpm", &tokens, "--rpm", "100000"];
        Ok(Self {
            requests: many("requests", &["--rpm", &A_MINUTE.to_string()])?,
            at_once: many("at-once", &["--concurrent", &AT_ONCE.to_string(), "--rpm", "100000"])?,
            capped: site.key(tokens::CAPPED, &of_tokens)?,
            open: site.key(tokens::OPEN, &of_tokens)?,
        })
    }
}

async fn requests(bench: &Bench, gates: &Gates, keys: &Keys, title: &str, report: &mut Report) -> Result<(), Failure> {
    let (mut counts, mut all, mut unjudged, came_before) = (Vec::new(), 0, 0, bench.backend.calls());
    for key in &keys.requests {
        let (began, alone_before) = (now(), gates.counted_alone().await?);
        let call = Call { model: "now-8", key, cap: None, streams: false };
        let mut calls = bench.caller.call_at_once(CALLERS, call, &gates.addresses())?;
        let mut statuses = Vec::new();
        while let Some(status) = calls.join_next().await {
            statuses.push(status.map_err(|_| Failure::new("a caller broke off"))??);
        }
        let passed = succeeded(&statuses)?;
        all += passed;
        let is_shared = gates.counted_alone().await? == alone_before;
        if is_shared && now().duration_since(began).as_secs() < ONE_MINUTE {
            counts.push(passed);
        } else {
            unjudged += 1;
        }
    }
    report.say(&format!("| {A_MINUTE} requests a minute | {title} | {} | {} | – |", counts.len(), each(&counts)));
    say_unjudged(unjudged, &counts, title, report);
    let came = bench.backend.calls() - came_before;
    report.promise(
        u64::try_from(all) == Ok(came),
        format!("{title}: {all} calls succeeded, and {came} came to the backend"),
    );
    let are_exact = counts.iter().all(|count| *count == A_MINUTE);
    report.promise(
        are_exact,
        format!("{title}: {} of {CALLERS} callers passed under {A_MINUTE} a minute", each(&counts)),
    );
    Ok(())
}

async fn at_once(bench: &Bench, gates: &Gates, keys: &Keys, title: &str, report: &mut Report) -> Result<(), Failure> {
    let (mut counts, mut unjudged) = (Vec::new(), 0);
    gates.until_idle().await?;
    bench.backend.takes_most_running();
    for key in &keys.at_once {
        let call = Call { model: "held-8", key, cap: None, streams: false };
        let alone_before = gates.counted_alone().await?;
        let passed = succeeded(&held(bench, call, &gates.addresses()).await?.statuses)?;
        if gates.counted_alone().await? == alone_before {
            counts.push(passed);
        } else {
            unjudged += 1;
        }
    }
    let most = bench.backend.takes_most_running();
    report.say(&format!("| {AT_ONCE} at the same time | {title} | {} | {} | {most} |", counts.len(), each(&counts)));
    let all = counts.iter().all(|count| *count == AT_ONCE);
    report.promise(all, format!("{title}: {} of {CALLERS} callers passed, {AT_ONCE} may run at once", each(&counts)));
    say_unjudged(unjudged, &counts, title, report);
    let is_bounded = unjudged > 0 || most <= AT_ONCE.try_into().unwrap_or(u64::MAX);
    report.promise(is_bounded, format!("{title}: {most} ran at the same time"));
    Ok(())
}

/// A run in which a gate had to count by itself, or that took longer than a minute, says nothing of exactness.
fn say_unjudged(unjudged: usize, counts: &[usize], title: &str, report: &mut Report) {
    if unjudged > 0 {
        report.say(&format!("| {unjudged} runs were not judged: this machine was too slow | {title} | | | |"));
    }
    report.promise(!counts.is_empty(), format!("{title}: no run could be judged"));
}

/// How held calls went.
#[derive(Debug)]
pub(super) struct Held {
    /// How many ran at the same time, when all others had been refused.
    pub(super) running: u64,
    pub(super) statuses: Vec<u16>,
}

/// All callers at once; those that are admitted end only when all others were refused.
pub(super) async fn held(bench: &Bench, call: Call<'_>, gates: &[SocketAddr]) -> Result<Held, Failure> {
    let mut calls = bench.caller.call_at_once(CALLERS, call, gates)?;
    let mut statuses = Vec::new();
    until("each caller is refused or runs", SOON, async || {
        take_ended(&mut calls, &mut statuses)?;
        Ok(statuses.len() + usize::try_from(bench.backend.running()).unwrap_or(usize::MAX) >= CALLERS)
    })
    .await?;
    let running = bench.backend.running();
    bench.backend.release();
    while let Some(status) = calls.join_next().await {
        statuses.push(status.map_err(|_| Failure::new("a caller broke off"))??);
    }
    Ok(Held { running, statuses })
}

fn take_ended(calls: &mut JoinSet<Result<u16, Failure>>, statuses: &mut Vec<u16>) -> Result<(), Failure> {
    while let Some(status) = calls.try_join_next() {
        statuses.push(status.map_err(|_| Failure::new("a caller broke off"))??);
    }
    Ok(())
}

/// How many succeeded; all others must have been told that there are too many.
pub(super) fn succeeded(statuses: &[u16]) -> Result<usize, Failure> {
    match statuses.iter().find(|status| !matches!(status, 200 | 429)) {
        Some(other) => Err(Failure::new(format!("a call was answered {other}, neither 200 nor 429"))),
        None => Ok(statuses.iter().filter(|status| **status == 200).count()),
    }
}

/// Counts in words: one number where all are the same.
fn each(counts: &[usize]) -> String {
    match counts {
        [first, rest @ ..] if rest.iter().all(|count| count == first) => first.to_string(),
        _ => counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_counts_are_one_number_and_others_all_of_them() {
        assert_eq!((each(&[100, 100]), each(&[100, 99]), each(&[])), ("100".into(), "100 99".into(), String::new()));
    }

    #[test]
    fn whoever_gets_neither_an_answer_nor_a_refusal_is_an_error() {
        assert_eq!(succeeded(&[200, 429, 200]).unwrap(), 2);
        assert!(succeeded(&[200, 503]).is_err());
    }
}
