//! Hostile requests by the hundred: targets, methods, header lines, framing and bodies, over HTTP/1.1 and over HTTP/2. The
//! tables beside this file say of each form what becomes of it; nothing else may.
//!
//! After all of them, whatever reached the backend must stand in the operation table, and hold no credential.

mod http1;
mod http2;
mod request;
mod table;

use std::net::SocketAddr;

use futures_util::{StreamExt, stream};
use http::Method;
use tollgate::llm::operations::{Pattern, ROWS, Source};

use self::{
    request::{Keys, Request},
    table::{Form, Outcome, Table},
};
use crate::support::{
    LlmServer, Log, Script, TestProxy,
    llm_server::Seen,
    proxy::Builder,
    tls::{Authority, NAME},
};

/// An inference path of each dialect.
const PATHS: [&str; 3] = ["/api/chat", "/v1/chat/completions", "/v1/messages"];

/// Connections at a time.
const AT_A_TIME: usize = 24;

/// Headers that carry a credential, whatever is in them.
const CREDENTIALS: [&str; 6] =
    ["authorization", "proxy-authorization", "x-api-key", "api-key", "cookie", "x-goog-api-key"];

/// A gate before one server that speaks all three dialects, and what went wrong so far.
struct Bench {
    gate: TestProxy,
    server: LlmServer,
    keys: Keys,
    log: Log,
    forms: usize,
    sent: usize,
    reached: Vec<Seen>,
    wrong: Vec<String>,
}

impl Bench {
    async fn start(more: impl FnOnce(Builder) -> Builder) -> Self {
        let log = Log::listen();
        let server = LlmServer::start("gpu-1", &["llama3:latest"]).await;
        server.set_version("0.14.0");
        let mut builder = more(TestProxy::builder().backend(&server));
        let manager = builder.add_key("manager", |key| key.may_manage = true);
        let bounds = "limits.requests_per_minute = 1000000\nserver.keep_alive_timeout = \"500ms\"\n\
                      server.head_timeout = \"2s\"\nserver.body_idle_timeout = \"2s\"\nserver.max_body = \"100KiB\"";
        let gate = builder.set(bounds).start().await;
        let keys = Keys { caller: gate.key().to_owned(), manager };
        Self { gate, server, keys, log, forms: 0, sent: 0, reached: Vec::new(), wrong: Vec::new() }
    }

    /// The backend's answer to HEAD must have no body.
    fn prepare(&self, method: &[u8]) {
        if method == b"HEAD" {
            self.server.script(Script::raw("HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n"));
        }
    }

    /// Notes what became of a form that was sent.
    async fn judge(&mut self, form: &Form, expected: Outcome, path: &str, got: Outcome) {
        self.sent += 1;
        let mut reached = Vec::new();
        while self.server.calls() > self.reached.len() + reached.len() {
            reached.push(self.server.seen().await);
        }
        let paths: Vec<&str> = reached.iter().map(|seen| seen.path.as_str()).collect();
        let is_right = match expected {
            Outcome::Passed(other) => got == Outcome::Answered(200) && paths == [other.unwrap_or(path)],
            other => got == other && paths.is_empty(),
        };
        if !is_right {
            self.wrong.push(format!("{form} at {path}: {got:?}, and the backend saw {paths:?}"));
        }
        self.reached.extend(reached);
    }

    /// What holds after all of them.
    #[expect(clippy::print_stdout, reason = "the count is for who runs this")]
    async fn close(self, least: usize) {
        assert!(self.wrong.is_empty(), "{} of {}:\n{}", self.wrong.len(), self.sent, self.wrong.join("\n"));
        println!("{} hostile forms, {} requests; {} passed", self.forms, self.sent, self.reached.len());
        assert!(self.forms >= least, "{} forms", self.forms);
        for seen in &self.reached {
            assert!(stands_in_the_table(seen), "{seen:?}");
            for name in CREDENTIALS {
                assert!(!seen.headers.contains_key(name), "{name} in {seen:?}");
            }
            let all = format!("{seen:?}").to_lowercase();
            for key in [&self.keys.caller, &self.keys.manager] {
                assert!(!all.contains(&secret(key)), "a key in {seen:?}");
            }
        }
        for key in [&self.keys.caller, &self.keys.manager] {
            for text in [&key[14..], &secret(key)] {
                let lines = self.log.lines_with(&[text]);
                assert!(lines.is_empty(), "a key in the log: {lines:?}");
            }
        }
        // The gate is none the worse: no call hangs.
        self.gate.until_idle().await;
    }
}

/// The part of a key that proves it, as a name of a model would have it.
fn secret(key: &str) -> String {
    key[14..].to_lowercase()
}

/// Whether this is what a row of the operation table sends, to the letter.
fn stands_in_the_table(seen: &Seen) -> bool {
    ROWS.iter().any(|row| {
        let Source::Backend(upstream) = row.answer else { return false };
        let rest = seen.path.strip_prefix(upstream.path);
        let fits = match row.pattern {
            Pattern::Digest(_) => rest.is_some_and(is_digest),
            Pattern::Exact(_) | Pattern::Segment(_) | Pattern::Rest(_) => rest == Some(""),
        };
        fits && *upstream.method == Method::from_bytes(seen.method.as_bytes()).unwrap()
    })
}

fn is_digest(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The paths at which a form is tried: one of each dialect, where it doesn't name its own.
fn paths(table: &Table, form: &Form) -> &'static [&'static str] {
    let is_for_any = !table.names_paths || form.text.contains("{path}");
    if is_for_any { &PATHS } else { &PATHS[..1] }
}

/// Tries all forms of these tables that have an outcome. Those that must not pass are sent many at a time, for some of
/// them wait for a deadline of the gate; the others one by one, so that what the backend saw is theirs.
async fn try_all<F: Future<Output = Outcome>>(
    bench: &mut Bench,
    tables: &[Table],
    expected: impl Fn(&Form) -> Option<Outcome>,
    send: impl Fn(Request, SocketAddr) -> F,
) {
    let address = bench.gate.address();
    for table in tables {
        let forms = table.forms();
        let mut refused = Vec::new();
        for (form, expected) in forms.iter().filter_map(|form| Some((form, expected(form)?))) {
            bench.forms += 1;
            for &path in paths(table, form) {
                let request = Request::of(table, form, path, &bench.keys);
                if matches!(expected, Outcome::Passed(_)) {
                    bench.prepare(&request.method);
                    let got = send(request, address).await;
                    bench.judge(form, expected, path, got).await;
                } else {
                    let sent = send(request, address);
                    refused.push(async move { (form, expected, path, sent.await) });
                }
            }
        }
        let mut refused = stream::iter(refused).buffer_unordered(AT_A_TIME);
        while let Some((form, expected, path, got)) = refused.next().await {
            bench.judge(form, expected, path, got).await;
        }
    }
}

#[tokio::test]
async fn no_hostile_form_over_http_1_reaches_more_than_the_table_names() {
    let mut bench = Bench::start(|builder| builder).await;
    let send = async |request: Request, address| http1::send(address, &request.http1()).await;
    try_all(&mut bench, table::HTTP1, |form| Some(form.http1), send).await;
    bench.close(600).await;
}

#[tokio::test]
async fn no_hostile_form_over_http_2_reaches_more_than_the_table_names() {
    let authority = Authority::new();
    let mut bench = Bench::start(|builder| builder.tls(&authority.issue())).await;
    let client = authority.client(&["h2"]);
    let send = async |request: Request, address| http2::send(address, &client, &request.http2(NAME)).await;
    try_all(&mut bench, table::HTTP2, |form| form.http2, send).await;
    bench.close(500).await;
}
