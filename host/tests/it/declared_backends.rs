//! `tollgate backends`: what is declared beside the configuration, and what stands against it.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::binary::{Outcome, run};

/// A folder whose configuration has one backend, `main`.
fn folder() -> TempDir {
    let folder = tempdir().unwrap();
    configure(folder.path(), "main", "http://127.0.0.1:11434");
    folder
}

fn configure(folder: &Path, name: &str, url: &str) {
    let toml = format!("[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    fs::write(folder.join("tollgate.toml"), toml).unwrap();
}

#[track_caller]
fn done(folder: &Path, arguments: &[&str]) -> Outcome {
    let outcome = run(folder, &[&["backends"], arguments].concat());
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    outcome
}

#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32, words: &str) {
    let outcome = run(folder, &[&["backends"], arguments].concat());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", outcome.stderr);
    assert!(outcome.stderr.contains(words), "`{words}` is missing in:\n{}", outcome.stderr);
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
}

fn list(folder: &Path) -> Vec<Value> {
    done(folder, &["list", "-o", "json"]).json().as_array().unwrap().clone()
}

#[test]
fn backends_are_added_drained_listed_and_removed() {
    let folder = folder();
    let folder = folder.path();
    let gpu_2 = ["add", "gpu-2", "HTTP://GPU-2:80/", "--kind", "openai", "--weight", "3", "--anthropic", "-o", "json"];
    let added = done(folder, &gpu_2);
    let gpu_2 = json!({
        "name": "gpu-2", "url": "http://gpu-2", "kind": "openai", "weight": 3, "anthropic": true, "source": "store",
        "drained": false, "problem": null, "live": null,
    });
    assert_eq!(added.json(), gpu_2);
    let plain = done(folder, &["add", "gpu-3", "http://gpu-3:11434"]);
    assert!(plain.stdout.is_empty() && plain.stderr.contains("within two seconds"), "{plain:?}");
    done(folder, &["drain", "main"]);
    let drained = done(folder, &["drain", "gpu-3", "-o", "json"]).json();
    assert_eq!((&drained["name"], &drained["drained"]), (&json!("gpu-3"), &json!(true)));

    let all = list(folder);
    let shown: Vec<Value> = all.iter().map(|row| json!([row["name"], row["source"], row["drained"]])).collect();
    assert_eq!(
        shown,
        [json!(["main", "config", true]), json!(["gpu-2", "store", false]), json!(["gpu-3", "store", true])]
    );
    assert_eq!(all[1], gpu_2);
    let table = done(folder, &["list"]).stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "URL", "KIND", "WEIGHT", "SOURCE", "STATE"]);
    assert_eq!(rows[1], ["main", "http://127.0.0.1:11434", "ollama", "1", "config", "drained"]);
    assert_eq!(rows[2], ["gpu-2", "http://gpu-2", "openai,", "anthropic", "3", "store", "used"]);

    assert_eq!(done(folder, &["undrain", "main", "-o", "json"]).json()["drained"], false);
    let removed = done(folder, &["remove", "gpu-3", "-o", "json"]).json();
    assert_eq!(removed, json!({ "name": "gpu-3", "removed": true }));
    assert_eq!(list(folder).len(), 2);
}

#[test]
fn what_the_configuration_would_refuse_is_refused() {
    let folder = folder();
    let folder = folder.path();
    fails(folder, &["add", "GPU 1", "http://a"], 2, "small letters");
    fails(folder, &["add", "a", "http://user:hunter2@a"], 2, "leave that part out");
    fails(folder, &["add", "a", "ftp://a"], 2, "http or https");
    fails(folder, &["add", "a", "http://169.254.169.254/"], 2, "upstream.allow_link_local");
    fails(folder, &["add", "a", "http://a", "--kind", "tgi"], 2, "ollama, openai");
    fails(folder, &["add", "a", "http://a", "--weight", "0"], 2, "1..=1000");
    fails(folder, &["add", "a", "http://a", "--anthropic"], 2, "is for backends of kind \"openai\"");
    fails(folder, &["add", "a"], 2, "Usage");
    assert_eq!(list(folder).len(), 1);
    let link_local = ["add", "a", "http://169.254.169.254/", "--set", "upstream.allow_link_local=true"];
    done(folder, &link_local);
    let left_out = &list(folder)[1];
    assert!(left_out["problem"].as_str().is_some_and(|text| text.contains("allow_link_local")), "{left_out}");
    let table = done(folder, &["list"]);
    assert!(table.stdout.contains("unusable") && table.stderr.contains("'a' is not used"), "{table:?}");
}

#[test]
fn a_name_and_an_address_are_one_backends_and_those_of_the_configuration_are_the_files() {
    let folder = folder();
    let folder = folder.path();
    fails(folder, &["add", "main", "http://a"], 1, "'main' of the configuration has this name");
    fails(folder, &["add", "a", "http://127.0.0.1:11434/"], 1, "'main' of the configuration has this URL");
    done(folder, &["add", "a", "http://a"]);
    fails(folder, &["add", "a", "http://b"], 1, "a backend with this name already, 'a'");
    fails(folder, &["add", "b", "http://A:80"], 1, "a backend with this URL already, 'a'");
    fails(folder, &["remove", "main"], 1, "edit the file");
    for verb in ["remove", "drain", "undrain"] {
        fails(folder, &[verb, "nowhere"], 1, "no backend 'nowhere'");
    }
    assert_eq!(list(folder).len(), 2);
}

#[test]
fn a_backend_that_the_configuration_took_over_gives_way_and_can_be_removed() {
    let folder = folder();
    let folder = folder.path();
    done(folder, &["drain", "main"]);
    done(folder, &["add", "gpu-2", "http://gpu-2"]);
    configure(folder, "gpu-2", "http://elsewhere");
    let all = list(folder);
    assert_eq!((&all[0]["url"], &all[0]["source"]), (&json!("http://elsewhere"), &json!("config")));
    assert!(all[1]["problem"].as_str().is_some_and(|text| text.contains("'gpu-2' of the configuration")), "{all:?}");
    let table = done(folder, &["list"]);
    assert!(table.stderr.contains("'main' is marked as drained"), "{}", table.stderr);
    let undrained = done(folder, &["undrain", "main", "-o", "json"]).json();
    assert_eq!(undrained, json!({ "name": "main", "drained": false }));
    done(folder, &["remove", "gpu-2"]);
    assert_eq!(list(folder).len(), 1);
    fails(folder, &["remove", "gpu-2"], 1, "edit the file");
}
