//! One state folder, several processes: nothing is lost, nobody is locked out, and all see what one does.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    thread,
};

use serde_json::Value;
use tempfile::tempdir;
use tollgate::identity::ParsedKey;

use crate::support::{
    Answer, LlmServer,
    binary::{Outcome, Running, run},
    until,
};

/// A gate as a process of its own.
struct Gate {
    running: Running,
    data_plane: String,
}

impl Gate {
    fn start(folder: &Path) -> Self {
        let mut running = Running::start(folder, &["serve"]);
        let data_plane = running.on_stderr(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "serving").then(|| format!("http://{}", line["data_plane"].as_str().unwrap()))
        });
        Self { running, data_plane }
    }

    async fn status(&self, key: &str) -> u16 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("{}/api/tags", self.data_plane)).bearer_auth(key);
        Answer::of(request.send().await.unwrap()).await.status
    }
}

fn configure(folder: &Path, server: &LlmServer) {
    let toml = format!(
        "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nlog.format = \"json\"\n\
         [[backends]]\nname = \"gpu-1\"\nurl = \"{}\"\n",
        server.url()
    );
    fs::write(folder.join("tollgate.toml"), toml).unwrap();
}

#[track_caller]
fn done(folder: &Path, arguments: &[&str]) -> Outcome {
    let outcome = run(folder, arguments);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    outcome
}

fn create(folder: &Path, name: &str) -> String {
    done(folder, &["keys", "create", "--name", name]).stdout.trim().to_owned()
}

#[tokio::test]
async fn processes_that_create_rotate_and_revoke_at_the_same_time_lose_nothing() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let folder = tempdir().unwrap();
    configure(folder.path(), &server);
    let path = folder.path().to_owned();
    // The first commands meet no state folder at all: one of them makes it, its pepper and its tables.
    let works = (0..3).map(|worker| {
        let folder = path.clone();
        thread::spawn(move || {
            let mut living = Vec::new();
            for number in 0..2 {
                let (kept, gone) = (format!("kept-{worker}-{number}"), format!("gone-{worker}-{number}"));
                let first = create(&folder, &kept);
                create(&folder, &gone);
                let second = done(&folder, &["keys", "rotate", &kept, "--overlap", "1h"]).stdout.trim().to_owned();
                done(&folder, &["keys", "revoke", &gone]);
                living.extend([first, second]);
            }
            living
        })
    });
    let works: Vec<_> = works.collect();
    let join = move || works.into_iter().flat_map(|work| work.join().unwrap()).collect::<Vec<String>>();
    let living = tokio::task::spawn_blocking(join).await.unwrap();

    let keys = done(&path, &["keys", "list", "-o", "json"]).json();
    let keys = keys.as_array().unwrap();
    let named = |begin: &str, state: &str| {
        let fits = |key: &&Value| key["name"].as_str().unwrap().starts_with(begin) && key["state"] == state;
        keys.iter().filter(fits).count()
    };
    assert_eq!((keys.len(), named("kept", "active"), named("gone", "revoked")), (12, 6, 6), "{keys:?}");
    let gate = Gate::start(&path);
    for key in &living {
        assert_eq!(gate.status(key).await, 200, "both secrets of each key pass");
    }
    assert_eq!(living.iter().collect::<BTreeSet<_>>().len(), 12);
    assert_eq!(gate.running.stop().code, Some(0));
}

#[tokio::test]
async fn a_restart_may_overlap_and_both_gates_follow_what_is_changed() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let folder = tempdir().unwrap();
    let folder = folder.path();
    configure(folder, &server);
    let key = create(folder, "laptop");
    let id = ParsedKey::parse(&key).unwrap().id();
    let old = Gate::start(folder);
    assert_eq!(old.status(&key).await, 200);
    let new = Gate::start(folder);
    assert_eq!(new.status(&key).await, 200);

    done(folder, &["keys", "disable", id]);
    for gate in [&old, &new] {
        until("disabling", async || gate.status(&key).await == 403).await;
    }
    let stopped = old.running.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    done(folder, &["keys", "enable", id]);
    until("enabling", async || new.status(&key).await == 200).await;
    let second = done(folder, &["keys", "rotate", id]).stdout.trim().to_owned();
    until("the new secret", async || new.status(&second).await == 200).await;
    let stopped = new.running.stop();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    assert!(!stopped.stderr.contains("locked"), "{}", stopped.stderr);
}

#[tokio::test]
async fn what_the_gate_keeps_is_its_users_alone_and_a_looser_file_is_refused_with_the_command_to_run() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let folder = tempdir().unwrap();
    let folder = folder.path();
    configure(folder, &server);
    create(folder, "laptop");
    let gate = Gate::start(folder);
    let state = folder.join("tollgate-state");
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
    for name in ["tollgate.db", "tollgate.db-wal", "tollgate.db-shm", "pepper"] {
        assert_eq!(fs::metadata(state.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
    }
    // While a gate runs, so that the log and its index are there.
    for name in ["tollgate.db", "tollgate.db-wal", "tollgate.db-shm"] {
        let file = state.join(name);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let refused = run(folder, &["keys", "list"]);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(78), ""), "{name}: {}", refused.stderr);
        let command = format!("chmod 600 {}", fs::canonicalize(&file).unwrap().display());
        assert!(refused.stderr.contains(&command), "{name}: {}", refused.stderr);
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(gate.running.stop().code, Some(0));
    fs::set_permissions(state.join("pepper"), Permissions::from_mode(0o644)).unwrap();
    let refused = run(folder, &["serve"]);
    assert_eq!(refused.code, Some(78), "{}", refused.stderr);
    assert!(refused.stderr.contains("chmod 600 ") && refused.stderr.contains("pepper"), "{}", refused.stderr);
}
