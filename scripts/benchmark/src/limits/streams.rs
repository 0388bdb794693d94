//! Streams of which half are left half-way: what they took is counted, and nothing of it stays reserved.

use std::path::Path;

use tokio::task::JoinSet;

use super::{
    Bench, Report,
    backend::INPUT_TOKENS,
    caller::Call,
    exact::held,
    gates::{Gates, Site},
    redis::Redis,
};
use crate::failure::Failure;

/// Streams of a run; as many may run at the same time, so that one that is still held would be missed.
const STREAMS: usize = super::exact::CALLERS;
/// Calls to the end before, from which gates learn how long such prompts are.
const LESSONS: usize = 40;
const MODEL: &str = "paced-40-10";
const LINES: u64 = 40;
/// Lines that a stream may be ahead of the gate when its caller leaves.
const UNDER_WAY: u64 = 2;
const KEY: &str = "streams";

pub(super) async fn look(bench: &Bench) -> Result<Report, Failure> {
    let mut report = Report::default();
    report.say(&format!("### {STREAMS} streams of {LINES} tokens, half of them left half-way\n"));
    report.say(
        "| gates | whole: recorded / written | left: recorded / written | input of those left, each: recorded / true | \
         reserved at the end | places free at the end |",
    );
    report.say("|---|---:|---:|---:|---:|---:|");
    for (gates, redis) in [(1, false), (3, true)] {
        let site = Site::new(bench.folder.join(format!("streams-{gates}")), &bench.program)?;
        let redis = redis.then(|| Redis::start(Path::new(&site.folder), &[])).transpose()?;
        let section = redis
            .as_ref()
            .map(|redis| format!("url = \"redis://{}\"\ndeadline = \"10s\"\nreplicas = 3", redis.address));
        site.configure(bench.backend.address, section.as_deref())?;
        let limits = ["--concurrent", &STREAMS.to_string(), "--tpm", "10M", "--rpm", "100000"];
        let key = site.key(KEY, &limits)?;
        let running = site.start(gates, &bench.caller).await?;
        let title = if redis.is_some() { format!("{gates}, one Redis") } else { format!("{gates}, no Redis") };
        one(bench, &running, &key, &title, &mut report).await?;
    }
    report.say(&format!(
        "\nWhat a stream that was left has written is what came until then: at most {UNDER_WAY} tokens fewer than the backend \
         had written, for those were on their way. Its input is the estimate, which learns from calls that end."
    ));
    Ok(report)
}

/// What the gates have recorded, and the backend written.
#[derive(Clone, Copy, Debug)]
struct Taken {
    counted: [f64; 2],
    estimated: [f64; 2],
    written: f64,
}

impl Taken {
    async fn so_far(bench: &Bench, gates: &Gates) -> Result<Self, Failure> {
        let tokens = async |direction: &str, estimated: bool| {
            let labels = format!("surface=\"ollama\",direction=\"{direction}\",estimated=\"{estimated}\"");
            gates.sum(&format!("tollgate_tokens_total{{{labels}}}")).await
        };
        Ok(Self {
            counted: [tokens("input", false).await?, tokens("output", false).await?],
            estimated: [tokens("input", true).await?, tokens("output", true).await?],
            written: format!("{}", bench.backend.written()).parse().unwrap_or(f64::MAX),
        })
    }

    fn since(self, before: Self) -> Self {
        let less = |now: [f64; 2], before: [f64; 2]| [now[0] - before[0], now[1] - before[1]];
        Self {
            counted: less(self.counted, before.counted),
            estimated: less(self.estimated, before.estimated),
            written: self.written - before.written,
        }
    }
}

async fn one(bench: &Bench, gates: &Gates, key: &str, title: &str, report: &mut Report) -> Result<(), Failure> {
    let call = Call { model: MODEL, key, cap: None, streams: true };
    for gate in gates.addresses().iter().cycle().take(LESSONS * gates.addresses().len()) {
        bench.caller.call(Call { cap: Some(1), ..call }, *gate).await?;
    }
    gates.until_idle().await?;
    let before = Taken::so_far(bench, gates).await?;
    let mut streams = JoinSet::new();
    for (number, gate) in gates.addresses().into_iter().cycle().take(STREAMS).enumerate() {
        let (caller, key) = (bench.caller.clone(), key.to_owned());
        // Three in turn, so that each of up to three gates has both kinds.
        let leaves = number / 3 % 2 == 1;
        streams.spawn(async move {
            let call = Call { key: &key, ..Call { model: MODEL, key: "", cap: None, streams: true } };
            let half = usize::try_from(LINES / 2).unwrap_or(usize::MAX);
            let status = match leaves {
                true => caller.leaves_after(half, call, gate).await,
                false => caller.call(call, gate).await,
            };
            status.map(|status| (status, leaves))
        });
    }
    let mut left = 0_u32;
    while let Some(ended) = streams.join_next().await {
        let (status, leaves) = ended.map_err(|_| Failure::new("a caller broke off"))??;
        report.promise(status == 200, format!("{title}: a stream was answered {status}"));
        left += u32::from(leaves);
    }
    gates.until_idle().await?;
    let taken = Taken::so_far(bench, gates).await?.since(before);
    let free = held(bench, Call { model: "held-1", streams: false, ..call }, &gates.addresses()).await?.running;
    gates.until_idle().await?;
    judge(gates, taken, left, free, title, report).await
}

async fn judge(
    gates: &Gates,
    taken: Taken,
    left: u32,
    free: u64,
    title: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let whole = f64::from(u32::try_from(STREAMS).unwrap_or(u32::MAX) - left);
    let (left, number) = (f64::from(left), |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    let [input, output] = taken.counted;
    let written_whole = whole * number(LINES);
    let written_left = taken.written - written_whole;
    let [guessed_input, seen] = taken.estimated;
    let each = guessed_input / left;
    let is_one = gates.addresses().len() == 1;
    let reserved = if is_one { Some(gates.shown(KEY, "tokens-per-minute").await?.reserved) } else { None };
    report.say(&format!(
        "| {title} | {output} / {written_whole} | {seen} / {written_left} | {each:.1} / {INPUT_TOKENS} | {} | {free} of {STREAMS} |",
        reserved.map_or_else(|| "–".to_owned(), |reserved| reserved.to_string()),
    ));
    let is_exact = output == written_whole && input == whole * number(INPUT_TOKENS);
    report.promise(is_exact, format!("{title}: of whole streams {input} and {output} tokens were recorded"));
    let missed = written_left - seen;
    let may_miss = left * number(UNDER_WAY);
    report.promise(
        (0.0..=may_miss).contains(&missed),
        format!("{title}: {missed} tokens of those who left weren't seen"),
    );
    let off = (each / number(INPUT_TOKENS) - 1.0).abs();
    report.promise(off <= 0.1, format!("{title}: the input of those who left is estimated as {each:.1} each"));
    report.promise(reserved.unwrap_or(0) == 0, format!("{title}: tokens stay reserved"));
    let all = free == u64::try_from(STREAMS).unwrap_or(u64::MAX);
    report.promise(all, format!("{title}: only {free} of {STREAMS} calls may run at the end: some are still counted"));
    Ok(())
}
