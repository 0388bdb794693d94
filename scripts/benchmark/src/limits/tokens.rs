//! Limits of tokens: what is reserved never passes the limit, and what is used passes it by what was owed, and no more.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Bench, Report,
    backend::INPUT_TOKENS,
    caller::{Call, until},
    exact::{CALLERS, Keys, held, succeeded},
    gates::{Gates, SOON},
};
use crate::failure::Failure;

/// Tokens a minute.
pub(super) const LIMIT: u64 = 1_000;
/// Names of the keys.
pub(super) const CAPPED: &str = "capped";
pub(super) const OPEN: &str = "open";

pub(super) const HEAD: &str = "\
| limit | gates | answers | ran at the same time | most reserved, as shown | used, by the backend's count | of that used beyond reservations |
|---|---|---|---:|---:|---:|---:|";

/// What callers ask for.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    model: &'static str,
    words: &'static str,
    cap: Option<u64>,
    /// What each answer has.
    output: u64,
}

pub(super) async fn look(
    bench: &Bench,
    gates: &Gates,
    keys: &Keys,
    title: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let capped = Kind { name: CAPPED, model: "held-50", words: "50 tokens, capped", cap: Some(50), output: 50 };
    let open = Kind { name: OPEN, model: "held-600", words: "600 tokens, no cap", cap: None, output: 600 };
    for (kind, key) in [(capped, &keys.capped), (open, &keys.open)] {
        one(bench, gates, kind, key, title, report).await?;
    }
    Ok(())
}

async fn one(
    bench: &Bench,
    gates: &Gates,
    kind: Kind,
    key: &str,
    title: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let (owed_before, alone_before) = (owed(gates).await?, gates.counted_alone().await?);
    let call = Call { model: kind.model, key, cap: kind.cap, streams: false };
    let addresses = gates.addresses();
    // Counters in Redis are not this gate's own, and it doesn't show them.
    let shows = addresses.len() == 1;
    let calls = held(bench, call, &addresses);
    tokio::pin!(calls);
    let mut most_reserved = 0;
    let ended = loop {
        tokio::select! {
            ended = &mut calls => break ended?,
            shown = gates.shown(kind.name, "tokens-per-minute"), if shows => {
                let shown = shown?;
                most_reserved = most_reserved.max(shown.reserved + shown.spent.min(LIMIT));
                sleep(Duration::from_millis(5)).await;
                report.promise(shown.reserved <= LIMIT, format!("{title}: {} of {LIMIT} tokens are reserved", shown.reserved));
            }
        }
    };
    gates.until_idle().await?;
    let passed = u64::try_from(succeeded(&ended.statuses)?).unwrap_or(u64::MAX);
    let used = passed * (INPUT_TOKENS + kind.output);
    let owed = owed(gates).await? - owed_before;
    let shown = if shows { most_reserved.to_string() } else { "–".to_owned() };
    report.say(&format!(
        "| {LIMIT} tokens a minute | {title} | {} | {} | {shown} | {used} | {owed} |",
        kind.words, ended.running
    ));
    report.promise(passed > 0, format!("{title}: no call of {} passed", kind.words));
    report.promise(ended.running == passed, format!("{title}: {} ran, and {passed} passed", ended.running));
    // What a cap promises is reserved in full.
    let least_reserved = passed * kind.cap.unwrap_or(0);
    if gates.counted_alone().await? > alone_before {
        report.say("| (not judged: a gate had to count by itself) | | | | | | |");
        return Ok(());
    }
    report.promise(least_reserved <= LIMIT, format!("{title}: at least {least_reserved} of {LIMIT} were reserved"));
    report.promise(used <= LIMIT + owed, format!("{title}: {used} tokens were used, and {owed} of them owed"));
    settled(gates, kind, key, title, shows, report).await
}

/// Where everything was used up, the next call waits; where a gate shows its counters they say so.
async fn settled(
    gates: &Gates,
    kind: Kind,
    key: &str,
    title: &str,
    shows: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    if shows {
        let nothing = async || Ok(gates.shown(kind.name, "tokens-per-minute").await?.reserved == 0);
        report.promise(
            until("nothing is reserved", SOON, nothing).await.is_ok(),
            format!("{title}: tokens stay reserved"),
        );
    }
    if kind.cap.is_none() {
        let call = Call { model: "now-8", key, cap: Some(1), streams: false };
        let mut refused = true;
        for gate in gates.addresses() {
            refused &= gates.caller.call(call, gate).await? == 429;
        }
        report
            .promise(refused, format!("{title}: a call passed though {CALLERS} callers had used more than there was"));
    }
    Ok(())
}

/// What calls used beyond what was expected of them, in all gates.
async fn owed(gates: &Gates) -> Result<u64, Failure> {
    let mut sum = 0.0;
    for direction in ["input", "output"] {
        let metric = format!("tollgate_estimate_error_tokens_total{{direction=\"{direction}\",kind=\"owed\"}}");
        sum += gates.sum(&metric).await?;
    }
    format!("{sum:.0}").parse().map_err(|_| Failure::new("what is owed is no number"))
}
