//! The admin listener: who may ask, by which name, within which bounds, and what it answers.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::task::{JoinSet, spawn_blocking};
use tollgate::clock::Clock;

use crate::support::{Answer, LlmServer, Log, TestProxy, binary, guest, raw::Raw, soon};

/// Every path that needs the token, with its method; one is not there.
const API: [(&str, &str); 8] = [
    ("GET", "/api/v1/status"),
    ("GET", "/api/v1/policies"),
    ("POST", "/api/v1/policies/reload"),
    ("GET", "/api/v1/backends"),
    ("GET", "/api/v1/keys"),
    ("POST", "/api/v1/users/ann/disable"),
    ("GET", "/api/v1/nothing"),
    ("GET", "/api"),
];

/// What needs none.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

async fn before_one_server() -> (TestProxy, LlmServer) {
    let server = LlmServer::start("gpu-1", &["llama3:latest", "qwen3:8b"]).await;
    (TestProxy::before(&[&server]).await, server)
}

/// What the admin listener says to these bytes, until it closes the connection.
async fn said(gate: &TestProxy, request: &str) -> Answer {
    let mut raw = Raw::connect_to(gate.admin_address()).await;
    raw.send(request).await;
    raw.answer().await
}

/// A request with this `host` and these other lines, after which the connection is closed.
async fn ask(gate: &TestProxy, line: &str, headers: &str) -> Answer {
    said(gate, &format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")).await
}

/// A refusal must say what to do in the one shape that problems have.
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, code: &str, words: &[&str]) {
    let json = answer.json();
    assert_eq!((answer.status, json["code"].as_str()), (status, Some(code)), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!((json["status"].as_u64(), answer.header("cache-control")), (Some(status.into()), Some("no-store")));
    let detail = json["detail"].as_str().unwrap();
    for word in words {
        assert!(detail.contains(word), "`{word}` is missing in: {detail}");
    }
}

#[tokio::test]
async fn the_api_answers_to_the_token_and_to_nothing_else() {
    let (gate, _server) = before_one_server().await;
    let token = gate.admin_token();
    for (method, path) in API {
        let line = format!("{method} {path}");
        let refused = ask(&gate, &line, "").await;
        assert_problem(&refused, 401, "no_token", &["admin.token"]);
        assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"), "{refused:?}");
        assert_eq!(refused.header("connection"), Some("close"));
        let passed = ask(&gate, &line, &format!("authorization: Bearer {token}\r\n")).await;
        assert!(!matches!(passed.status, 401 | 403), "{passed:?}");
    }
    for wrong in [
        format!("authorization: Bearer {token}0"),
        format!("authorization: Bearer {}", &token[..67]),
        "authorization: Bearer 0".to_owned(),
        format!("authorization: Bearer {}", gate.key()),
    ] {
        assert_problem(&ask(&gate, "GET /api/v1/status", &format!("{wrong}\r\n")).await, 401, "wrong_token", &[]);
    }
    for none in [
        "authorization: Bearer ".to_owned(),
        format!("authorization: {token}"),
        format!("authorization: Basic {token}"),
        format!("x-api-key: {token}"),
        format!("cookie: token={token}"),
        format!("authorization: Bearer {token}\r\nauthorization: Bearer {token}"),
    ] {
        assert_problem(&ask(&gate, "GET /api/v1/status", &format!("{none}\r\n")).await, 401, "no_token", &[]);
    }
    for path in OPEN {
        let answer = gate.admin(path).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{path}");
        assert!(!answer.body.contains(&token[4..]));
    }
    assert_eq!(gate.metric("tollgate_admin_refusals_total{reason=\"wrong_token\"}").await, 4.0);
    assert_eq!(gate.metric("tollgate_admin_refusals_total{reason=\"no_token\"}").await, 14.0);
}

#[tokio::test]
async fn the_token_is_what_stands_in_its_file_now() {
    let (gate, _server) = before_one_server().await;
    let (file, old) = (gate.admin_token_file(), gate.admin_token());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let with =
        async |token: &str| ask(&gate, "GET /api/v1/status", &format!("authorization: Bearer {token}\r\n")).await;
    assert_eq!(with(&old).await.status, 200);
    let new = format!("tga_{}", "5e".repeat(32));
    fs::write(&file, format!("{new}\n")).unwrap();
    assert_eq!((with(&old).await.status, with(&new).await.status), (401, 200));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let command = format!("chmod 600 {}", file.display());
    assert_problem(&with(&new).await, 503, "no_admin_token", &[&command]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "").unwrap();
    assert_problem(&with("0").await, 503, "no_admin_token", &["restart the gate"]);
    fs::remove_file(&file).unwrap();
    assert_problem(&with(&new).await, 503, "no_admin_token", &["admin.token"]);
}

#[tokio::test]
async fn wrong_tokens_are_counted_and_slowed_and_never_lock_the_operator_out() {
    let (gate, _server) = before_one_server().await;
    let wrong = async || ask(&gate, "GET /api/v1/status", "authorization: Bearer tga_no\r\n").await;
    for _ in 0..10 {
        assert_problem(&wrong().await, 401, "wrong_token", &[]);
    }
    gate.hand.advance(Duration::from_secs(20));
    let refused = wrong().await;
    assert_problem(&refused, 429, "too_many_attempts", &["40 seconds"]);
    assert_eq!(refused.header("retry-after"), Some("40"));
    assert_eq!(gate.api(Method::GET, "/api/v1/status").await.status, 200);
    gate.hand.advance(Duration::from_secs(40));
    assert_problem(&wrong().await, 401, "wrong_token", &[]);
    assert_eq!(gate.metric("tollgate_admin_refusals_total{reason=\"wrong_token\"}").await, 11.0);
    assert_eq!(gate.metric("tollgate_admin_refusals_total{reason=\"too_many_attempts\"}").await, 1.0);
}

#[tokio::test]
async fn who_asks_by_another_name_is_refused_everywhere() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let builder = TestProxy::builder().backend(&server).set("admin.hosts = [\"gate.example.com\"]");
    let gate = builder.start().await;
    let bearer = format!("authorization: Bearer {}\r\nconnection: close\r\n", gate.admin_token());
    let asked = async |path: &str, host: &str| said(&gate, &format!("GET {path} HTTP/1.1\r\n{host}{bearer}\r\n")).await;
    for path in OPEN.into_iter().chain(["/api/v1/status", "/nothing"]) {
        for host in [
            "host: evil.example\r\n",
            "host: evil.example:8081\r\n",
            "host: localhost.evil.example\r\n",
            "host: localhost\r\nhost: evil.example\r\n",
            "host: \r\n",
            "",
        ] {
            let refused = asked(path, host).await;
            assert_problem(&refused, 421, "wrong_host", &["admin.hosts", "127.0.0.1"]);
            assert!(!refused.body.contains("evil"), "what was sent is not repeated: {refused:?}");
        }
    }
    let absolute = format!("GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\n{bearer}\r\n");
    assert_problem(&said(&gate, &absolute).await, 421, "wrong_host", &[]);
    for host in ["localhost", "127.0.0.1:8081", "[::1]:1", "Gate.Example.com:443"] {
        let answer = asked("/api/v1/status", &format!("host: {host}\r\n")).await;
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    assert_eq!(gate.metric("tollgate_admin_refusals_total{reason=\"host\"}").await, 31.0);
}

#[tokio::test]
async fn what_is_not_there_or_asked_otherwise_says_so() {
    let (gate, _server) = before_one_server().await;
    for path in ["/", "/api/v1", "/api/v1/", "/api/v2/status", "/api/v1/policies/", "/api/v1/policies/x", "/metrics/"] {
        assert_problem(&gate.api(Method::GET, path).await, 404, "no_such_path", &["/api/v1/policies"]);
    }
    for (method, path, allowed) in [
        (Method::POST, "/healthz", "GET,HEAD"),
        (Method::DELETE, "/api/v1/status", "GET,HEAD"),
        (Method::PUT, "/api/v1/policies", "GET,HEAD"),
        (Method::GET, "/api/v1/policies/reload", "POST"),
        (Method::OPTIONS, "/api/v1/policies/reload", "POST"),
    ] {
        let refused = gate.api(method, path).await;
        assert_problem(&refused, 405, "wrong_method", &["use"]);
        assert_eq!(refused.header("allow"), Some(allowed), "{path}");
    }
}

#[tokio::test]
async fn bodies_and_heads_have_bounds() {
    const CAP: usize = 64 << 10;
    let (gate, _server) = before_one_server().await;
    let bearer = format!("authorization: Bearer {}\r\n", gate.admin_token());
    let status = "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let sized = async |bytes: usize| {
        let body = "x".repeat(bytes);
        said(&gate, &format!("{status}{bearer}content-length: {bytes}\r\n\r\n{body}")).await
    };
    let chunked = async |bytes: usize| {
        let body = format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
        said(&gate, &format!("{status}{bearer}transfer-encoding: chunked\r\n\r\n{body}")).await
    };
    assert_eq!((sized(CAP).await.status, chunked(CAP).await.status), (200, 200));
    assert_problem(&sized(CAP + 1).await, 413, "too_large", &["65536"]);
    assert_problem(&chunked(CAP + 1).await, 413, "too_large", &["65536"]);
    let open = said(&gate, "POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n");
    assert!(matches!(open.await.status, 400 | 413));
    assert_eq!(gate.metric("tollgate_admin_refusals_total{reason=\"body_size\"}").await, 2.0);

    let head = |lines: String| format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{lines}\r\n");
    let many = |count: usize| head((0..count).map(|at| format!("x-{at}: 1\r\n")).collect());
    assert_eq!(said(&gate, &many(60)).await.status, 200);
    assert_eq!(said(&gate, &many(70)).await.status, 431);
    assert_eq!(said(&gate, &head(format!("x: {}\r\n", "x".repeat(100_000)))).await.status, 431);
}

#[tokio::test]
async fn what_is_slow_is_cut_after_ten_seconds() {
    let (gate, _server) = before_one_server().await;
    let bearer = format!("authorization: Bearer {}\r\n", gate.admin_token());
    let cut = async |sent: String| {
        let clock = Clock::system();
        let mut raw = Raw::connect_to(gate.admin_address()).await;
        raw.send(sent).await;
        let text = raw.text().await;
        (text, clock.monotonic())
    };
    let status = format!("GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\n{bearer}");
    let (silent, head, idle, body) = tokio::join!(
        cut(String::new()),
        cut("GET /healthz HTTP/1.1\r\nhost: lo".to_owned()),
        cut(format!("{status}\r\n")),
        cut(format!("{status}content-length: 10\r\n\r\nhalf")),
    );
    for (what, (text, took)) in [("silent", &silent), ("head", &head), ("idle", &idle), ("body", &body)] {
        // What is never cut is given up by the bench after twice that time.
        assert!(took.as_secs() >= 9, "{what}: {took:?} {text}");
    }
    assert!(!silent.0.contains("200") && !head.0.contains("200"), "{silent:?} {head:?}");
    assert!(idle.0.starts_with("HTTP/1.1 200 "), "{idle:?}");
    assert!(body.0.starts_with("HTTP/1.1 408 ") && body.0.contains("slow_body"), "{body:?}");
    gate.until_metric("tollgate_admin_connections_timed_out_total", 3.0).await;
    assert_eq!(gate.metric("tollgate_admin_refusals_total{reason=\"body_time\"}").await, 1.0);
}

#[tokio::test]
async fn the_sixty_fifth_connection_waits_for_a_place() {
    let (gate, _server) = before_one_server().await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut raw = Raw::connect_to(gate.admin_address()).await;
        raw.send(request("/healthz")).await;
        assert!(raw.next().await.starts_with("HTTP/1.1 200 "));
        open.push(raw);
    }
    let mut late = Raw::connect_to(gate.admin_address()).await;
    late.send(request("/healthz")).await;
    let first = open.first_mut().unwrap();
    first.send(request("/metrics")).await;
    let mut metrics = String::new();
    while !metrics.contains("# EOF") {
        metrics.push_str(&first.next().await);
    }
    assert!(metrics.contains("\ntollgate_admin_connections_open 64\n"), "{metrics}");
    assert!(late.is_unanswered(), "it was served beside 64 others");
    drop(open.pop());
    assert!(late.next().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn the_status_and_the_backends_are_what_they_are() {
    let (gate, _server) = before_one_server().await;
    gate.hand.advance(Duration::from_secs(90));
    let status = gate.api(Method::GET, "/api/v1/status").await.json();
    assert_eq!((&status["version"], &status["uptime_seconds"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(90)));
    assert_eq!((&status["started_at"], &status["policy_generation"]), (&json!("2026-06-10T12:00:00Z"), &json!(1)));
    assert_eq!((&status["draining"], &status["readiness"]["backends_up"]), (&json!(false), &json!(1)));

    let backends = gate.api(Method::GET, "/api/v1/backends").await.json();
    let backend = &backends["backends"][0];
    assert_eq!((&backend["name"], &backend["kind"], &backend["up"]), (&json!("gpu-1"), &json!("ollama"), &json!(true)));
    assert_eq!(backend["models"], json!(["llama3:latest", "qwen3:8b"]));
    assert_eq!(backends["backends"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_list_of_backends_says_how_they_do_while_a_gate_runs() {
    let (gate, _server) = before_one_server().await;
    let (folder, listen) = (gate.folder().to_owned(), format!("admin.listen={}", gate.admin_address()));
    let list =
        move |arguments: &[&str]| binary::run(&folder, &[&["--set", &listen, "backends", "list"], arguments].concat());
    let (json, table) = spawn_blocking(move || (list(&["-o", "json"]).json(), list(&[]).stdout)).await.unwrap();
    let live = json!({ "name": "gpu-1", "up": true, "in_flight": 0, "models": ["llama3:latest", "qwen3:8b"] });
    assert_eq!((&json[0]["source"], &json[0]["live"]), (&json!("config"), &live));
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[5..], ["used", "yes", "0", "2"], "{table}");
}

fn policy<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut policies = list["policies"].as_array().unwrap().iter();
    policies.find(|policy| policy["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[tokio::test]
async fn the_policies_are_listed_in_the_order_in_which_they_are_asked() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let own = guest::picking(0);
    let builder = TestProxy::builder().backend(&server).policy("chooser", &own).policy("round-robin", &own);
    let gate = builder.start().await;
    let list = gate.api(Method::GET, "/api/v1/policies").await.json();
    let names: Vec<&str> =
        list["policies"].as_array().unwrap().iter().map(|policy| policy["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["chooser", "api-key", "rate-limit", "round-robin"]);
    assert_eq!((&list["generation"], &list["complaint"]), (&json!(1), &Value::Null));
    assert_eq!(list["folder"], json!(gate.policies().display().to_string()));
    let chooser = policy(&list, "chooser");
    assert_eq!((&chooser["source"], &chooser["state"]), (&json!("file"), &json!("in-force")));
    assert_eq!((&chooser["hooks"], &chooser["generation"]), (&json!(["route"]), &json!(1)));
    assert_eq!(chooser["version"], policy(&list, "round-robin")["version"], "one component, two names");
    assert_eq!(policy(&list, "round-robin")["source"], json!("file"));
    let built_in = policy(&list, "api-key");
    assert_eq!((&built_in["source"], &built_in["hooks"]), (&json!("built-in"), &json!(["authenticate"])));
    assert!(built_in["version"].as_str().unwrap().starts_with("sha256:"), "{built_in}");
}

#[tokio::test]
async fn a_reload_takes_what_is_in_the_folder_now_and_says_what_cannot_be_used() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).policy("steady", &guest::picking(0)).start().await;
    let reload = async || gate.api(Method::POST, "/api/v1/policies/reload").await;
    let list = async || gate.api(Method::GET, "/api/v1/policies").await.json();
    let first = policy(&list().await, "steady")["version"].clone();
    let same = reload().await;
    assert_eq!((same.status, same.json()), (200, json!({ "generation": 1, "changes": [], "complaints": [] })));

    gate.put_policy("steady", &guest::padded(&guest::picking(0), 1));
    assert_eq!(reload().await.status, 200);
    let second = list().await;
    assert_ne!(policy(&second, "steady")["version"], first);
    assert_eq!((&policy(&second, "steady")["generation"], &second["generation"]), (&json!(2), &json!(2)));

    gate.put_policy("steady", b"broken");
    gate.put_policy("never-good", b"broken");
    gate.put_policy("api-key", b"broken");
    let refused = reload().await;
    assert_problem(&refused, 422, "policies_refused", &["complaints"]);
    let refused = refused.json();
    assert_eq!((&refused["generation"], &refused["changes"]), (&json!(2), &json!([])));
    let complaints = refused["complaints"].as_array().unwrap();
    let of = |name: &str| complaints.iter().filter(|complaint| complaint["policy"] == name).count();
    assert_eq!((of("steady"), of("never-good"), of("api-key"), complaints.len()), (1, 1, 1, 3), "{refused}");
    let third = list().await;
    let steady = policy(&third, "steady");
    assert_eq!((&steady["state"], &steady["version"]), (&json!("outdated"), &policy(&second, "steady")["version"]));
    assert!(steady["complaint"].as_str().unwrap().contains("the version before it goes on serving"), "{steady}");
    let never = policy(&third, "never-good");
    assert_eq!((&never["state"], &never["hooks"], &never["version"]), (&json!("refused"), &json!([]), &Value::Null));
    let api_key = third["policies"].as_array().unwrap().iter().filter(|policy| policy["name"] == "api-key");
    let states: Vec<&Value> = api_key.map(|policy| &policy["state"]).collect();
    assert_eq!(states, ["in-force", "refused"], "the built-in serves on beside the file that can't replace it");

    for name in ["steady", "never-good", "api-key"] {
        fs::remove_file(gate.policies().join(format!("{name}.wasm"))).unwrap();
    }
    assert_eq!(reload().await.status, 200);
    let names = list().await["policies"].as_array().unwrap().len();
    assert_eq!(names, 3, "only the built-in policies are left");
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_told_as_well() {
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).policy("steady", &guest::picking(0)).start().await;
    fs::set_permissions(gate.policies(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = gate.api(Method::POST, "/api/v1/policies/reload").await;
    assert_problem(&refused, 422, "policies_refused", &[]);
    assert!(refused.json()["complaints"][0]["complaint"].as_str().unwrap().contains("chmod go-w"), "{refused:?}");
    let list = gate.api(Method::GET, "/api/v1/policies").await.json();
    assert!(list["complaint"].as_str().unwrap().contains("chmod go-w"), "{list}");
    assert_eq!(policy(&list, "steady")["state"], json!("in-force"));
}

#[tokio::test]
async fn without_a_folder_there_is_nothing_to_reload() {
    let (gate, _server) = before_one_server().await;
    let refused = gate.api(Method::POST, "/api/v1/policies/reload").await;
    assert_problem(&refused, 409, "no_policy_folder", &["policies.folder"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_reload_together_share_few_looks_and_all_see_what_they_wrote() {
    let log = Log::listen();
    let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
    let gate = TestProxy::builder().backend(&server).policy("asked-by-many", &guest::picking(0)).start().await;
    gate.put_policy("asked-by-many", &guest::padded(&guest::picking(0), 7));
    let url = format!("http://{}/api/v1/policies/reload", gate.admin_address());
    let mut asking = JoinSet::new();
    for _ in 0..30 {
        let request = gate.client().post(&url).bearer_auth(gate.admin_token());
        asking.spawn(async move { Answer::of(request.send().await.unwrap()).await });
    }
    let answers = soon("all answers", asking.join_all()).await;
    for answer in &answers {
        assert_eq!((answer.status, answer.json()["generation"].as_u64()), (200, Some(2)), "{answer:?}");
    }
    assert_eq!(
        log.lines_with(&["the policy is in force", "\"asked-by-many\""]).len(),
        2,
        "once at the start, once since"
    );
}
