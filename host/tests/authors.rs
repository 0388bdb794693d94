//! What policy authors read is followed to the letter: the READMEs of the examples and of new projects, and "Writing a policy".
//!
//! `./scripts/test examples` installs the languages' tools and runs this; what isn't installed is told and left out. A plain
//! `cargo test` leaves all of it out, because it needs package registries.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "where something is wrong it shall panic"
)]

#[path = "it/support/mod.rs"]
#[expect(dead_code, unused_imports, unreachable_pub, reason = "the bench of `it`, of which little is needed")]
mod support;

mod authors {
    pub(crate) mod page;
    pub(crate) mod tools;
}

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use authors::{
    page::Page,
    tools::{Language, run, shared_target},
};
use serde_json::json;
use support::{LlmServer, TestProxy, guest, until_within};

/// Runs the commands that build and test a project, as its README has them.
fn build_and_test(folder: &Path) {
    let page = Page::read(&folder.join("README.md"));
    run(folder, &page.commands("Build"), None);
    let told = run(folder, &page.commands("Test"), None);
    assert!(told.contains("cases hold"), "{told}");
}

#[expect(clippy::disallowed_methods, reason = "how long it took is what is printed")]
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    done
}

fn example(name: &str, language: Language) {
    if !language.is_there() {
        return;
    }
    let folder = guest::root().join("examples").join(name);
    shared_target(&folder, language);
    timed(name, || build_and_test(&folder));
    let policies = tempfile::tempdir().unwrap();
    run(&folder, &Page::read(&folder.join("README.md")).commands("Use"), Some(policies.path()));
    assert!(policies.path().join(format!("{name}.cases.json")).is_file());
}

#[test]
fn the_example_in_rust_is_built_tested_and_used_by_its_readme() {
    example("least-busy-rs", Language::Rust);
}

#[test]
fn the_example_in_javascript_is_built_tested_and_used_by_its_readme() {
    example("office-hours-js", Language::JavaScript);
}

#[test]
fn the_example_in_python_is_built_tested_and_used_by_its_readme() {
    example("allow-list-py", Language::Python);
}

#[test]
fn the_example_in_c_is_built_tested_and_used_by_its_readme() {
    example("deny-cloud-c", Language::C);
}

/// A new project for each of these hooks, outside this repository.
fn projects(language: Language, hooks: &[&str]) {
    if !language.is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for hook in hooks {
        let name = format!("my-{hook}");
        let word = language.word();
        run(folder.path(), &format!("tollgate policy new {name} --lang {word} --hook {hook}"), None);
        let project = folder.path().join(&name);
        shared_target(&project, language);
        timed(&format!("{word} {hook}"), || build_and_test(&project));
    }
}

#[test]
fn new_projects_in_rust_build_and_hold_their_cases() {
    projects(Language::Rust, &["authenticate", "admit", "settle"]);
}

#[test]
fn new_projects_in_javascript_build_and_hold_their_cases() {
    projects(Language::JavaScript, &["authenticate", "admit", "settle"]);
}

#[test]
fn new_projects_in_c_build_and_hold_their_cases() {
    projects(Language::C, &["authenticate", "admit", "route", "settle"]);
}

// Each takes long to compile, and the example in Python is one for `admit`.
#[test]
fn a_new_project_in_python_builds_and_holds_its_cases() {
    projects(Language::Python, &["settle"]);
}

/// Whether four calls in a row go to this backend: in turn they never would.
async fn all_go_to(gate: &TestProxy, backend: &str) -> bool {
    for _ in 0..4 {
        let answer = gate.post("/v1/chat/completions", &json!({ "model": "llama3", "messages": [] })).await;
        if answer.backend() != Some(backend) {
            return false;
        }
    }
    true
}

/// The gate takes it within this time: an unoptimised compiler has 18 MB before it.
const COMPILING: Duration = Duration::from_secs(300);

#[expect(clippy::disallowed_methods, reason = "how long it took is what is printed")]
async fn newcomer(language: Language, file: &str, line: &str, edited: &str) {
    if !language.is_there() {
        return;
    }
    let (one, other) =
        (LlmServer::start("gpu-1", &["llama3:latest"]).await, LlmServer::start("gpu-2", &["llama3:latest"]).await);
    let builder = TestProxy::builder().backend(&one).backend(&other).policy_folder();
    let gate = builder.set("limits.requests_per_minute = 1000000").start().await;
    assert!(!all_go_to(&gate, "gpu-2").await, "before, calls go in turn");
    let (folder, word) = (tempfile::tempdir().unwrap(), language.word());
    let start = Instant::now();
    timed(&format!("{word}: policy new"), || {
        run(folder.path(), &format!("tollgate policy new busy --lang {word}"), None);
    });
    let project = folder.path().join("busy");
    shared_target(&project, language);
    let source = fs::read_to_string(project.join(file)).unwrap();
    assert!(source.contains(line), "{source}");
    fs::write(project.join(file), source.replace(line, edited)).unwrap();
    let page = Page::read(&project.join("README.md"));
    timed(&format!("{word}: build"), || run(&project, &page.commands("Build"), None));
    timed(&format!("{word}: policy test"), || run(&project, &page.commands("Test"), None));
    let copied = Instant::now();
    run(&project, &page.commands("Use"), Some(&gate.policies()));
    until_within(COMPILING, "the policy in force", async || all_go_to(&gate, "gpu-2").await).await;
    eprintln!("{word}: copied to in force: {:.1} s", copied.elapsed().as_secs_f64());
    eprintln!("{word}: all of it: {:.1} s", start.elapsed().as_secs_f64());
}

// Each edit decides among equally busy backends for the last: the cases hold as they are.

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_changes_routing_in_rust() {
    newcomer(Language::Rust, "src/lib.rs", "backend.in_flight)", "(backend.in_flight, std::cmp::Reverse(backend.id)))")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_changes_routing_in_javascript() {
    let line = "one.inFlight - other.inFlight";
    newcomer(Language::JavaScript, "policy.js", line, &format!("{line} || other.id - one.id")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_changes_routing_in_python() {
    newcomer(Language::Python, "app.py", "backend.in_flight)", "(backend.in_flight, -backend.id))").await;
}

#[test]
fn writing_a_policy_is_followed_to_the_letter() {
    if !Language::JavaScript.is_there() {
        return;
    }
    let page = Page::read(&guest::root().join("wit/README.md"));
    let (folder, policies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let told =
        page.follow("Writing a policy", folder.path(), |commands| run(folder.path(), commands, Some(policies.path())));
    assert!(told.contains("all 3 cases hold"), "{told}");
    assert!(policies.path().join("big-models.wasm").is_file());
}
