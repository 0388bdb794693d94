//! The commands that ask or steer a running gate, and the signals that do: the real binary on both sides.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tollgate::clock::Clock;

use crate::support::{
    LlmServer, Script,
    binary::{Outcome, Running, run},
    guest, soon,
};

/// A gate of its own process, and the folder it runs in.
struct Gate {
    running: Running,
    folder: TempDir,
    data_plane: String,
    admin: String,
    key: String,
}

impl Gate {
    /// Before a backend at this URL, with an empty policy folder.
    fn start(url: &str) -> Self {
        let folder = tempdir().unwrap();
        fs::create_dir(folder.path().join("policies.d")).unwrap();
        let toml = format!(
            "state_dir = \"state\"\n[policies]\nfolder = \"policies.d\"\n[log]\nformat = \"json\"\n\
             [upstream]\nprobe_interval = \"50ms\"\n[[backends]]\nname = \"gpu-1\"\nurl = \"{url}\"\n"
        );
        fs::write(folder.path().join("tollgate.toml"), toml).unwrap();
        let key = run(folder.path(), &["keys", "create", "--name", "laptop"]).stdout.trim().to_owned();
        let listen = ["serve", "--set", "server.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"];
        let mut running = Running::start(folder.path(), &listen);
        let serving = running.on_stderr(|line| logged(line, "serving"));
        let address = |which: &str| serving[which].as_str().unwrap().to_owned();
        let (data_plane, admin) = (address("data_plane"), address("admin"));
        Self { running, folder, data_plane, admin, key }
    }

    /// A command with the gate's configuration.
    fn run(&self, arguments: &[&str]) -> Outcome {
        run(self.folder.path(), &[arguments, &["--set", &format!("admin.listen={}", self.admin)]].concat())
    }

    fn put(&self, name: &str, component: &[u8]) {
        let (part, file) = (self.file(&format!(".{name}.part")), self.file(&format!("{name}.wasm")));
        fs::write(&part, component).unwrap();
        fs::rename(part, file).unwrap();
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("policies.d").join(name)
    }

    fn policy(&self, name: &str) -> Value {
        let list = self.run(&["policies", "list", "-o", "json"]).json();
        let mut policies = list["policies"].as_array().unwrap().iter();
        policies.find(|policy| policy["name"] == name).cloned().unwrap_or(Value::Null)
    }

    /// A call that runs as long as the server lets it.
    async fn call(&self) -> reqwest::Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("http://{}/api/generate", self.data_plane)).bearer_auth(&self.key);
        request.body(r#"{"model":"llama3"}"#).send().await.unwrap()
    }
}

/// A line of the log with this message.
fn logged(line: &str, message: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(|line| line["message"].as_str().unwrap().starts_with(message))
}

#[track_caller]
fn assert_ended(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "`{word}` is missing in:\n{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

fn version(component: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, component);
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_of_a_running_gate_are_listed_and_reloaded_and_the_token_is_never_printed() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = Gate::start(&server.url());
    let table = gate.run(&["policies", "list"]);
    assert_ended(&table, 0, &[]);
    let heads = ["NAME", "STATE", "HOOKS", "CAPABILITIES", "SOURCE", "VERSION", "GENERATION", "BREAKER", "SINCE"];
    let rows: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&rows[0][..], rows.len()), (&heads[..], 4), "{}", table.stdout);
    assert_eq!(&rows[1][..5], ["api-key", "in-force", "authenticate", "keys,env", "built-in"]);

    let good = guest::picking(0);
    gate.put("chooser", &good);
    assert_ended(&gate.run(&["policies", "reload"]), 0, &[]);
    let chooser = gate.policy("chooser");
    assert_eq!((&chooser["state"], &chooser["version"]), (&json!("in-force"), &json!(version(&good))));
    let nothing = gate.run(&["policies", "reload"]);
    assert_ended(&nothing, 0, &["nothing changed"]);
    assert_eq!(nothing.stdout, "");

    gate.put("chooser", b"broken");
    let refused = gate.run(&["policies", "reload"]);
    assert_ended(&refused, 1, &["policy 'chooser' is not used", "the version before it goes on serving"]);
    let refused = gate.run(&["policies", "reload", "-o", "json"]);
    assert_ended(&refused, 1, &["policy 'chooser' is not used"]);
    assert_eq!(refused.json()["complaints"][0]["policy"], json!("chooser"));
    let chooser = gate.policy("chooser");
    assert_eq!((&chooser["state"], &chooser["version"]), (&json!("outdated"), &json!(version(&good))));
    assert_ended(&gate.run(&["policies", "list"]), 0, &["policy 'chooser' is not used"]);

    fs::remove_file(gate.file("chooser.wasm")).unwrap();
    assert_ended(&gate.run(&["policies", "reload"]), 0, &[]);
    assert_eq!(gate.policy("chooser"), Value::Null);

    let token = fs::read_to_string(gate.folder.path().join("state/admin.token")).unwrap();
    let wrong = reqwest::get(format!("http://{}/api/v1/status?token={}", gate.admin, token.trim())).await.unwrap();
    assert_eq!(wrong.status(), 401);
    let stopped = gate.running.stop();
    assert_eq!(stopped.code, Some(0));
    assert!(!stopped.stderr.contains(&token.trim()["tga_".len()..]), "{}", stopped.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_has_the_policy_folder_looked_at() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut gate = Gate::start(&server.url());
    gate.put("chooser", &guest::picking(0));
    gate.running.signal(Signal::HUP);
    let reloaded = gate.running.on_stderr(|line| logged(line, "policies reloaded on SIGHUP"));
    assert_eq!((&reloaded["generation"], &reloaded["complaints"]), (&json!(2), &json!(0)));
    assert_eq!(gate.policy("chooser")["state"], "in-force");
    let stopped = gate.running.stop();
    assert_eq!(stopped.code, Some(0), "a hangup doesn't end it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_tells_no_gate_from_one_that_is_ready_or_not_or_stops() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let mut gate = Gate::start(&server.url());
    let ready = gate.run(&["healthcheck"]);
    assert_ended(&ready, 0, &[]);
    assert_eq!((ready.stdout.as_str(), ready.stderr.as_str()), ("ready\n", ""));
    assert_eq!(gate.run(&["healthcheck", "-o", "json"]).json()["ready"], true);

    server.script(Script::ndjson().chunk("{\"response\":\"one\"}\n").stall());
    let mut stream = gate.call().await;
    assert!(stream.chunk().await.unwrap().is_some());
    server.seen().await;
    gate.running.signal(Signal::TERM);
    gate.running.on_stderr(|line| logged(line, "stopping"));
    assert_ended(&gate.run(&["healthcheck"]), 1, &["not ready", "stopping"]);
    let json = gate.run(&["healthcheck", "-o", "json"]);
    assert_eq!((json.code, &json.json()["draining"]), (Some(1), &json!(true)));
    assert_ended(&gate.run(&["healthcheck", "--live"]), 0, &[]);
    gate.running.signal(Signal::TERM);
    let ask = ["--set", &format!("admin.listen={}", gate.admin)];
    assert_eq!(gate.running.wait().code, Some(0));

    for live in [&["healthcheck"][..], &["healthcheck", "--live"]] {
        let nobody = run(gate.folder.path(), &[live, &ask].concat());
        assert_ended(&nobody, 1, &["no gate listens at", "tollgate serve"]);
    }

    // A backend that nobody is behind: the gate is alive, and of no use.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::start(&format!("http://{nobody}"));
    assert_ended(&gate.run(&["healthcheck"]), 1, &["not ready", "no backend answers"]);
    assert_ended(&gate.run(&["healthcheck", "--live"]), 0, &[]);
}

#[test]
fn a_command_that_finds_no_gate_says_what_to_do() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let list = |address: SocketAddr| {
        run(folder, &["policies", "list", "--set", &format!("admin.listen={address}"), "--set", "state_dir=state"])
    };
    assert_ended(&list(nobody), 1, &["no admin token", "tollgate serve"]);
    let check = run(folder, &["check", "--set", "state_dir=state"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert_ended(&list(nobody), 1, &["no gate listens at", &nobody.to_string()]);
    let token = folder.join("state/admin.token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    assert_ended(&list(nobody), 78, &[&format!("chmod 600 {}", fs::canonicalize(&token).unwrap().display())]);
    assert_ended(&list("127.0.0.1:0".parse().unwrap()), 78, &["port 0"]);

    // Somebody else listens there.
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = other.accept().unwrap();
        let read = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").unwrap();
        read
    });
    assert_ended(&list(address), 1, &["is no gate"]);
    assert!(answering.join().unwrap() > 0);
}

#[test]
fn a_gate_does_not_start_with_a_token_that_others_can_read() {
    let folder = tempdir().unwrap();
    assert_eq!(run(folder.path(), &["check"]).code, Some(0));
    let token = folder.path().join("tollgate-state/admin.token");
    let written = fs::read_to_string(&token).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o604)).unwrap();
    for command in ["serve", "check"] {
        let refused = run(folder.path(), &[command]);
        assert_ended(&refused, 78, &["admin token", "chmod 600"]);
        assert!(!refused.stderr.contains(written.trim()), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_cuts_what_the_first_waits_for() {
    let mut server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    for second in [Signal::TERM, Signal::INT] {
        let mut gate = Gate::start(&server.url());
        server.script(Script::ndjson().chunk("{\"response\":\"one\"}\n").stall());
        let mut stream = gate.call().await;
        assert!(stream.chunk().await.unwrap().is_some());
        server.seen().await;
        gate.running.signal(Signal::TERM);
        gate.running.on_stderr(|line| logged(line, "stopping: running calls may finish"));
        // It waits: the call has a minute.
        assert_eq!(gate.run(&["healthcheck", "--live"]).code, Some(0));
        let clock = Clock::system();
        gate.running.signal(second);
        let ended = gate.running.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("running calls are cut") && clock.monotonic() < Duration::from_secs(10),
            "{ended:?}"
        );
        let cut = soon("the call's end", stream.chunk()).await;
        assert!(!matches!(cut, Ok(Some(_))), "{cut:?}");
    }
}

#[test]
fn completions_are_scripts_that_their_shells_can_read() {
    let folder = tempdir().unwrap();
    // A configuration that can't be used must not matter.
    fs::write(folder.path().join("tollgate.toml"), "nonsense").unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let printed = run(folder.path(), &["completions", shell]);
        assert_ended(&printed, 0, &[]);
        assert!(printed.stdout.contains("healthcheck") && printed.stderr.is_empty(), "{shell}: {printed:?}");
        // Not every machine has every shell; bash it has, because the scripts need it.
        match parses(shell, &printed.stdout, folder.path()) {
            Some(is_read) => assert!(is_read, "{shell} can't read it"),
            None => assert_ne!(shell, "bash"),
        }
    }
    assert_ended(&run(folder.path(), &["completions", "cmd"]), 2, &["bash", "zsh", "fish"]);
}

/// Whether a shell takes a script without running it; none when the machine has no such shell.
fn parses(shell: &str, script: &str, folder: &Path) -> Option<bool> {
    let file = folder.join(format!("completions.{shell}"));
    fs::write(&file, script).unwrap();
    let flag = if shell == "fish" { "--no-execute" } else { "-n" };
    let status = Command::new(shell).arg(flag).arg(&file).stderr(Stdio::null()).status().ok()?;
    Some(status.success())
}
