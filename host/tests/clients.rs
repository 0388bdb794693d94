//! The clients that people use, in the versions that people get, against the gate as an operator starts it: plain and
//! over TLS.
//!
//! `./scripts/test clients` installs them and runs this. A plain `cargo test` leaves it out, because it can't.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "where something is wrong it shall panic"
)]

#[path = "it/support/mod.rs"]
#[expect(dead_code, unused_imports, unreachable_pub, reason = "the bench of `it`, of which little is needed")]
mod support;

mod clients {
    pub(crate) mod gate;
    pub(crate) mod program;
}

use clients::{
    gate::{Gate, Transport},
    program::{self, Client},
};

/// Every check of a client's program, in both ways to speak with the gate, one after the other.
async fn check(client: Client) {
    for transport in [Transport::Plain, Transport::Tls] {
        let mut gate = Gate::start(transport, client.first_of_a_stream()).await;
        client.run(&mut gate).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_openai_is_served_and_understands_every_refusal() {
    check(Client::python("openai")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_anthropic_is_served_and_understands_every_refusal() {
    check(Client::python("anthropic")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_ollama_is_served_and_understands_every_refusal() {
    check(Client::python("ollama")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_client_openai_is_served_and_understands_every_refusal() {
    check(Client::javascript("openai")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_client_ollama_is_served_and_understands_every_refusal() {
    check(Client::javascript("ollama")).await;
}

/// What a client does by itself when the gate refuses for a limit.
async fn check_retries(client: Client) {
    client.retries(&Gate::start_charging().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_openai_comes_again_when_it_may_and_stays_away_when_told() {
    check_retries(Client::python("openai")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_anthropic_comes_again_when_it_may_and_stays_away_when_told() {
    check_retries(Client::python("anthropic")).await;
}

const CHAT: &str = r#"{"model":"llama3","messages":[{"role":"user","content":"hello"}],"stream":false}"#;

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http_2_and_1_over_tls_and_trusts_the_certificate_by_its_authority_only() {
    let gate = Gate::start(Transport::Tls, "").await;
    let (url, key) = (gate.url("/api/chat"), gate.authorization());
    let ask = |version: &str, trust: &[&str]| {
        let wanted = ["--silent", "--show-error", "--max-time", "20", version, "--write-out"];
        let call = ["\n%{http_version} %{response_code}", "--header", &key, "--data", CHAT, &url];
        program::run("curl", &[&wanted[..], &call, trust].concat())
    };
    let authority = gate.authority();
    for (version, expected) in [("--http2", "2 200"), ("--http1.1", "1.1 200"), ("--tlsv1.3", "2 200")] {
        let (status, text) = ask(version, &["--cacert", authority.to_str().unwrap()]);
        assert_eq!(status, Some(0), "{version}: {text}");
        assert_eq!(text.lines().last(), Some(expected), "{version}: {text}");
        assert!(text.contains("simulated"), "{version}: {text}");
    }
    // What curl calls a certificate that it doesn't trust.
    assert_eq!(ask("--http2", &[]).0, Some(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_brings_two_thousand_calls_through_in_ten_streams_on_each_of_ten_connections() {
    let gate = Gate::start(Transport::Tls, "").await;
    let body = gate.folder().join("body.json");
    std::fs::write(&body, CHAT).unwrap();
    let (url, key) = (gate.url("/api/chat"), gate.authorization());
    let load = ["-n", "2000", "-c", "10", "-m", "10", "-d", body.to_str().unwrap(), "-H", &key, &url];
    let (status, text) = program::run("h2load", &load);
    assert_eq!(status, Some(0), "{text}");
    for line in [
        "Application protocol: h2",
        "requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout",
        "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx",
    ] {
        assert!(text.lines().any(|found| found == line), "nothing of `{line}` in:\n{text}");
    }
}
