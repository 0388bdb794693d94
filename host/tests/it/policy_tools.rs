//! `tollgate policy …`: what authors are told of their policies.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    binary::{Outcome, run},
    guest,
};

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

#[track_caller]
fn check(outcome: &Outcome, code: i32, said: &[&str]) {
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.code == Some(code) && said.iter().all(|text| all.contains(text)), "{said:?}: {outcome:?}");
}

const PICKS_1: &[u8] =
    br#"[{"name":"good","hook":"route","expect":{"pick":1}},{"name":"bad","hook":"route","expect":{"pick":0}}]"#;
const HOLDS: &[u8] = br#"[{"name":"good","hook":"route","expect":{"pick":1}}]"#;

#[test]
fn cases_are_run_one_by_one_and_a_failing_one_is_exit_code_1() {
    let folder = folder(&[
        ("p.wasm", &guest::picking(1)),
        ("p.cases.json", PICKS_1),
        ("other.json", HOLDS),
        ("bad.json", b"[{}]"),
    ]);
    let policy = |arguments: &[&str]| run(folder.path(), &[&["policy", "test", "p.wasm"], arguments].concat());
    check(
        &policy(&[]),
        1,
        &["ok     route: good\n", "FAILED route: bad\n         at /pick: expected 0, got 1\n", "1 of 2 cases fail"],
    );
    let table = policy(&["-o", "json"]);
    assert_eq!(
        (table.code, &table.json()[0]["holds"], &table.json()[1]["got"]),
        (Some(1), &json!(true), &json!({ "pick": 1 }))
    );
    check(&policy(&["--cases", "other.json"]), 0, &["ok     route: good", "all 1 cases hold"]);
    check(&policy(&["--cases", "bad.json"]), 1, &["bad.json: at [0]: missing field `name`"]);
    check(&policy(&["--cases", "none.json"]), 1, &["there is no file none.json"]);
    fs::remove_file(folder.path().join("p.cases.json")).unwrap();
    check(&policy(&[]), 1, &["there are no cases: write some to p.cases.json"]);
}

#[test]
fn check_says_all_that_a_gate_would() {
    let routes = guest::picking(1);
    let wat = "(module (memory (export \"memory\") 1))";
    let files: [(&str, &[u8]); 9] = [
        ("round-robin.wasm", &routes),
        ("round-robin.toml", b"order = 3"),
        ("good.wasm", &routes),
        ("good.cases.json", HOLDS),
        ("p.wasm", &routes),
        ("p.cases.json", PICKS_1),
        ("rate-limit.wasm", &routes),
        ("Odd_Name.wasm", &routes),
        ("module.wasm", &wat::parse_str(wat).unwrap()),
    ];
    let folder = folder(&files);
    let policy = |file: &str| run(folder.path(), &["policy", "check", file]);
    check(&policy("good.wasm"), 0, &["good: can be used at route; 1 cases hold"]);
    check(&policy("p.wasm"), 1, &["p.wasm can't be used: these cases fail: bad"]);
    check(&policy("rate-limit.wasm"), 1, &["must export the hook `admit`"]);
    check(&policy("round-robin.wasm"), 1, &["order (round-robin.toml)", "leave it out"]);
    fs::remove_file(folder.path().join("round-robin.toml")).unwrap();
    check(&policy("round-robin.wasm"), 0, &["can be used at route"]);
    check(&policy("Odd_Name.wasm"), 1, &["rename the file"]);
    check(&policy("good.cases.json"), 1, &["NAME.wasm"]);
    check(&policy("module.wasm"), 1, &["it is a core module, not a component"]);
    check(&policy("none.wasm"), 1, &["can't be read"]);
}

#[test]
fn settings_grants_and_budgets_are_those_of_the_toml_beside_the_file() {
    let folder = folder(&[
        ("jwt.wasm", &guest::gallery("jwt")),
        ("s.wasm", &guest::picking_by_settings()),
        ("s.cases.json", HOLDS),
        ("slow.wasm", &guest::router("(loop (br 0)) (unreachable)")),
    ]);
    let toml = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let policy = |command: &str, file: &str| run(folder.path(), &["policy", command, file]);
    check(&policy("check", "jwt.wasm"), 1, &["needs a grant", "under [grants] in jwt.toml"]);
    toml("jwt.toml", "grants.raw_credential = true");
    check(&policy("check", "jwt.wasm"), 1, &["it refuses its settings: give a `secret`"]);
    toml("jwt.toml", "grants.raw_credential = true\nsettings.secret = \"a secret of thirty-two bytes, ok!\"");
    check(&policy("check", "jwt.wasm"), 0, &["jwt: can be used at authenticate"]);
    check(&policy("inspect", "jwt.wasm"), 0, &["granted: raw_credential"]);
    toml("s.toml", "grants.headers = [\"X-Team\"]");
    check(&policy("check", "s.wasm"), 1, &["grants.headers[0] (s.toml): not how a header's name begins"]);
    fs::remove_file(folder.path().join("s.toml")).unwrap();
    check(&policy("test", "s.wasm"), 1, &["at /pick: expected 1, got 0"]);
    toml("s.toml", "settings.backend = 1");
    check(&policy("test", "s.wasm"), 0, &["all 1 cases hold"]);
    toml("s.toml", "setting.backend = 1");
    check(&policy("test", "s.wasm"), 1, &["setting (s.toml): unknown key; did you mean `settings`?"]);
    check(&policy("check", "slow.wasm"), 1, &["of CPU time (99th percentile when warm)", "2ms"]);
}

#[test]
fn a_component_that_misses_the_interface_is_told_which_item_and_what_to_do() {
    let odd = wat::parse_str(
        r#"(component
            (import "tollgate:policy/env@0.1.0" (instance (export "now-ms" (func (result u32))))))"#,
    );
    let folder = folder(&[("odd.wasm", &odd.unwrap())]);
    let outcome = run(folder.path(), &["policy", "check", "odd.wasm"]);
    check(&outcome, 1, &["tollgate:policy/env@0.1.0", "now-ms", "tollgate policy new"]);
}

#[test]
fn inspect_says_in_plain_words_what_a_policy_can_do() {
    let folder = folder(&[("spend-alert.wasm", &guest::gallery("spend-alert")), ("p.wasm", &guest::picking(1))]);
    let inspect = |file: &str| run(folder.path(), &["policy", "inspect", file]);
    check(
        &inspect("spend-alert.wasm"),
        0,
        &[
            "version: sha256:",
            "interface: 0.1.0",
            "hooks: settle",
            "can: keeps values between calls",
            "can: writes to the log",
        ],
    );
    check(&inspect("p.wasm"), 0, &["can: decide by what it is told, and nothing else"]);
}

#[test]
fn bench_tells_fuel_time_and_memory_for_each_case() {
    let folder = folder(&[("p.wasm", &guest::picking(1)), ("t.wasm", &guest::router("unreachable"))]);
    let bench = |file: &str| run(folder.path(), &["policy", "bench", file, "--calls", "50", "-o", "json"]).json();
    let (good, traps) = (bench("p.wasm"), bench("t.wasm"));
    let number = |name: &str| good[0][name].as_f64().unwrap();
    assert_eq!((good[0]["calls"].as_u64(), good[0]["faults"].as_u64()), (Some(50), Some(0)), "{good}");
    assert!((1.0..100.0).contains(&number("fuel")) && number("p50_us") > 0.0, "{good}");
    assert!(number("p99_us") >= number("p50_us") && number("memory_bytes") >= 131_072.0, "{good}");
    assert_eq!(traps[0]["faults"], json!(50));
    assert_eq!(traps[0]["case"], "a plain call at route");
    let fits = r#"{ "name": "fits", "hook": "route", "settings": { "backend": 1 }, "expect": { "pick": 1 } }"#;
    let wrong =
        r#"{ "name": "wrong", "hook": "route", "settings": { "backend": 9 }, "expect": { "fault": "instantiate" } }"#;
    fs::write(folder.path().join("s.wasm"), guest::picking_by_settings()).unwrap();
    fs::write(folder.path().join("s.cases.json"), format!("[{fits}, {wrong}]")).unwrap();
    let settings = bench("s.wasm");
    assert_eq!((&settings[0]["case"], &settings[1]), (&json!("fits"), &json!(null)), "{settings}");
}

#[test]
fn a_new_project_is_written_once_and_only_under_a_good_name() {
    let folder = folder(&[]);
    let new = |arguments: &[&str]| run(folder.path(), &[&["policy", "new"], arguments].concat());
    check(&new(&["busy", "--lang", "rust"]), 0, &["busy/src/lib.rs\n", "busy/busy.cases.json\n", "busy/README.md has"]);
    check(&new(&["busy", "--lang", "c"]), 1, &["busy is there already"]);
    check(&new(&["Busy", "--lang", "c"]), 2, &["'Busy' is no name for a policy"]);
    check(&new(&["busy2", "--lang", "cobol"]), 2, &["cobol"]);
    check(&new(&["deny", "--lang", "js", "--hook", "admit"]), 0, &["deny/policy.js"]);
    let world = fs::read_to_string(folder.path().join("deny/wit/policy.wit")).unwrap();
    assert!(
        world.contains("export tollgate:policy/admit@0.1.0;") && !world.contains("import tollgate:policy/env@0.1.0;"),
        "{world}"
    );
    let carried = fs::read_to_string(folder.path().join("deny/wit/deps/tollgate/types.wit")).unwrap();
    assert_eq!(carried, fs::read_to_string(guest::root().join("wit/types.wit")).unwrap());
}
