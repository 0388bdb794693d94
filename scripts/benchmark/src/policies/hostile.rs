//! Hostile guests at every hook: what a caller saw whose call they spoil, what others saw meanwhile, and what the log said.
//!
//! A caller may see the effect that the policy's file declares, and nothing else. Others are those whose calls the policy has
//! no part in; at `settle`, where nobody is refused, those whose calls it doesn't spoil.

use std::{collections::BTreeSet, time::Duration};

use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{
    Bench, Gate, chat,
    folder::{Files, reload, status},
    guest::{Guest, Hook, MARKED_BYTES, MARKED_CAP, doorman},
    load::{Load, Seen},
    plain,
};
use crate::{
    clock::now,
    failure::{Failure, Trying},
    site::{
        Report,
        caller::{Answer, until},
        gates::SOON,
    },
};

/// Hooks, and what a fault does there.
const COLUMNS: [(Hook, Effect); 5] = [
    (Hook::Authenticate, Effect::Refuse),
    (Hook::Admit, Effect::Refuse),
    (Hook::Route, Effect::Refuse),
    (Hook::Route, Effect::Abstain),
    (Hook::Settle, Effect::Nothing),
];
/// Marked calls before the breaker may open, with an unmarked one after each.
const PAIRS: usize = 4;
/// Marked calls by which it must have opened: it does after 20 faults, of which those at `settle` come later than the calls.
const MOST_CALLS: usize = 1_000;
/// Calls while it is open.
const AFTERWARDS: usize = 5;
/// Lines that one policy may have in the log in a second.
const LOG_LINES: usize = 100;
/// Other callers, and how long each rests after a call.
const OTHERS: usize = 2;
const REST: Duration = Duration::from_millis(2);

/// Open for good once it is open, and whatever others' calls come to: so that a row sees both.
const BREAKER: &str =
    "[policies.breaker]\nfaults = 20\nwindow = \"1h\"\npercent = 1\npause = \"1h\"\nmax_pause = \"1h\"";

const HEAD: &str = "\
| guest | hook | caller: failing | then others of its hook | breaker | caller: breaker open | fault in the log | others served / failed | worst, ms |
|---|---|---|---|---|---|---|---:|---:|";

/// What a fault does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Refuse,
    Abstain,
    Nothing,
}

impl Effect {
    fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Abstain => "abstain",
            Self::Nothing => "none",
        }
    }

    /// What a caller sees of it: a status, and the error's code.
    fn seen(self) -> &'static str {
        match self {
            Self::Refuse => "503 policy_fault",
            Self::Abstain | Self::Nothing => "200",
        }
    }
}

/// What was seen of one guest at one hook.
#[derive(Debug, Default)]
struct Row {
    marked: BTreeSet<String>,
    unmarked: BTreeSet<String>,
    opened_after: Option<usize>,
    open: BTreeSet<String>,
    kinds: BTreeSet<String>,
    /// Lines of the guest's own in the log, and the time in which they came.
    lines: usize,
    lasted: Duration,
}

pub(super) async fn look(bench: &Bench) -> Result<Report, Failure> {
    let mut report = Report::default();
    report.say("### Hostile policies\n");
    report.say("<details><summary>What callers saw, by guest and hook</summary>\n");
    report.say(HEAD);
    let mut rows = 0;
    for (hook, effect) in COLUMNS {
        let name = format!("hostile-{}-{}", hook.name(), effect.name());
        let mut gate = Gate::start(bench, &name, 1, BREAKER).await?;
        if let Some(doorman) = doorman(hook, &bench.wit)? {
            let files = Files { component: doorman, terms: Some("order = 0\n".to_owned()), cases: None };
            gate.folder.put("doorman", &files)?;
        }
        for guest in Guest::ALL {
            one(bench, &mut gate, (guest, hook, effect), &mut report).await?;
            rows += 1;
        }
    }
    report.say(&format!(
        "\n</details>\n\n{rows} rows, over {} gates, none of which ended. *Caller* is who makes the calls that the guest spoils; *others \
         served* are callers in whose calls it has no part (at `settle`: whose calls it doesn't spoil).",
        COLUMNS.len()
    ));
    Ok(report)
}

async fn one(
    bench: &Bench,
    gate: &mut Gate,
    (guest, hook, effect): (Guest, Hook, Effect),
    report: &mut Report,
) -> Result<(), Failure> {
    let name = format!("{}-{}", guest.name(), hook.name());
    let title = format!("{} at {} ({})", guest.name(), hook.name(), effect.name());
    let on_fault = if effect == Effect::Abstain {
        format!("[hooks.{}]\non_fault = \"abstain\"\n", hook.name())
    } else {
        String::new()
    };
    let terms = Some(format!("order = 10\non_remove = \"unload\"\n{on_fault}"));
    let component = guest.component(hook, &bench.wit, &bench.guests)?;
    gate.folder.put(&name, &Files { component, terms, cases: None })?;
    reload(&gate.gates).await?;
    let loaded = status(&gate.gates, &name).await?;
    if loaded.state != "in-force" {
        return Err(Failure::new(format!("{title} can't be judged: it isn't in force: {loaded:?}")));
    }
    let said_before = gate.gates.log()?.len();
    let others = Load::start(OTHERS, REST, &bench.caller, &other(gate, hook)?)?;
    let began = now();
    let row = attack(bench, gate, &name, (guest, hook)).await;
    let seen = others.end().await;
    let mut row = row.trying(&title)?;
    row.lasted = now().duration_since(began);
    gate.gates.must_run().trying(&title)?;
    listen(gate, &name, hook, said_before, &mut row).await.trying(&title)?;
    gate.folder.remove(&name)?;
    reload(&gate.gates).await?;
    judge(&title, &row, &seen, (guest, effect), report);
    say(&row, &seen, (guest, hook, effect), report);
    Ok(())
}

/// A call that the policy has no part in.
fn other(gate: &Gate, hook: Hook) -> Result<Request<Full<bytes::Bytes>>, Failure> {
    let [_, key] = &gate.keys;
    if hook != Hook::Admit {
        return chat(gate.address, "/api/chat", key, &[], plain());
    }
    // Every call with a key is put to every policy at `admit`; what the gate answers by itself is not.
    let request = Request::builder().method(Method::GET).uri(format!("http://{}/api/version", gate.address));
    request.body(Full::default()).trying("a call can't be written")
}

async fn attack(bench: &Bench, gate: &Gate, name: &str, (guest, hook): (Guest, Hook)) -> Result<Row, Failure> {
    let call = async |is_marked: bool| -> Result<String, Failure> {
        let request = openai(gate, hook, guest, is_marked)?;
        bench.caller.answer(request).await.map(|answer| seen(&answer))
    };
    let mut row = Row::default();
    for _ in 0..PAIRS {
        row.marked.insert(call(true).await?);
        row.unmarked.insert(call(false).await?);
    }
    for count in PAIRS + 1..=MOST_CALLS {
        row.marked.insert(call(true).await?);
        if status(&gate.gates, name).await?.breaker == "open" {
            row.opened_after = Some(count);
            break;
        }
    }
    for _ in 0..AFTERWARDS {
        row.open.insert(call(true).await?);
        row.open.insert(call(false).await?);
    }
    Ok(row)
}

/// A call of OpenAI's dialect; marked, it is one that the guest spoils.
fn openai(gate: &Gate, hook: Hook, guest: Guest, is_marked: bool) -> Result<Request<Full<bytes::Bytes>>, Failure> {
    let [spoilt, key] = &gate.keys;
    let path = "/v1/chat/completions";
    let mut body = json!({ "model": "now-8", "messages": [] });
    if !is_marked {
        return chat(gate.address, path, key, &[], body.to_string());
    }
    if let Some(fields) = body.as_object_mut() {
        fields.insert("max_tokens".to_owned(), json!(MARKED_CAP));
    }
    // The guest that panics reads what it is asked; at `settle` in an attribute of the key.
    let asks = [("x-ask-at", hook.name()), ("x-ask", "no-such-question")];
    let key = if guest == Guest::Panic { spoilt } else { key };
    chat(gate.address, path, key, &asks, format!("{body:MARKED_BYTES$}", body = body.to_string()))
}

/// An answer in a few words.
fn seen(answer: &Answer) -> String {
    let code = || {
        let body: Value = serde_json::from_slice(&answer.body).ok()?;
        Some(body.get("error")?.get("code")?.as_str()?.to_owned())
    };
    match code() {
        Some(code) => format!("{} {code}", answer.status),
        None => answer.status.to_string(),
    }
}

/// Reads what the log says of the policy since; it may come a moment later.
async fn listen(gate: &Gate, name: &str, hook: Hook, since: usize, row: &mut Row) -> Result<(), Failure> {
    let failed = format!("'{name}' failed at {} (", hook.name());
    until("the log tells of the fault", SOON, async || {
        let log = gate.gates.log()?;
        let lines = || log.get(since..).unwrap_or_default().lines();
        let kind = |line: &str| Some(line.split_once(&failed)?.1.split_once(')')?.0.to_owned());
        row.kinds = lines().filter_map(kind).collect();
        row.lines = lines().filter(|line| line.contains("\"flood ")).count();
        Ok(!row.kinds.is_empty())
    })
    .await
    .map(|_| ())
}

fn judge(title: &str, row: &Row, seen: &Seen, (guest, effect): (Guest, Effect), report: &mut Report) {
    let only = |answers: &BTreeSet<String>, expected: &str| answers.iter().all(|answer| answer == expected);
    report.promise(only(&row.marked, effect.seen()), format!("{title}: its caller saw {:?}", row.marked));
    report.promise(only(&row.unmarked, "200"), format!("{title}: the caller after it saw {:?}", row.unmarked));
    report.promise(row.opened_after.is_some(), format!("{title}: the breaker never opened"));
    report
        .promise(only(&row.open, effect.seen()), format!("{title}: with the breaker open a caller saw {:?}", row.open));
    let mut kinds = row.kinds.iter().filter(|kind| *kind != "open");
    let expected = guest.faults();
    report.promise(
        row.kinds.iter().any(|kind| kind != "open") && kinds.all(|kind| expected.contains(&kind.as_str())),
        format!("{title}: the log tells of {:?}, not of {expected:?}", row.kinds),
    );
    let others =
        format!("{title}: others: {} served, {} failed: {:?}", seen.times.count, seen.failed, seen.first_failure);
    report.promise(seen.failed == 0 && seen.times.count > 0, others);
    // Each second takes so many, and the first and the last may be cut.
    let seconds = usize::try_from(row.lasted.as_secs()).unwrap_or(usize::MAX);
    let most = seconds.saturating_add(2).saturating_mul(LOG_LINES);
    report.promise(row.lines <= most, format!("{title}: it has {} lines in the log", row.lines));
}

fn say(row: &Row, seen: &Seen, (guest, hook, effect): (Guest, Hook, Effect), report: &mut Report) {
    let list = |words: &BTreeSet<String>| words.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let kinds: BTreeSet<String> = row.kinds.iter().filter(|kind| *kind != "open").cloned().collect();
    report.say(&format!(
        "| {} | {}, {} | {} | {} | {} | {} | {} | {} / {} | {:.1} |",
        guest.name(),
        hook.name(),
        effect.name(),
        list(&row.marked),
        list(&row.unmarked),
        row.opened_after.map_or_else(|| "closed".to_owned(), |calls| format!("opened after {calls}")),
        list(&row.open),
        list(&kinds),
        seen.times.count,
        seen.failed,
        seen.times.max_us / 1000.0,
    ));
}
