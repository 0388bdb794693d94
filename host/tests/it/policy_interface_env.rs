//! Time, chance, memory and words of a policy: what the gate gives it, and what WASI may not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Answer, Asking, Log, asking::told, guest, proxy::START_UNIX_MS, until};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_time_stands_still_within_a_hook() {
    let asking = Asking::start().await;
    let (hand, stop) = (asking.gate.hand.clone(), Arc::new(AtomicBool::new(false)));
    let moving = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                hand.advance(Duration::from_millis(1));
                thread::sleep(Duration::from_micros(100));
            }
        }
    });
    let mut last = START_UNIX_MS - 1;
    for hook in ["authenticate", "admit", "route"].repeat(5) {
        let told = asking.ask(hook, "now | wasi-now | spin 200000 | wasi-elapsed 200000 | wasi-now | now").await;
        let answers: Vec<&str> = told.split(" | ").collect();
        let now: u64 = answers[0].parse().unwrap();
        assert_eq!(answers, [answers[0], answers[0], "done", "0", answers[0], answers[0]], "one moment at {hook}");
        assert!(now >= last, "the time goes on from call to call");
        last = now;
    }
    stop.store(true, Ordering::Relaxed);
    moving.join().unwrap();
    assert!(last > START_UNIX_MS, "the clock moved");
}

#[tokio::test]
async fn local_time_follows_the_zone_through_the_end_of_summer_time() {
    let asking = Asking::start().await;
    let questions = "local Europe/Berlin | local UTC | local Asia/Kolkata | local Mars/Base";
    let nowhere = "there is no time zone 'Mars/Base'; write one like Europe/Berlin";
    let berlin = async |expected: &str| {
        // After a leap of months the keys must be read again before they are trusted.
        until("the keys are fresh", async || asking.call("admit", "now").send().await.unwrap().status() == 403).await;
        assert_eq!(asking.ask("admit", questions).await, format!("{expected} | {nowhere}"));
    };
    berlin("2026-06-10 3 14:00:00 | 2026-06-10 3 12:00:00 | 2026-06-10 3 17:30:00").await;
    // One second before Berlin's clocks go back, on Sunday 2026-10-25 at 01:00 UTC.
    asking.gate.hand.advance(HOUR * 24 * 137 - HOUR * 11 - Duration::from_secs(1));
    berlin("2026-10-25 7 02:59:59 | 2026-10-25 7 00:59:59 | 2026-10-25 7 06:29:59").await;
    asking.gate.hand.advance(Duration::from_secs(1));
    berlin("2026-10-25 7 02:00:00 | 2026-10-25 7 01:00:00 | 2026-10-25 7 06:30:00").await;
}

#[tokio::test]
async fn random_numbers_differ_by_draw_call_and_policy() {
    let log = Log::listen();
    let asking = Asking::start_with(|builder| builder.policy("ask-twin", &guest::gallery("ask-admit"))).await;
    let mut drawn = Vec::new();
    for call in 0..3 {
        // Both policies draw in the same call, and say it in the log.
        let questions = format!("random | random | header x-draw-{call}");
        let request = asking.call("admit", &questions).header("x-answer", "log");
        let request = request.header(format!("x-draw-{call}"), format!("draw-{call}"));
        assert_eq!(request.send().await.unwrap().status(), 200);
        for policy in ["ask-admit", "ask-twin"] {
            let mark = format!("draw-{call}");
            let lines = log.lines_with(&[&format!("\"policy\":\"{policy}\""), "answers ", &mark]);
            let text = lines[0]["text"].as_str().unwrap().trim_start_matches("answers ").to_owned();
            drawn.extend(text.split(" | ").take(2).map(|number| number.parse::<u64>().unwrap()));
        }
    }
    assert_eq!(drawn.len(), 12);
    let distinct: std::collections::BTreeSet<&u64> = drawn.iter().collect();
    assert_eq!(distinct.len(), 12, "{drawn:?}");
}

#[tokio::test]
async fn a_policy_s_words_stand_in_the_log_in_bounds() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let key = asking.gate.key();
    asking.ask("admit", "log first plain words").await;
    assert_eq!(words(&log, "first plain words"), [("INFO".to_owned(), "first plain words".to_owned())]);

    // The caller says its key in another header too, and the policy writes it down.
    let written = format!("key-in-log {key} and {key}");
    told(asking.call("authenticate", "log-header x-said").header("x-said", &written)).await;
    assert_eq!(words(&log, "key-in-log"), [("WARN".to_owned(), "key-in-log [credential] and [credential]".to_owned())]);

    asking.gate.hand.advance(Duration::from_secs(1));
    asking.ask("route", "log-bytes 5000").await;
    let long = words(&log, &"x".repeat(1000));
    assert_eq!((long.len(), long[0].0.as_str(), long[0].1.len()), (1, "ERROR", 1024));

    asking.gate.hand.advance(Duration::from_secs(1));
    let many = vec!["log one-of-many"; 150].join(" | ");
    // The answers are too long for a rejection: they go to the log as well, and are dropped with the rest.
    let answer = asking.call("admit", &many).header("x-answer", "log").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(words(&log, "one-of-many").len(), 100, "a hundred lines a second");
    asking.gate.hand.advance(Duration::from_secs(1));
    asking.ask("admit", "log after-the-many").await;
    assert_eq!(words(&log, "after-the-many").len(), 1);
    log.says(&["\"policy\":\"ask-admit\"", "\"dropped\":51", "more lines than the log takes"]).await;
}

/// Level and text of what policies said with this text in it.
fn words(log: &Log, part: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = log.lines_with(&["policy says", part]);
    lines.iter().map(|line| (text(&line["level"]), text(&line["text"]))).collect()
}

#[tokio::test]
async fn the_presented_credential_is_blanked_in_what_the_caller_reads() {
    let asking = Asking::start().await;
    let said = format!("[{}]", asking.gate.key());
    for hook in ["authenticate", "admit", "route"] {
        let call = asking.call(hook, "header x-said").header("x-said", &said);
        assert_eq!(told(call).await, "[[credential]]", "{hook}");
    }
}

#[tokio::test]
async fn output_of_the_language_s_runtime_goes_to_the_log_and_holds_up_nobody() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    assert_eq!(asking.ask("admit", "print printed words | print-error wrong words").await, "done | done");
    assert_eq!(words(&log, "printed words"), [("INFO".to_owned(), "printed words".to_owned())]);
    assert_eq!(words(&log, "wrong words"), [("WARN".to_owned(), "wrong words".to_owned())]);

    let written = format!("key-in-output {}", asking.gate.key());
    told(asking.call("admit", "print-header x-said").header("x-said", &written)).await;
    assert_eq!(words(&log, "key-in-output"), [("INFO".to_owned(), "key-in-output [credential]".to_owned())]);
}

#[tokio::test]
async fn there_is_no_environment_and_no_argument_and_chance_starts_the_same() {
    let asking = Asking::start().await;
    assert_eq!(asking.ask("admit", "variables | arguments").await, "0 | 0");
    let first = asking.ask("admit", "wasi-random").await;
    // A fault drops the instance: a new one starts where the old one started.
    assert_eq!(asking.call("admit", "exit 0").send().await.unwrap().status(), 503);
    assert_eq!(asking.ask("admit", "wasi-random").await, first);
}

#[tokio::test]
async fn counters_and_values_outlive_a_reload_and_belong_to_one_policy() {
    let (log, asking) = (Log::listen(), Asking::start().await);
    let gate = &asking.gate;
    assert_eq!(asking.ask("admit", "add hits 2 0 | add hits 3 0 | put word hello 0").await, "2 | 5 | done");
    assert_eq!(asking.ask("admit", "get word | get hits | add word 1 0").await, "hello | none | 1", "they are apart");

    // The same code under another name has a state of its own.
    gate.put_policy("ask-another", &guest::gallery("ask-authenticate"));
    log.says(&["the policy is in force", "ask-another"]).await;
    gate.put_policy("ask-admit", &guest::padded(&guest::gallery("ask-admit"), 10));
    until("the reload", async || log.lines_with(&["the policy is in force", "\"ask-admit\""]).len() == 2).await;
    assert_eq!(asking.ask("admit", "add hits 1 0 | get word").await, "6 | hello", "they outlive a reload");
    assert_eq!(asking.ask("route", "add hits 1 0 | get word").await, "1 | none", "another policy has its own");
    assert_eq!(asking.ask("authenticate", "add hits 1 0 | get word").await, "1 | none");

    // Instances come and go; what they share stays.
    assert_eq!(asking.call("admit", "exit 0").send().await.unwrap().status(), 503);
    assert_eq!(asking.ask("admit", "add hits -10 0 | get word").await, "-4 | hello");
    let edge = format!("add edge {} 0 | add edge 1 0", i64::MAX);
    assert_eq!(asking.ask("admit", &edge).await, format!("{0} | {0}", i64::MAX), "a counter stops at its end");
}

#[tokio::test]
async fn counters_and_values_end_with_their_time() {
    let asking = Asking::start().await;
    assert_eq!(asking.ask("admit", "add hits 5 1000 | put word hello 1000").await, "5 | done");
    asking.gate.hand.advance(Duration::from_millis(999));
    assert_eq!(asking.ask("admit", "get word | add hits 1 1000").await, "hello | 6");
    asking.gate.hand.advance(Duration::from_millis(1));
    assert_eq!(asking.ask("admit", "get word | add hits 1 0").await, "none | 7", "time counts from the last write");
    asking.gate.hand.advance(HOUR);
    until("the keys are fresh", async || {
        Answer::of(asking.call("admit", "now").send().await.unwrap()).await.status == 403
    })
    .await;
    assert_eq!(asking.ask("admit", "add hits 0 1").await, "7", "without an end it stays");
}
