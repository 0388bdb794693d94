//! Where values come from: files, variables and `--set`, in which order, and what is wrong with the sources themselves.

use std::fs;
use std::time::Duration;

use proptest::prelude::{any, proptest};

use super::Setup;
use crate::config::{Config, Sources};

#[test]
fn later_sources_win_and_the_winner_is_blamed() {
    let setup = Setup::with_file("[limits]\nrequests_per_minute = 1\n[log]\nlevel = \"warn\"")
        .variable("TOLLGATE__LIMITS__REQUESTS_PER_MINUTE", "2")
        .variable("TOLLGATE__SERVER__DRAIN_TIMEOUT", "2s")
        .variable("TOLLGATE_LIMITS__REQUESTS_PER_MINUTE", "not ours")
        .variable("PATH", "/bin")
        .set("server.drain_timeout=3s")
        .set("server.drain_timeout = 4s");
    let config = setup.config();
    assert_eq!(config.limits.requests_per_minute.get(), 2);
    assert_eq!(config.server.drain_timeout, Duration::from_secs(4));
    assert_eq!(config.log.level, "warn");
    let blamed = setup.set("limits.requests_per_minute=0").variable("TOLLGATE__LOG__LEVEL", "loud").blamed();
    assert_eq!(blamed, ["limits.requests_per_minute (--set)", "log.level (environment)"]);
}

#[test]
fn backends_can_come_from_a_variable_as_a_whole() {
    let setup = Setup::with_file("[[backends]]\nname = \"file\"\nurl = \"http://f\"")
        .variable("TOLLGATE__BACKENDS", r#"[{name="a",url="http://127.0.0.1:1"},{name="b",url="http://[::1]:1"}]"#);
    let names: Vec<String> = setup.config().backends.into_iter().map(|backend| backend.name).collect();
    assert_eq!(names, ["a", "b"]);
    let broken = Setup::empty().variable("TOLLGATE__BACKENDS__0__URL", "http://h");
    assert_eq!(
        broken.problem(),
        "backends (environment): expected a list, found a table; write a [[backends]] table for each"
    );
}

#[test]
fn a_relative_path_resolves_where_it_was_written() {
    let setup = Setup::empty().variable("TOLLGATE__STORE__URL", "sqlite://keys.db");
    fs::create_dir(setup.path("etc")).unwrap();
    fs::write(setup.path("etc/gate.toml"), "state_dir = \"./state\"").unwrap();
    let named = Sources { file: Some("etc/gate.toml".into()), ..setup.sources.clone() };
    let config = Config::load(&named).unwrap();
    assert_eq!(config.state_dir, setup.path("etc/state"));
    assert_eq!(config.store.path, setup.path("keys.db"));
    let set = Sources { sets: vec!["state_dir=there".to_owned()], ..named };
    assert_eq!(Config::load(&set).unwrap().state_dir, setup.path("there"));
}

#[test]
fn a_named_file_must_be_there_and_be_readable() {
    let setup = Setup::with_file("");
    for name in ["missing.toml", "."] {
        let named = Sources { file: Some(name.into()), ..setup.sources.clone() };
        let errors = Config::load(&named).unwrap_err().to_string();
        assert!(errors.starts_with(&format!("{name}: can't be read: ")), "{errors}");
    }
    fs::write(setup.path("tollgate.toml"), "#".repeat(1024 * 1024 + 1)).unwrap();
    assert!(setup.problem().contains("longer than 1 MiB"));
}

#[test]
fn a_set_or_a_variable_without_a_key_is_a_problem_that_repeats_nothing() {
    for text in ["hunter2", "=hunter2", ".a=1", "a.=1", "a..b=1"] {
        let problem = Setup::empty().set(text).problem();
        assert!(problem.contains("not a key with a value"), "{problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
    assert_eq!(Setup::empty().variable("TOLLGATE__", "1").blamed(), [" (environment)"]);
}

#[test]
fn two_spellings_of_one_variable_are_a_problem() {
    let setup = Setup::empty().variable("TOLLGATE__LOG__LEVEL", "info").variable("TOLLGATE__log__level", "warn");
    assert_eq!(setup.problem(), "log.level (environment): two environment variables set this key");
}

#[test]
fn sources_never_print_their_values() {
    let setup = Setup::empty().variable("OTHER_PASSWORD", "hunter2").set("a=hunter2");
    assert!(!format!("{:?}", setup.sources).contains("hunter2"));
}

proptest! {
    #[test]
    fn no_text_of_a_variable_or_a_file_brings_the_reader_down(text in any::<String>(), file in "[\\[\\]a-z.=\"{}# \n0-9-]{0,80}") {
        let setup = Setup::with_file(&file)
            .variable("TOLLGATE__BACKENDS", &text)
            .variable("TOLLGATE__SERVER", &text)
            .variable("TOLLGATE__SERVER__LISTEN", &text)
            .set(&text);
        assert!(!setup.problems().is_empty(), "no text is a list, a table and an address");
    }
}
