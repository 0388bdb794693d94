//! Limits by command: what is typed, stored, shown and refused.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::support::binary::{Outcome, run};

const FULL: &[&str] = &[
    "--rpm",
    "60",
    "--tpm",
    "5k",
    "--concurrent",
    "0",
    "--budget",
    "day=1M",
    "--budget",
    "month=20M",
    "--model-limit",
    "LLaMA3:tpm=500",
    "--model-limit",
    "llama3:rpm=3",
    "--model-limit",
    "hf.co/bob/m:q4:day=7k",
];

#[track_caller]
fn done(folder: &Path, arguments: &[&str]) -> Outcome {
    let outcome = run(folder, arguments);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    outcome
}

#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32, words: &str) {
    let outcome = run(folder, arguments);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", outcome.stderr);
    assert!(outcome.stderr.contains(words), "`{words}` is missing for {arguments:?} in:\n{}", outcome.stderr);
}

fn key(folder: &Path) -> Value {
    done(folder, &["keys", "show", "laptop", "-o", "json"]).json()
}

#[test]
fn a_keys_limits_are_created_shown_changed_and_kept_by_a_rotation() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    done(folder, &[&["keys", "create", "--name", "laptop", "--user", "ann"], FULL].concat());
    let expected = json!({
        "requests_per_minute": 60, "tokens_per_minute": 5_000, "concurrent": 0, "tokens_per_day": 1_000_000,
        "tokens_per_month": 20_000_000,
        "models": {
            "llama3:latest": { "requests_per_minute": 3, "tokens_per_minute": 500 },
            "hf.co/bob/m:q4": { "tokens_per_day": 7_000 },
        },
    });
    assert_eq!(key(folder)["limits"], expected);
    assert_eq!(done(folder, &["keys", "list", "-o", "json"]).json()[0], key(folder));

    let own =
        "rpm=60 tpm=5k concurrent=0 day=1M month=20M hf.co/bob/m:q4:day=7k llama3:latest:rpm=3 llama3:latest:tpm=500";
    assert!(done(folder, &["keys", "list"]).stdout.contains(own));
    done(folder, &["users", "set", "ann", "--tpm", "9k"]);
    let shown = done(folder, &["keys", "show", "laptop"]).stdout;
    for line in ["name: laptop", "user: ann", &format!("limits: {own}"), "user's limits: tpm=9k", "expires: -"] {
        assert!(shown.lines().any(|found| found == line), "{line} in:\n{shown}");
    }

    let changes = ["--rpm", "none", "--budget", "month=none", "--concurrent", "2", "--model-limit", "llama3:tpm=none"];
    let changed = done(folder, &[&["keys", "set", "laptop", "-o", "json"], &changes[..]].concat());
    assert!(changed.stderr.contains("within two seconds"), "{}", changed.stderr);
    let expected = json!({
        "requests_per_minute": null, "tokens_per_minute": 5_000, "concurrent": 2, "tokens_per_day": 1_000_000,
        "tokens_per_month": null,
        "models": { "llama3:latest": { "requests_per_minute": 3 }, "hf.co/bob/m:q4": { "tokens_per_day": 7_000 } },
    });
    assert_eq!((&changed.json()["limits"], &key(folder)["limits"]), (&expected, &expected));
    done(folder, &["keys", "rotate", "laptop"]);
    assert_eq!(key(folder)["limits"], expected);
    done(folder, &["keys", "revoke", "laptop"]);
    fails(folder, &["keys", "set", "laptop", "--rpm", "1"], 1, "revoked for good");
}

#[test]
fn a_users_limits_are_created_shown_and_changed() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let created = done(folder, &[&["users", "create", "ann", "-o", "json"], FULL].concat()).json();
    assert_eq!(created["limits"]["models"]["llama3:latest"]["tokens_per_minute"], 500);
    let set = ["users", "set", "ann", "--budget", "day=none", "--attribute", "team=red", "-o", "json"];
    let changed = done(folder, &set).json();
    assert_eq!((&changed["limits"]["tokens_per_day"], &changed["attributes"]["team"]), (&Value::Null, &json!(["red"])));
    assert_eq!(done(folder, &["users", "list", "-o", "json"]).json()[0], changed);
    let table = done(folder, &["users", "list"]).stdout;
    assert!(table.contains("rpm=60 tpm=5k concurrent=0 month=20M hf.co/bob/m:q4:day=7k"), "{table}");
}

#[test]
fn a_limit_that_cannot_be_meant_is_a_usage_error_and_changes_nothing() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    done(folder, &["keys", "create", "--name", "laptop", "--user", "ann", "--rpm", "5"]);
    let before = key(folder);
    let number = "write a whole number from 0 to 9007199254740991";
    for (arguments, words) in [
        (&["--rpm", "-1"][..], number),
        (&["--rpm", "1.5"], number),
        (&["--tpm", "1.5M"], number),
        (&["--tpm", "9007199254740992"], number),
        (&["--concurrent", "99999999999999999999M"], number),
        (&["--concurrent", "many"], number),
        (&["--budget", "day=-1"], number),
        (&["--budget", "day"], "write it as day=N or month=N"),
        (&["--budget", "week=5"], "write it as day=N or month=N"),
        (&["--model-limit", "llama3"], "write it as MODEL:NAME=N"),
        (&["--model-limit", "llama3:8b=5"], "one of rpm, tpm, concurrent, day, month"),
        (&["--model-limit", "llama3@sha256:tpm=5"], "digest"),
        (&["--model-limit", "llama3:tpm=1.5"], number),
        (&["--rpm", "1", "--rpm", "2"], "cannot be used multiple times"),
        (&["--budget", "day=1", "--budget", "day=2"], "--budget sets day twice"),
        (&["--model-limit", "llama3:tpm=1", "--model-limit", "LLAMA3:latest:tpm=2"], "sets llama3:latest:tpm twice"),
    ] {
        for command in [
            &["keys", "create", "--name", "phone"][..],
            &["keys", "set", "laptop"],
            &["users", "create", "bob"],
            &["users", "set", "ann"],
        ] {
            fails(folder, &[command, arguments].concat(), 2, words);
        }
    }
    fails(folder, &["keys", "create", "--name", "phone", "--rpm", "none"], 2, "leave the flag out");
    fails(folder, &["users", "create", "bob", "--budget", "day=none"], 2, "leave the flag out");
    fails(folder, &["keys", "set", "laptop"], 2, "--rpm 60");
    fails(folder, &["users", "set", "ann"], 2, "--attribute");
    fails(folder, &["keys", "set", "phone", "--rpm", "1"], 1, "no key 'phone'");
    fails(folder, &["keys", "show", "phone"], 1, "no key 'phone'");
    assert_eq!(
        (key(folder), done(folder, &["keys", "list", "-o", "json"]).json().as_array().unwrap().len()),
        (before, 1)
    );
    assert_eq!(done(folder, &["users", "list", "-o", "json"]).json().as_array().unwrap().len(), 1);
    for command in [["keys", "create", "--help"], ["keys", "set", "--help"], ["users", "set", "--help"]] {
        let help = done(folder, &command).stdout;
        assert!(help.contains("0 admits nothing") && help.contains("--model-limit <MODEL:NAME=N>"), "{help}");
    }
}
