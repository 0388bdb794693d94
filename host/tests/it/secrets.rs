//! What must never be written down: keys, prompts, answers, cookies, the pepper. At the loudest log there is.

use std::{fs, path::Path};

use http::Method;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tollgate::identity::ParsedKey;

use crate::support::{
    Answer, LlmServer, Script,
    binary::{Running, run},
};

const PROMPT: &str = "the-prompt-is-private";
const ANSWER: &str = "the-answer-is-private";
const COOKIE: &str = "the-cookie-is-private";
const FOREIGN: &str = "sk-the-token-of-another-service";

/// A gate of its own process before one scripted server.
struct Gate {
    running: Running,
    data_plane: String,
    admin: String,
    key: String,
}

fn start(folder: &Path, server: &LlmServer) -> Gate {
    let backend = format!("[[backends]]\nname = \"gpu-1\"\nurl = \"{}\"\n", server.url());
    fs::write(folder.join("tollgate.toml"), format!("state_dir = \"state\"\n{backend}")).unwrap();
    let created = run(folder, &["keys", "create", "--name", "laptop"]);
    let sets = [
        "server.listen=127.0.0.1:0",
        "admin.listen=127.0.0.1:0",
        "server.drain_timeout=2s",
        "server.max_body=1KiB",
        "log.level=trace",
        "log.format=json",
    ];
    let arguments: Vec<&str> = ["serve"].into_iter().chain(sets.into_iter().flat_map(|set| ["--set", set])).collect();
    let mut running = Running::start(folder, &arguments);
    let serving = running.on_stderr(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        (line["message"] == "serving").then_some(line)
    });
    let url = |which: &str| format!("http://{}", serving[which].as_str().unwrap());
    Gate { running, data_plane: url("data_plane"), admin: url("admin"), key: created.stdout.trim().to_owned() }
}

/// What the gate answers to a chat with these headers besides its cookie and its id.
async fn chat(gate: &Gate, path: &str, headers: &[(&str, String)], body: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.request(Method::POST, format!("{}{path}", gate.data_plane)).body(body.to_owned());
    let request = request.header("cookie", COOKIE).header("x-request-id", "the-request-id");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    // A stream that breaks off is one of the cases.
    drop(response.bytes().await);
    status
}

/// Every way in which a secret can come to the gate.
async fn plant(gate: &Gate, server: &LlmServer) {
    let key = gate.key.as_str();
    let bearer = [("authorization", format!("Bearer {key}"))];
    let body = json!({ "model": "llama3", "messages": [{ "role": "user", "content": PROMPT }] }).to_string();
    let whole = json!({ "message": { "content": ANSWER }, "done": true }).to_string();
    let line = format!("{whole}\n");

    server.script(Script::ndjson().chunk(&line).chunk(&line).end());
    assert_eq!(chat(gate, "/api/chat", &bearer, &body).await, 200);
    server.script(Script::json(500, &json!({ "error": ANSWER }).to_string()));
    assert_eq!(chat(gate, "/api/chat", &bearer, &body).await, 500);
    server.script(Script::ndjson().chunk(&line).reset());
    // Whether the head gets through before the connection breaks is the system's affair.
    assert!(matches!(chat(gate, "/api/chat", &bearer, &body).await, 200 | 502));
    server.script(Script::raw(&format!("{ANSWER}\r\n\r\n")).reset());
    assert_eq!(chat(gate, "/v1/chat/completions", &bearer, &body).await, 502);
    server.script(Script::raw(&format!("HTTP/1.1 200 {ANSWER}\r\nx: {ANSWER}\0\r\n\r\n")).reset());
    assert_eq!(chat(gate, "/v1/chat/completions", &bearer, &body).await, 502);

    let mut cut = key.to_owned();
    cut.pop();
    for (headers, status) in [
        (vec![("authorization", format!("Bearer {cut}"))], 401),
        (vec![("x-api-key", format!("{key}{key}"))], 401),
        (vec![("authorization", format!("Basic {cut}"))], 401),
        (vec![("authorization", format!("Bearer {FOREIGN}"))], 401),
        (vec![("authorization", key.to_owned())], 400),
        (vec![("authorization", format!("Bearer {key}")), ("x-api-key", FOREIGN.to_owned())], 400),
    ] {
        assert_eq!(chat(gate, "/api/chat", &headers, &body).await, status);
    }
    for (path, body, status) in [
        (format!("/api/chat?api_key={key}"), body.clone(), 200),
        (format!("/k/{key}/api/chat"), body.clone(), 404),
        ("/api/pull".to_owned(), body.clone(), 403),
        ("/api/chat".to_owned(), format!("{{\"model\":\"llama3\",\"prompt\":\"{PROMPT}"), 400),
        ("/api/chat".to_owned(), format!("{{\"model\":\"llama3\",\"x\":{PROMPT}}}"), 400),
        ("/api/chat".to_owned(), json!({ "model": "nobody", "prompt": PROMPT }).to_string(), 404),
        ("/api/chat".to_owned(), json!({ "model": "llama3", "prompt": PROMPT.repeat(99) }).to_string(), 413),
    ] {
        assert_eq!(chat(gate, &path, &bearer, &body).await, status, "{path}");
    }
    let mut raw = TcpStream::connect(gate.data_plane.trim_start_matches("http://")).await.unwrap();
    raw.write_all(format!("POST /{key} \0{PROMPT}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    drop(raw.read_to_end(&mut answer).await);
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
}

fn admin_token(folder: &Path) -> String {
    fs::read_to_string(folder.join("state/admin.token")).unwrap().trim().to_owned()
}

/// The admin token right, and wrong in the ways in which people get it wrong.
async fn plant_admin_token(gate: &Gate, token: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, authorization, status) in [
        ("/api/v1/status".to_owned(), format!("Bearer {token}"), 200),
        ("/api/v1/status".to_owned(), format!("Bearer {token}0"), 401),
        ("/api/v1/status".to_owned(), format!("Basic {token}"), 401),
        (format!("/api/v1/{token}?token={token}"), format!("Bearer {token}"), 404),
        (format!("/{token}"), token.to_owned(), 404),
    ] {
        let request = client.get(format!("{}{path}", gate.admin)).header("authorization", authorization);
        assert_eq!(request.send().await.unwrap().status(), status, "{path}");
    }
    let rebound = client.get(format!("{}/healthz", gate.admin)).header("host", token);
    assert_eq!(rebound.send().await.unwrap().status(), 421);
}

/// All bytes of all files in a folder.
fn contents(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all.extend(if path.is_dir() { contents(&path) } else { fs::read(&path).unwrap() });
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_written_to_the_log_the_metrics_or_the_disk() {
    let folder = tempdir().unwrap();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = start(folder.path(), &server);
    plant(&gate, &server).await;
    plant_admin_token(&gate, &admin_token(folder.path())).await;
    let metrics = Answer::of(reqwest::get(format!("{}/metrics", gate.admin)).await.unwrap()).await.body;
    let stopped = gate.running.stop();
    assert_eq!((stopped.code, stopped.stdout.as_str()), (Some(0), ""), "{}", stopped.stderr);

    let parsed = ParsedKey::parse(&gate.key).unwrap();
    let pepper = fs::read_to_string(folder.path().join("state/pepper")).unwrap();
    let admin_token = admin_token(folder.path());
    let log = &stopped.stderr;
    for line in log.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line}");
    }
    // A half of the secret is as good as found; lower case, because a name of a model becomes so.
    let secret = parsed.secret().get(..20).unwrap();
    for (what, needle) in [
        ("the key", secret),
        ("the pepper", pepper.trim()),
        ("the admin token", admin_token.get(..40).unwrap()),
        ("the prompt", PROMPT),
        ("the answer", ANSWER),
        ("the cookie", COOKIE),
        ("another service's token", FOREIGN),
    ] {
        let needle = needle.to_lowercase();
        assert!(!log.to_lowercase().contains(&needle), "{what} is in the log:\n{log}");
        assert!(!metrics.to_lowercase().contains(&needle), "{what} is in the metrics:\n{metrics}");
    }
    assert!(!metrics.contains(parsed.id()), "whose key it was is no label:\n{metrics}");
    assert!(metrics.contains("tollgate_requests_total{") && metrics.contains("status=\"5xx\""), "{metrics}");
    for told in ["the-request-id", parsed.id(), "gpu-1", "llama3:latest"] {
        assert!(log.contains(told), "{told} is missing in the log:\n{log}");
    }

    let state = contents(&folder.path().join("state"));
    for needle in [secret, PROMPT, ANSWER, COOKIE, FOREIGN] {
        assert!(!state.windows(needle.len()).any(|window| window == needle.as_bytes()), "{needle} is on the disk");
    }
}
