//! The real binary from the shell: what it prints where, and its exit codes.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tollgate::identity::ParsedKey;

use crate::support::{
    Answer,
    binary::{Outcome, Running, run, run_with},
    guest,
};

/// A folder with nothing in it but this configuration.
fn folder_with(toml: &str) -> TempDir {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("tollgate.toml"), toml).unwrap();
    folder
}

fn empty() -> TempDir {
    tempdir().unwrap()
}

#[track_caller]
fn assert_fails(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{}", outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "`{word}` is missing in:\n{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

fn create(folder: &Path, arguments: &[&str]) -> String {
    let created = run(folder, &[&["keys", "create"], arguments].concat());
    assert_eq!(created.code, Some(0), "{}", created.stderr);
    let (key, rest) = created.stdout.split_once('\n').unwrap();
    assert_eq!(rest, "", "the key stands alone on stdout");
    assert!(ParsedKey::parse(key).is_some() && created.stderr.contains("shown once"), "{created:?}");
    key.to_owned()
}

fn list(folder: &Path) -> Vec<Value> {
    let listed = run(folder, &["keys", "list", "-o", "json"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    listed.json().as_array().unwrap().clone()
}

#[test]
fn a_created_key_is_printed_once_and_listed_without_its_secret() {
    let folder = empty();
    let folder = folder.path();
    let plain = create(folder, &["--name", "plain"]);
    let models = "qwen3:8b,LLaMA3,library/llama3";
    let all = ["--name", "full", "--user", "ann", "--rpm", "7", "--models", models, "--expires", "30d"];
    let full = create(folder, &[&all[..], &["--attribute", "groups=staff", "--manage"]].concat());
    let keys = list(folder);
    let id = |key: &str| ParsedKey::parse(key).unwrap().id().to_owned();
    let find = |key: &str| keys.iter().find(|listed| listed["id"] == id(key)).unwrap();
    let (first, second) = (find(&plain), find(&full));
    let moment = |key: &Value, which: &str| key[which].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(
        first,
        &json!({
            "id": id(&plain), "name": "plain", "user": null, "state": "active", "models": null,
            "limits": {
                "requests_per_minute": null, "tokens_per_minute": null, "concurrent": null, "tokens_per_day": null,
                "tokens_per_month": null, "models": {},
            },
            "may_manage": false, "attributes": {}, "former_secret_until": null, "expires_at": null, "created_at": first["created_at"],
        })
    );
    assert_eq!((&second["name"], &second["user"], &second["state"]), (&json!("full"), &json!("ann"), &json!("active")));
    assert_eq!(
        (&second["limits"]["requests_per_minute"], &second["models"]),
        (&json!(7), &json!(["llama3:latest", "qwen3:8b"]))
    );
    assert_eq!((&second["may_manage"], &second["attributes"]), (&json!(true), &json!({ "groups": ["staff"] })));
    let valid = moment(second, "expires_at").duration_since(moment(second, "created_at"));
    assert_eq!(valid, SignedDuration::from_hours(30 * 24));

    let table = run(folder, &["keys", "list"]);
    let heads = ["ID", "NAME", "USER", "STATE", "LIMITS", "MODELS", "MANAGE", "EXPIRES"];
    assert_eq!(table.stdout.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), heads);
    let row = |key: &str| table.stdout.lines().find(|line| line.contains(&id(key))).unwrap().to_owned();
    assert_eq!(
        row(&plain).split_whitespace().collect::<Vec<_>>(),
        [&id(&plain), "plain", "-", "active", "-", "all", "-", "-"]
    );
    assert!(row(&full).contains("llama3:latest,qwen3:8b"), "{}", table.stdout);
    for key in [&plain, &full] {
        let secret = ParsedKey::parse(key).unwrap().secret().to_owned();
        assert!(!table.stdout.contains(&secret) && !format!("{keys:?}").contains(&secret));
    }
}

#[test]
fn a_key_can_be_created_for_a_script_to_read() {
    let folder = empty();
    let created = run(folder.path(), &["keys", "create", "--name", "ci", "-o", "json"]);
    let json = created.json();
    let key = json["key"].as_str().unwrap();
    assert_eq!(json, json!({ "id": ParsedKey::parse(key).unwrap().id(), "key": key }));
    assert_eq!((created.code, list(folder.path()).len()), (Some(0), 1));
}

#[test]
fn a_key_is_switched_off_and_on_and_withdrawn_by_its_name_or_id() {
    let folder = empty();
    let folder = folder.path();
    let key = create(folder, &["--name", "laptop"]);
    let id = ParsedKey::parse(&key).unwrap().id();
    let steps = [
        ("disable", "laptop", "disabled"),
        ("disable", id, "disabled"),
        ("enable", id, "active"),
        ("disable", id, "disabled"),
        ("enable", "laptop", "active"),
        ("revoke", "laptop", "revoked"),
        ("revoke", id, "revoked"),
    ];
    for (verb, which, state) in steps {
        let done = run(folder, &["keys", verb, which]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{verb} {which}: {}", done.stderr);
        assert!(done.stderr.contains(id) && done.stderr.contains(state), "{}", done.stderr);
        assert_eq!(list(folder)[0]["state"], state, "{verb} {which}");
        let again = run(folder, &["keys", verb, which, "-o", "json"]);
        assert_eq!((again.code, again.json()), (Some(0), list(folder)[0].clone()), "{verb} {which}");
    }
    for verb in ["enable", "disable"] {
        assert_fails(&run(folder, &["keys", verb, id]), 1, &["revoked for good"]);
    }
    assert_eq!(list(folder)[0]["state"], "revoked");
}

#[test]
fn a_key_that_is_not_meant_clearly_is_not_touched() {
    let folder = empty();
    let folder = folder.path();
    create(folder, &["--name", "laptop", "--user", "ann"]);
    create(folder, &["--name", "laptop", "--user", "bob"]);
    assert_fails(&run(folder, &["keys", "revoke", "laptop"]), 1, &["several keys", "use the id"]);
    assert_fails(&run(folder, &["keys", "revoke", "phone"]), 1, &["no key 'phone'", "keys list"]);
    assert!(list(folder).iter().all(|key| key["state"] == "active"));
    let taken = ["keys", "create", "--name", "laptop", "--user", "bob"];
    assert_fails(&run(folder, &taken), 1, &["a key named 'laptop' already"]);
    assert_eq!(list(folder).len(), 2);
}

#[test]
fn what_cannot_be_meant_is_a_usage_error_and_makes_no_key() {
    let folder = empty();
    let folder = folder.path();
    let long = "x".repeat(201);
    for arguments in [
        &["--name"][..],
        &["--user", "ann"],
        &["--name", ""],
        &["--name", "a\nb"],
        &["--name", &long],
        &["--name", "x", "--user", ""],
        &["--name", "x", "--rpm", "many"],
        &["--name", "x", "--expires", "soon"],
        &["--name", "x", "--expires", "0s"],
        &["--name", "x", "--expires", "99999y"],
        &["--name", "x", "--models", "llama3@sha256:0a"],
        &["--name", "x", "--models", "llama3,,qwen3"],
        &["--name", "x", "--attribute", "groups"],
        &["--name", "x", "--attribute", "=x"],
        &["--name", "x", "--unknown"],
        &["--name", "x", "-o", "xml"],
    ] {
        assert_fails(&run(folder, &[&["keys", "create"], arguments].concat()), 2, &["--"]);
    }
    for arguments in [&[][..], &["srve"], &["keys"], &["keys", "revoke"], &["policy", "inspect"], &["serve", "extra"]] {
        assert_fails(&run(folder, arguments), 2, &["Usage"]);
    }
    assert_eq!(list(folder), Vec::<Value>::new());
}

#[test]
fn a_check_says_what_would_serve() {
    let toml = "[limits]\ntokens_per_month = 5_000_000\n[[backends]]\nname = \"gpu-1\"\nurl = \"http://127.0.0.1:1\"\n";
    let folder = folder_with(toml);
    let checked = run(folder.path(), &["check"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    for line in [
        "authenticate: api-key",
        "admit: rate-limit",
        "route: round-robin",
        "settle: -",
        "backend gpu-1: http://127.0.0.1:1",
        "limits.requests_per_minute: 100",
        "limits.tokens_per_month: 5000000",
        "the configuration can be used",
    ] {
        assert!(checked.stdout.lines().any(|found| found.trim_end_matches('/') == line), "{line}: {}", checked.stdout);
    }
}

#[test]
fn a_check_shows_added_backends_too_and_those_that_serve_nobody() {
    let folder = folder_with("[[backends]]\nname = \"gpu-1\"\nurl = \"http://gpu-1\"\n");
    let folder = folder.path();
    for [name, url] in [["gpu-2", "http://gpu-2"], ["gpu-3", "http://gpu-3"]] {
        assert_eq!(run(folder, &["backends", "add", name, url]).code, Some(0));
    }
    assert_eq!(run(folder, &["backends", "drain", "gpu-2"]).code, Some(0));
    fs::write(folder.join("tollgate.toml"), "[[backends]]\nname = \"gpu-3\"\nurl = \"http://elsewhere\"\n").unwrap();
    let table = run(folder, &["check"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    for line in ["backend gpu-3: http://elsewhere", "backend gpu-2: http://gpu-2 (drained)"] {
        assert!(table.stdout.lines().any(|found| found == line), "{line}: {}", table.stdout);
    }
    assert!(table.stderr.contains("added backend 'gpu-3' is not used"), "{}", table.stderr);
    let json = run(folder, &["check", "-o", "json"]).json();
    let added = json!({ "name": "gpu-2", "url": "http://gpu-2", "source": "store", "drained": true });
    assert_eq!((&json["backends"][1], json["backends"].as_array().unwrap().len()), (&added, 2));
    assert!(json["warnings"][0].as_str().unwrap().contains("'gpu-3' is not used"), "{json}");
}

#[test]
fn a_store_that_may_not_be_used_where_it_is_is_a_mistake_of_the_configuration() {
    let folder = folder_with("[store]\nurl = \"sqlite://keys.db\"\n");
    fs::create_dir(folder.path().join("keys.db")).unwrap();
    for arguments in [&["serve"][..], &["check"], &["keys", "list"]] {
        assert_fails(&run(folder.path(), arguments), 78, &["keys.db", "no regular file"]);
    }
}

#[test]
fn all_mistakes_of_a_configuration_are_told_at_once_with_key_and_way_out() {
    let folder = folder_with(
        "stat_dir = \"x\"\n\
         [server]\nlisen = \"127.0.0.1:0\"\nmax_body = \"lots\"\nhead_timeout = 10\nthreads = 0\n\
         [admin]\nlisten = \"0.0.0.0:8081\"\n\
         [store]\nurl = \"mysql://user:hunter2@x\"\n\
         [limits]\nrequests_per_minute = -1\ntokens_per_day = 9007199254740992\nconcurrent = \"4\"\n\
         [log]\nlevel = \"loud\"\n\
         [[backends]]\nname = \"GPU 1\"\nurl = \"ftp://x\"\nkind = \"olama\"\nweight = 1.5\n\
         [[backends]]\nurl = \"http://user:hunter2@x\"\n",
    );
    let expected = [
        ("stat_dir", "did you mean `state_dir`?"),
        ("server.lisen", "did you mean `listen`?"),
        ("server.max_body", "64KiB"),
        ("server.head_timeout", "30s"),
        ("server.threads", "from 1 to 1024"),
        ("admin.listen", "loopback"),
        ("store.url", "sqlite://PATH"),
        ("limits.requests_per_minute", "from 1 to"),
        ("limits.tokens_per_day", "from 1 to 9007199254740991"),
        ("limits.concurrent", "without quotes"),
        ("log.level", "trace"),
        ("backends[0].name", "gpu-1"),
        ("backends[0].url", "http"),
        ("backends[0].kind", "did you mean"),
        ("backends[0].weight", "fraction"),
        ("backends[1].name", "missing"),
        ("backends[1].url", "leave that part out"),
    ];
    for command in ["check", "serve", "demo"] {
        let outcome = run(folder.path(), &[command]);
        assert_fails(&outcome, 78, &[&format!("{} problems in the configuration", expected.len())]);
        for (key, hint) in expected {
            let begin = format!("{key} (tollgate.toml): ");
            let line =
                outcome.stderr.lines().find_map(|line| line.trim_start_matches("tollgate: ").strip_prefix(&begin));
            assert!(line.is_some_and(|line| line.contains(hint)), "{key}: {hint} in\n{}", outcome.stderr);
        }
        assert!(!outcome.stderr.contains("hunter2"), "a password stands in:\n{}", outcome.stderr);
    }
}

#[test]
fn everything_that_keeps_a_gate_from_starting_is_told_at_once_to_people_and_scripts() {
    let folder = folder_with("[policies]\nfolder = \"policies.d\"\n");
    let folder = folder.path();
    fs::DirBuilder::new().mode(0o700).create(folder.join("policies.d")).unwrap();
    create(folder, &["--name", "laptop"]);
    let state = folder.join("tollgate-state");
    // Three mistakes in three places: the keys' pepper is lost, others can read the token, and a policy is broken.
    fs::remove_file(state.join("pepper")).unwrap();
    fs::write(state.join("admin.token"), "tga_").unwrap();
    fs::set_permissions(state.join("admin.token"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(folder.join("policies.d/broken.wasm"), "no component").unwrap();
    let words = ["`pepper`", "chmod 600", "policy 'broken' is not used", "3 problems"];
    assert_fails(&run(folder, &["check"]), 78, &words);
    assert!(!state.join("pepper").exists(), "a new pepper would hide that the keys' own is lost");
    assert_fails(&run(folder, &["serve"]), 78, &["it holds keys, but the file `pepper`"]);
    assert!(!state.join("pepper").exists(), "a gate with another pepper would let in nobody");
    let json = run(folder, &["check", "-o", "json"]);
    assert_eq!((json.code, &json.json()["ok"]), (Some(78), &json!(false)), "{json:?}");
    let problems = json.json()["problems"].as_array().unwrap().clone();
    for (problem, word) in problems.iter().zip(words) {
        assert!(problem["message"].as_str().unwrap().contains(word), "{word}: {problem}");
    }
    assert_eq!(problems.len(), 3);
    // What others can write to is no place for any of it; the policies are still looked at.
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    assert_fails(&run(folder, &["check"]), 78, &["chmod 700", "policy 'broken' is not used", "2 problems"]);
}

#[test]
fn a_check_for_scripts_says_what_would_serve_or_which_keys_are_wrong() {
    let folder = folder_with("[[backends]]\nname = \"gpu-1\"\nurl = \"http://127.0.0.1:1\"\n");
    let good = run(folder.path(), &["check", "-o", "json"]);
    let json = good.json();
    assert_eq!((good.code, &json["ok"], &json["problems"]), (Some(0), &json!(true), &json!([])), "{good:?}");
    assert_eq!(json["hooks"][0], json!({ "hook": "authenticate", "policies": ["api-key"] }));
    assert_eq!((&json["backends"][0]["name"], json["hooks"].as_array().unwrap().len()), (&json!("gpu-1"), 4));
    let bad = run(folder.path(), &["check", "-o", "json", "--set", "server.lisen=x", "--set", "log.level=loud"]);
    assert_eq!((bad.code, &bad.json()["ok"]), (Some(78), &json!(false)), "{bad:?}");
    let problem = json!({
        "key": "server.lisen", "source": "--set", "message": "unknown key", "hint": "did you mean `listen`?",
    });
    let problems = bad.json()["problems"].as_array().unwrap().clone();
    assert!(problems.contains(&problem) && problems.len() == 2, "{problems:#?}");
    assert!(bad.stderr.contains("2 problems in the configuration"), "{bad:?}");
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let folder = folder_with("[limits]\nrequests_per_minute = 0\n");
    let folder = folder.path();
    let bad = [("TOLLGATE__LIMITS__REQUESTS_PER_MINUTE", "few")];
    let good = [("TOLLGATE__LIMITS__REQUESTS_PER_MINUTE", "5"), ("OTHER__KEY", "x")];
    let set = ["check", "--set", "limits.requests_per_minute=5"];
    assert_fails(&run(folder, &["check"]), 78, &["limits.requests_per_minute (tollgate.toml)"]);
    assert_fails(&run_with(folder, &bad, &["check"]), 78, &["limits.requests_per_minute (environment)"]);
    assert_eq!(run_with(folder, &good, &["check"]).code, Some(0));
    assert_eq!(run_with(folder, &bad, &set).code, Some(0));
    assert_fails(&run(folder, &["check", "--set", "limits.rpm=5"]), 78, &["limits.rpm (--set)", "unknown key"]);
    assert_fails(&run_with(folder, &[("TOLLGATE__LIMITZ", "5")], &set), 78, &["did you mean `limits`?"]);
    assert_fails(&run(folder, &["check", "--config", "no.toml"]), 78, &["no.toml", "can't be read"]);
}

#[test]
fn a_state_folder_that_others_can_look_into_is_refused() {
    let folder = empty();
    fs::DirBuilder::new().mode(0o700).create(folder.path().join("tollgate-state")).unwrap();
    fs::set_permissions(folder.path().join("tollgate-state"), fs::Permissions::from_mode(0o755)).unwrap();
    for arguments in [&["serve"][..], &["check"], &["keys", "create", "--name", "x"]] {
        assert_fails(&run(folder.path(), arguments), 78, &["other users can open", "run `chmod 700 "]);
    }
}

#[test]
fn a_policy_file_tells_its_hooks_and_what_it_asks_for() {
    let folder = empty();
    fs::write(folder.path().join("least-busy.wasm"), guest::gallery("least-busy")).unwrap();
    fs::write(folder.path().join("charge-by-size.wasm"), guest::gallery("charge-by-size")).unwrap();
    let inspect = |file: &str| run(folder.path(), &["policy", "inspect", file, "-o", "json"]).json();
    let (routes, charges) = (inspect("least-busy.wasm"), inspect("charge-by-size.wasm"));
    assert_eq!((&routes["name"], &routes["hooks"]), (&json!("least-busy"), &json!(["route"])));
    assert_eq!(charges["hooks"], json!(["admit"]));
    let asks = |policy: &Value| policy["imports"].to_string().contains("tollgate:policy/catalogue@");
    assert_eq!((asks(&routes), asks(&charges)), (false, true), "{routes} {charges}");
    let table = run(folder.path(), &["policy", "inspect", "least-busy.wasm"]);
    assert!(table.code == Some(0) && table.stdout.starts_with("name: least-busy\nbytes: "), "{table:?}");
    assert!(table.stdout.contains("\nhooks: route\n"), "{table:?}");
    let can = |policy: &Value, what: &str| policy["capabilities"].as_array().unwrap().contains(&json!(what));
    let catalogue = "reads what models and backends there are";
    assert_eq!((can(&routes, catalogue), can(&charges, catalogue)), (false, true), "{routes} {charges}");
    fs::write(folder.path().join("alias.wasm"), guest::gallery("alias")).unwrap();
    let alias = run(folder.path(), &["policy", "inspect", "alias.wasm"]);
    assert!(
        alias.stdout.contains("\ncan: changes calls\ncan: reads what models and backends there are\n"),
        "{alias:?}"
    );
    // Looking at a policy needs no settings, and no grant.
    fs::write(folder.path().join("jwt.wasm"), guest::gallery("jwt")).unwrap();
    let jwt = run(folder.path(), &["policy", "inspect", "jwt.wasm"]);
    assert!(jwt.code == Some(0) && jwt.stdout.contains("\ncan: reads credentials in clear\n"), "{jwt:?}");
}

#[test]
fn a_policy_file_that_cannot_be_used_is_refused_with_the_reason() {
    let folder = empty();
    fs::write(folder.path().join("broken.wasm"), "no component").unwrap();
    fs::write(folder.path().join("module.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
    fs::write(folder.path().join("huge.wasm"), vec![0; 64 << 20]).unwrap();
    for (file, reason) in [
        ("broken.wasm", "can't be used as a policy"),
        ("module.wasm", "can't be used as a policy"),
        ("huge.wasm", "bytes"),
        ("nowhere.wasm", "can't be read"),
        (".", "."),
    ] {
        assert_fails(&run(folder.path(), &["policy", "inspect", file]), 1, &[file, reason]);
    }
}

#[test]
fn a_gate_does_not_start_with_a_policy_that_cannot_be_used() {
    let folder = folder_with("[policies]\nfolder = \"policies.d\"\n");
    fs::DirBuilder::new().mode(0o700).create(folder.path().join("policies.d")).unwrap();
    fs::write(folder.path().join("policies.d/broken.wasm"), "no component").unwrap();
    fs::write(folder.path().join("policies.d/jwt.wasm"), guest::gallery("jwt")).unwrap();
    for command in ["serve", "check"] {
        assert_fails(&run(folder.path(), &[command]), 78, &["broken", "jwt", "needs a grant"]);
    }
}

#[test]
fn a_demo_that_cannot_start_fails_as_the_gate_would_and_leaves_nothing_behind() {
    let folder = folder_with("[policies]\nfolder = \"policies.d\"\n");
    fs::DirBuilder::new().mode(0o700).create(folder.path().join("policies.d")).unwrap();
    fs::write(folder.path().join("policies.d/broken.wasm"), "no component").unwrap();
    let failed = run(folder.path(), &["demo", "--set", "server.listen=127.0.0.1:0"]);
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.collect::<BTreeSet<_>>(), ["policies.d", "tollgate.toml"].map(str::to_owned).into());
    assert_fails(&failed, 78, &["broken"]);
}

#[test]
fn an_address_in_use_is_a_failure_that_names_it() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("server.listen={}", other.local_addr().unwrap());
    let outcome = run(empty().path(), &["serve", "--set", &listen, "--set", "admin.listen=127.0.0.1:0"]);
    assert_fails(&outcome, 1, &[&other.local_addr().unwrap().to_string(), "can't be listened on"]);
}

#[tokio::test]
async fn the_demo_prints_a_key_and_a_call_that_works_and_leaves_nothing_behind() {
    let folder = empty();
    let quiet = ["--set", "server.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0", "--set", "log.level=error"];
    let mut demo = Running::start(folder.path(), &[&["demo"], &quiet[..]].concat());
    let key = demo.on_stdout(|line| line.strip_prefix("key: ").map(str::to_owned));
    assert!(ParsedKey::parse(&key).is_some(), "{key}");
    // As a shell would read it: the words of `curl URL -H 'HEADER' -d 'BODY'` on two lines.
    let first = demo.on_stderr(|line| line.starts_with("curl ").then(|| line.to_owned()));
    let second = demo.on_stderr(|line| Some(line.trim().to_owned()));
    let (url, header) = first.trim_end_matches('\\').trim().strip_prefix("curl ").unwrap().split_once(" -H ").unwrap();
    assert_eq!(header, format!("'Authorization: Bearer {key}'"));
    let body = second.strip_prefix("-d '").unwrap().strip_suffix('\'').unwrap().to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |key: &str| {
        let request = client.post(url).header("authorization", format!("Bearer {key}")).body(body.clone());
        Answer::of(request.send().await.unwrap()).await
    };
    let answer = post(&key).await;
    let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(answer.status == 200 && lines.len() > 2 && lines.last().unwrap()["done"] == true, "{answer:?}");
    let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert!(text.contains("simulated"), "{text}");
    assert_ne!(post(&key).await.backend(), answer.backend(), "both servers have the model");
    assert_eq!(post("op_wrong").await.status, 401);

    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the demo's state has one folder");
    let stopped = demo.stop();
    assert_eq!((stopped.code, stopped.stdout), (Some(0), format!("key: {key}\n")), "{}", stopped.stderr);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    assert!(!stopped.stderr.contains("no backends"), "the demo has backends of its own:\n{}", stopped.stderr);
}

#[test]
fn every_command_has_help() {
    let folder = empty();
    let mut waiting = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(command) = waiting.pop() {
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = run(folder.path(), &arguments);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(help.stdout.contains("Usage: tollgate"), "{arguments:?}: {}", help.stdout);
        let listed = help.stdout.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
        let names = listed.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        waiting.extend(names.map(|name| [&command[..], &[name.to_owned()]].concat()));
        seen += 1;
    }
    assert!(seen >= 12, "only {seen} commands were found");
    assert_eq!(run(folder.path(), &["--version"]).stdout, concat!("tollgate ", env!("CARGO_PKG_VERSION"), "\n"));
}
