//! The configuration from the outside: files, variables and `--set` in, a `Config` or a list of problems out.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

/// A folder of its own with `tollgate.toml` in it, and what else is set.
struct Setup {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Setup {
    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { directory: folder.path().to_owned(), ..Sources::default() };
        Self { folder, sources }
    }

    fn with_file(text: &str) -> Self {
        let setup = Self::empty();
        fs::write(setup.path("tollgate.toml"), text).unwrap();
        setup
    }

    fn variable(mut self, name: &str, text: &str) -> Self {
        self.sources.environment.push((name.to_owned(), text.to_owned()));
        self
    }

    fn set(mut self, text: &str) -> Self {
        self.sources.sets.push(text.to_owned());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> Config {
        Config::load(&self.sources).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The problems as `key (source)`.
    fn blamed(&self) -> Vec<String> {
        let problems = self.problems();
        problems.iter().map(|problem| format!("{} ({})", problem.key, problem.source)).collect()
    }

    fn problems(&self) -> Vec<Problem> {
        Config::load(&self.sources).map_or_else(|errors| errors.problems().to_owned(), |_| Vec::new())
    }

    /// The only problem, as it is printed.
    fn problem(&self) -> String {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.first().unwrap().to_string()
    }
}

/// Does `line` alone in a file make the one problem that begins with `expected`?
fn check(line: &str, expected: &str) {
    let problem = Setup::with_file(line).problem();
    assert!(problem.starts_with(expected), "{line}\n  gave     {problem}\n  expected {expected}");
}

#[test]
fn without_any_source_every_key_has_its_default() {
    let setup = Setup::empty();
    let config = setup.config();
    assert_eq!(config, Config::defaults_in(setup.folder.path()));
    assert_eq!(config.state_dir, setup.path("tollgate-state"));
    assert_eq!(config.store.path, setup.path("tollgate-state/tollgate.db"));
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8081");
    assert_eq!((config.server.max_body, config.server.max_buffered), (33_554_432, 536_870_912));
    assert_eq!((config.server.max_blob, config.upstream.management_timeout), (64 << 30, Duration::from_secs(1800)));
    assert_eq!((config.policies.cpu_budget, config.policies.settle_queue.get()), (Duration::from_millis(2), 1024));
    let Limits { requests_per_minute, tokens_per_minute, concurrent, tokens_per_day, tokens_per_month, .. } =
        config.limits;
    assert_eq!(requests_per_minute.get(), 100);
    assert_eq!((config.limits.max_counters, config.limits.max_counters_per_principal), (1_000_000, 1_000));
    assert_eq!([tokens_per_minute, concurrent, tokens_per_day, tokens_per_month], [None; 4]);
    assert!(config.server.expose_backend && !config.models.allow_cloud && !config.upstream.allow_link_local);
    assert_eq!(config.warnings().len(), 1, "no backends are worth a warning");
}

/// A file with keys of every section.
const FULL: &str = r#"
        state_dir = "/var/lib/tollgate"
        [server]
        listen = "[::1]:80"
        threads = 4
        max_connections = 7
        head_timeout = "1s"
        body_idle_timeout = "2s"
        body_timeout = "20s"
        max_body = "64KiB"
        max_buffered = 65536
        max_blob = "1TiB"
        min_blob_rate = "1B"
        expose_backend = false
        drain_timeout = "1m 5s"
        [admin]
        listen = "[::1]:0"
        hosts = ["Gate.Example.com", "10.0.0.7"]
        [store]
        url = "sqlite:///srv/keys.db"
        [policies]
        folder = "policies.d"
        cpu_budget = "500us"
        memory = "1.5MiB"
        masked_headers = ["X-Internal"]
        settle_queue = 7
        [limits]
        requests_per_minute = 1000000000
        tokens_per_minute = 1
        concurrent = 1_000_000
        tokens_per_day = 9007199254740991
        tokens_per_month = 3
        max_counters = 64
        max_counters_per_principal = 1_000_000
        [models]
        allow_cloud = true
        [upstream]
        connect_timeout = "1ms"
        first_byte_timeout = "1day"
        idle_timeout = "3s"
        management_timeout = "1h"
        probe_interval = "4s"
        probe_timeout = "5s"
        refresh_interval = "6s"
        allow_link_local = true
        [[backends]]
        name = "gpu-1"
        url = "http://169.254.0.1:11434/"
        [[backends]]
        name = "cloud"
        url = "https://llm.example/openai"
        kind = "openai"
        weight = 1000
        anthropic = true
        [log]
        level = "debug"
        format = "json"
"#;

#[test]
fn a_full_file_is_read_key_by_key() {
    let setup = Setup::with_file(FULL);
    fs::create_dir(setup.path("policies.d")).unwrap();
    let config = setup.config();
    assert_eq!([&config.state_dir, &config.store.path], [Path::new("/var/lib/tollgate"), Path::new("/srv/keys.db")]);
    assert_eq!(config.server.threads.map(usize::from), Some(4));
    let Server { max_body, max_buffered, max_blob, min_blob_rate, .. } = config.server;
    assert_eq!((max_body, max_buffered, max_blob, min_blob_rate.get()), (65_536, 65_536, 1 << 40, 1));
    assert_eq!([config.server.body_idle_timeout, config.server.body_timeout].map(|t| t.as_secs()), [2, 20]);
    assert_eq!(config.server.drain_timeout, Duration::from_secs(65));
    assert_eq!(config.policies.folder, Some(setup.path("policies.d")));
    assert_eq!((config.policies.cpu_budget, config.policies.memory), (Duration::from_micros(500), 1_572_864));
    assert_eq!(config.policies.masked_headers, ["x-internal"]);
    assert_eq!(config.policies.settle_queue.get(), 7);
    assert_eq!(config.admin.hosts, ["gate.example.com", "10.0.0.7"]);
    let Limits { requests_per_minute, tokens_per_minute, concurrent, tokens_per_day, tokens_per_month, .. } =
        config.limits;
    assert_eq!(requests_per_minute.get(), 1_000_000_000);
    assert_eq!((config.limits.max_counters, config.limits.max_counters_per_principal), (64, 1_000_000));
    let others = [tokens_per_minute, concurrent, tokens_per_day, tokens_per_month].map(|limit| limit.unwrap().get());
    assert_eq!(others, [1, 1_000_000, (1 << 53) - 1, 3]);
    assert_eq!(
        [config.upstream.first_byte_timeout, config.upstream.management_timeout].map(|t| t.as_secs()),
        [86_400, 3_600]
    );
    let shown = |b: &Backend| format!("{} {} {:?} {} {}", b.name, b.url, b.kind, b.weight, b.anthropic);
    let backends: Vec<String> = config.backends.iter().map(shown).collect();
    assert_eq!(backends[0], "gpu-1 http://169.254.0.1:11434 Ollama 1 false");
    assert_eq!(backends[1..], ["cloud https://llm.example/openai OpenAi 1000 true"]);
    assert_eq!((config.log.level.as_str(), config.log.format), ("debug", LogFormat::Json));
    assert!(config.warnings().is_empty());
}

#[test]
fn a_name_of_the_admin_listener_has_no_scheme_port_or_wildcard() {
    for name in ["http://gate", "gate:8081", "*.example.com", "gate..com", "-gate", "gate/", "[::1]", "a b"] {
        let setup = Setup::with_file(&format!("[admin]\nhosts = [\"{name}\"]\n"));
        assert_eq!(setup.blamed(), ["admin.hosts[0] (tollgate.toml)"], "{name}");
    }
}

#[test]
fn ten_mistakes_in_one_file_are_reported_as_ten_problems() {
    let setup = Setup::with_file(
        r#"
        stat_dir = "x"                          # 1 an unknown key
        limits = 5                              # 2 a section that isn't one
        [server]
        listen = "localhost"                    # 3 a bad value
        max_body = true                         # 4 a wrong type
        lisen = "127.0.0.1:1"                   # 5 an unknown key in a section
        [admin]
        listen = "0.0.0.0:8081"                 # 6 not loopback
        [store]
        url = "postgres://u:hunter2@db/keys"    # 7 not supported
        [[backends]]
        name = "a"
        url = "http://127.0.0.1:1"
        [[backends]]
        name = "a"                              # 8 a name twice; 9 no URL
        [[backends]]
        name = "b"
        url = "http://127.0.0.1:1/"             # 10 a URL twice
        "#,
    );
    let mut blamed = setup.blamed();
    blamed.sort();
    let file = |key: &str| format!("{key} (tollgate.toml)");
    let expected = [
        "admin.listen",
        "backends[1].name",
        "backends[1].url",
        "backends[2].url",
        "limits",
        "server.lisen",
        "server.listen",
        "server.max_body",
        "stat_dir",
        "store.url",
    ];
    assert_eq!(blamed, expected.map(file));
    let printed = Config::load(&setup.sources).unwrap_err().to_string();
    assert_eq!(printed.lines().count(), 11);
    assert!(printed.ends_with("\n10 problems in the configuration"));
    assert!(!printed.contains("hunter2"), "no text of the file is repeated");
}

#[test]
fn a_syntax_error_is_one_problem_with_its_place_and_without_the_line() {
    let problem = Setup::with_file("[server]\nlisten = \"127.0.0.1:1\"\nmax_body = hunter2 ?").problem();
    assert!(problem.starts_with("tollgate.toml: not TOML: line 3, column "), "{problem}");
    assert!(!problem.contains("hunter2"), "{problem}");
    let twice = Setup::with_file("[log]\nlevel = \"info\"\nlevel = \"warn\"").problem();
    assert!(twice.starts_with("tollgate.toml: not TOML: line 3, column 1: duplicate key"), "{twice}");
}

#[test]
fn an_unknown_key_is_shown_with_the_nearest_one() {
    check("[server]\nmax-body = 1", "server.max-body (tollgate.toml): unknown key; did you mean `max_body`?");
    check("[sevrer]\nlisten = 1", "sevrer (tollgate.toml): unknown key; did you mean `server`?");
    check("[models]\nzzz = 1", "models.zzz (tollgate.toml): unknown key; known here: allow_cloud");
    check(
        "[[backends]]\nname = \"a\"\nurl = \"http://h\"\nwieght = 1",
        "backends[0].wieght (tollgate.toml): unknown key; did you mean `weight`?",
    );
}

#[test]
fn a_value_of_the_wrong_type_says_what_was_expected() {
    check("server = []", "server (tollgate.toml): expected a table, found a list");
    check("state_dir = 5", "state_dir (tollgate.toml): expected text, found a number; put it in double quotes");
    check(
        "[models]\nallow_cloud = \"true\"",
        "models.allow_cloud (tollgate.toml): expected true or false, found a text",
    );
    check(
        "[server]\nthreads = \"4\"",
        "server.threads (tollgate.toml): expected a whole number, found a text; write the number without",
    );
    check(
        "[server]\nhead_timeout = 10",
        "server.head_timeout (tollgate.toml): expected a duration, found a number; write it in",
    );
    check("[server]\nmax_body = 1.5", "server.max_body (tollgate.toml): expected a size, found a fraction");
    check("backends = [1]", "backends[0] (tollgate.toml): expected a table, found a number");
    check(
        "[policies]\nmasked_headers = \"x\"",
        "policies.masked_headers (tollgate.toml): expected a list, found a text",
    );
}

#[test]
fn every_number_has_bounds_and_a_hint() {
    let limit = "limits.requests_per_minute (tollgate.toml): ";
    let hint = "write a whole number from 1 to 1000000000";
    for (written, message) in [
        ("0", "out of range"),
        ("-1", "out of range"),
        ("1_000_000_001", "out of range"),
        ("1.5", "a fraction can't be used here"),
    ] {
        check(&format!("[limits]\nrequests_per_minute = {written}"), &format!("{limit}{message}; {hint}"));
    }
    for key in ["tokens_per_minute", "tokens_per_day", "tokens_per_month"] {
        for (written, message) in [
            ("0", "out of range"),
            ("-1", "out of range"),
            ("9007199254740992", "out of range"),
            ("1.5", "a fraction can't be used here"),
        ] {
            let problem =
                format!("limits.{key} (tollgate.toml): {message}; write a whole number from 1 to 9007199254740991");
            check(&format!("[limits]\n{key} = {written}"), &problem);
        }
    }
    for (key, range) in [("max_counters", "64 to 100000000"), ("max_counters_per_principal", "32 to 1000000")] {
        let problem = format!("limits.{key} (tollgate.toml): out of range; write a whole number from {range}");
        for written in ["0", "31", "100_000_001"] {
            check(&format!("[limits]\n{key} = {written}"), &problem);
        }
    }
    check("[limits]\nconcurrent = 1_000_001", "limits.concurrent (tollgate.toml): out of range; write a whole number");
    check(
        "[limits]\ntokens-per-day = 1",
        "limits.tokens-per-day (tollgate.toml): unknown key; did you mean `tokens_per_day`?",
    );
    check("[server]\nthreads = 0", "server.threads (tollgate.toml): out of range");
    check("[server]\nmax_connections = -9223372036854775808", "server.max_connections (tollgate.toml): out of range");
    check(
        "[server]\nhead_timeout = \"0s\"",
        "server.head_timeout (tollgate.toml): out of range; choose from 1ms to 1day",
    );
    check(
        "[server]\nhead_timeout = \"25h\"",
        "server.head_timeout (tollgate.toml): out of range; choose from 1ms to 1day",
    );
    check("[server]\nhead_timeout = \"30\"", "server.head_timeout (tollgate.toml): not a duration");
    check("[server]\nhead_timeout = \"-1s\"", "server.head_timeout (tollgate.toml): not a duration");
    check(
        "[policies]\ncpu_budget = \"99us\"",
        "policies.cpu_budget (tollgate.toml): out of range; choose from 100us to 100ms",
    );
    check("[policies]\nmemory = \"2GiB\"", "policies.memory (tollgate.toml): out of range; choose from 1MiB to 1GiB");
    check("[server]\nmax_body = \"99999999999999999999EiB\"", "server.max_body (tollgate.toml): out of range");
    check("[server]\nmax_body = -1", "server.max_body (tollgate.toml): not a size");
    check("[server]\nmax_body = \"1 furlong\"", "server.max_body (tollgate.toml): not a size");
}

#[test]
fn one_of_a_few_names_has_to_be_one_of_them() {
    check(
        "[log]\nlevel = \"INFO\"",
        "log.level (tollgate.toml): must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"; did you mean \"info\"?",
    );
    check("[log]\nformat = \"xml\"", "log.format (tollgate.toml): must be one of \"auto\", \"text\", \"json\"");
}

#[test]
fn an_ollama_backend_is_asked_what_it_speaks() {
    check(
        "[[backends]]\nname = \"a\"\nurl = \"http://a\"\nanthropic = true",
        "backends[0].anthropic (tollgate.toml): is for backends of kind \"openai\"; leave it out",
    );
    check("[server]\nmax_blob = \"2TiB\"", "server.max_blob (tollgate.toml): out of range");
}

#[test]
fn the_largest_body_must_fit_into_the_buffers() {
    check("[server]\nmax_body = \"600MiB\"", "server.max_body (tollgate.toml): max_buffered is less than max_body");
    check(
        "[server]\nmax_buffered = \"1MiB\"",
        "server.max_buffered (tollgate.toml): max_buffered is less than max_body",
    );
    check("[server]\nmax_body = \"600MiB\"\nmax_buffered = \"1\"", "server.max_buffered (tollgate.toml): out of range");
}

#[test]
fn the_two_listeners_must_not_collide() {
    let same = "server.listen and admin.listen are the same address";
    check("[server]\nlisten = \"127.0.0.1:8081\"", &format!("server.listen (tollgate.toml): {same}"));
    check("[server]\nlisten = \"0.0.0.0:8081\"", &format!("server.listen (tollgate.toml): {same}"));
    check("[server]\nlisten = \"[::]:8081\"", &format!("server.listen (tollgate.toml): {same}"));
    check("[admin]\nlisten = \"127.0.0.1:8080\"", &format!("admin.listen (tollgate.toml): {same}"));
    check(
        "[server]\nlisten = \"nonsense\"\n[admin]\nlisten = \"127.0.0.1:8080\"",
        "server.listen (tollgate.toml): not an address",
    );
    for text in [
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"",
        "[server]\nlisten = \"0.0.0.0:8080\"\n[admin]\nlisten = \"[::1]:8080\"",
        "[server]\nlisten = \"127.0.0.2:8081\"",
    ] {
        Setup::with_file(text).config();
    }
}

#[test]
fn the_store_is_a_sqlite_file() {
    for (url, path) in [
        ("sqlite://a/b.db", "a/b.db"),
        ("sqlite:b.db", "b.db"),
        ("sqlite:///abs.db", "/abs.db"),
        ("sqlite:/abs.db", "/abs.db"),
    ] {
        let setup = Setup::with_file(&format!("[store]\nurl = \"{url}\""));
        assert_eq!(setup.config().store.path, setup.path(path), "{url}");
    }
    for url in ["sqlite://", "sqlite::memory:", "sqlite://dir/", "sqlite://a?mode=ro", "mysql://h", "a.db", ""] {
        check(&format!("[store]\nurl = \"{url}\""), "store.url (tollgate.toml): ");
    }
    check("[store]\nurl = \"postgres://h/db\"", "store.url (tollgate.toml): only sqlite is supported by this version");
}

#[test]
fn the_policy_folder_must_be_there() {
    let setup = Setup::with_file("[policies]\nfolder = \"policies.d\"");
    let missing = format!("policies.folder (tollgate.toml): {} is not a folder", setup.path("policies.d").display());
    assert!(setup.problem().starts_with(&missing));
    fs::write(setup.path("policies.d"), "").unwrap();
    assert!(setup.problem().starts_with(&missing));
}

#[test]
fn a_backend_has_a_plain_name_and_a_safe_address() {
    for name in ["", "-a", "A", "a_b", "ä", "a b", &"a".repeat(33)] {
        check(&format!("[[backends]]\nname = \"{name}\"\nurl = \"http://h\""), "backends[0].name (tollgate.toml): ");
    }
    Setup::with_file(&format!("[[backends]]\nname = \"{}\"\nurl = \"http://h\"", "0".repeat(32))).config();
    let backend = |url: &str| format!("[[backends]]\nname = \"a\"\nurl = \"{url}\"");
    check(
        &backend("http://u:hunter2@h"),
        "backends[0].url (tollgate.toml): may not hold a user name or a password; leave that part out",
    );
    check(
        &backend("http://169.254.169.254"),
        "backends[0].url (tollgate.toml): link-local and instance-metadata addresses are refused; set upstream.allow_link_local",
    );
    check("[[backends]]\nurl = \"http://h\"", "backends[0].name (tollgate.toml): missing; add name = ");
    check(
        "[[backends]]\nname = \"a\"\nurl = \"http://h\"\nweight = 1001",
        "backends[0].weight (tollgate.toml): out of range",
    );
    check(
        "[[backends]]\nname = \"a\"\nurl = \"http://h\"\nkind = \"openia\"",
        "backends[0].kind (tollgate.toml): must be one of \"ollama\", \"openai\"; did you mean \"openai\"?",
    );
}

#[test]
fn lists_have_bounds() {
    let names = vec!["\"x\""; 65].join(", ");
    check(
        &format!("[policies]\nmasked_headers = [{names}]"),
        "policies.masked_headers (tollgate.toml): has more than 64 entries",
    );
    let deep = Setup::empty().variable("TOLLGATE__LOG", &"[".repeat(100_000));
    assert_eq!(deep.problem(), "log (environment): nested more than 16 deep");
}
