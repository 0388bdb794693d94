//! TLS: what is spoken, what is taken in place of what, and that it never becomes plain HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Client;
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    Answer, LlmServer, Log, Script, TestProxy, binary, soon,
    tls::{self, Authority, NAME, Pair},
    until,
};

const CHAT: &str = r#"{"model":"llama3","stream":true,"messages":[]}"#;

struct Encrypted {
    gate: TestProxy,
    server: LlmServer,
    authority: Authority,
    pair: Pair,
}

impl Encrypted {
    async fn start(line: &str) -> Self {
        let (authority, server) = (Authority::new(), LlmServer::start("gpu-1", &["llama3:latest"]).await);
        let pair = authority.issue();
        let gate = TestProxy::builder().backend(&server).tls(&pair).set(line).start().await;
        Self { gate, server, authority, pair }
    }

    fn client(&self) -> Client {
        let config = self.authority.client(&["http/1.1"]);
        let builder = Client::builder().no_proxy().resolve(NAME, self.gate.address());
        builder.tls_backend_preconfigured(rustls::ClientConfig::clone(&config)).build().unwrap()
    }

    async fn call(&self, client: &Client) -> Answer {
        let request = client.post(format!("https://{NAME}:{}/api/chat", self.gate.address().port()));
        let body = json!({ "model": "llama3", "messages": [] }).to_string();
        Answer::of(request.bearer_auth(self.gate.key()).body(body).send().await.unwrap()).await
    }

    /// Waits until a new connection is shown this certificate.
    async fn until_shown(&self, pair: &Pair) {
        let client = self.authority.client(&[]);
        until("the new certificate", async || {
            tls::shown(&tls::connect(self.gate.address(), &client).await.unwrap()) == pair.der
        })
        .await;
    }
}

#[tokio::test]
async fn both_versions_of_tls_carry_the_protocol_that_the_caller_prefers() {
    let it = Encrypted::start("").await;
    for version in [&TLS12, &TLS13] {
        for (offered, spoken) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
        {
            let client = it.authority.client_of(&[version], offered);
            let stream = tls::connect(it.gate.address(), &client).await.unwrap();
            let alpn = stream.get_ref().1.alpn_protocol();
            assert_eq!(alpn, spoken.map(str::as_bytes), "{version:?} {offered:?}");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        }
    }
    let strange = it.authority.client(&["spdy/3"]);
    assert!(tls::connect(it.gate.address(), &strange).await.is_err(), "a protocol that the gate doesn't speak");

    let answer = it.call(&it.client()).await;
    assert_eq!((answer.status, answer.backend()), (200, Some("gpu-1")));
    let mut sender = tls::http2(it.gate.address(), &it.authority).await;
    let response = soon("the answer", sender.send_request(tls::chat(it.gate.key(), CHAT))).await.unwrap();
    let answer = tls::whole(response).await;
    assert_eq!((answer.status, answer.backend()), (200, Some("gpu-1")));
    it.gate.until_metric("tollgate_connections_total{protocol=\"h2\"}", 3.0).await;
}

#[tokio::test]
async fn a_changed_pair_is_in_use_without_a_restart_and_a_connection_from_before_goes_on() {
    let mut it = Encrypted::start("").await;
    let client = it.client();
    assert_eq!(it.call(&client).await.status, 200);
    let new = it.authority.issue_until(2101);
    new.put(it.gate.folder());
    it.until_shown(&new).await;
    assert_eq!(it.call(&client).await.status, 200, "on the connection from before");
    it.pair = new;
    // 2101-01-01.
    it.gate.until_metric("tollgate_tls_certificate_end_seconds", 4_133_980_800.0).await;
}

#[tokio::test]
async fn a_pair_that_cant_be_used_is_refused_with_the_reason_and_the_one_before_it_stays() {
    let it = Encrypted::start("").await;
    let (other, ended) = (it.authority.issue(), it.authority.issue_until(2020));
    let early = it.authority.issue_between(2090, 2100);
    let folder = it.gate.folder();
    let refused = "tollgate_tls_certificates_refused_total";
    let cases = [
        ("garbage", other.key.as_str(), "holds no certificate"),
        (other.cert.as_str(), "garbage", "holds no private key"),
        (other.cert.as_str(), it.pair.key.as_str(), "does not fit"),
        (ended.cert.as_str(), ended.key.as_str(), "ended on"),
        (early.cert.as_str(), early.key.as_str(), "is valid from"),
        ("", "", "holds no certificate"),
    ];
    for (count, (cert, key, reason)) in (1..).zip(cases) {
        let log = Log::listen();
        tls::put(folder, cert, key);
        log.says(&["the one before it stays", reason, &folder.display().to_string()]).await;
        let stream = tls::connect(it.gate.address(), &it.authority.client(&[])).await.unwrap();
        assert_eq!(tls::shown(&stream), it.pair.der, "{reason}");
        // Half a pair may have been seen and refused on the way.
        until("its count", async || it.gate.metric(refused).await >= f64::from(count)).await;
    }
    let log = Log::listen();
    std::fs::remove_file(folder.join("key.pem")).unwrap();
    log.says(&["the one before it stays", "can't be read", &folder.display().to_string()]).await;
    assert_eq!(it.call(&it.client()).await.status, 200);
    other.put(folder);
    it.until_shown(&other).await;
}

#[test]
fn a_gate_whose_certificate_cant_be_used_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (pair, ended) = (authority.issue(), authority.issue_until(2020));
    let settings = ["--set", "server.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"];
    let tls = ["--set", "server.tls.cert=cert.pem", "--set", "server.tls.key=key.pem"];
    let check = |tls: &[&str], needle: &str| {
        for command in ["serve", "check"] {
            let outcome = binary::run(folder.path(), &[&settings[..], tls, &[command]].concat());
            assert_eq!(outcome.code, Some(78), "{command}: {outcome:?}");
            assert!(outcome.stderr.contains(needle), "{command}: {needle} in {outcome:?}");
        }
    };
    check(&tls, "cert.pem can't be read");
    tls::put(folder.path(), &pair.cert, &ended.key);
    check(&tls, "does not fit");
    tls::put(folder.path(), &ended.cert, &ended.key);
    check(&tls, "ended on");
    check(&tls[..2], "server.tls.key");
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls_and_never_served() {
    let it = Encrypted::start("").await;
    let mut stream = TcpStream::connect(it.gate.address()).await.unwrap();
    let head = format!("POST /api/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", it.gate.key());
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{CHAT}", CHAT.len()).as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // The gate doesn't read the rest, so the end may come as a reset.
    drop(soon("the end", stream.read_to_end(&mut bytes)).await);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("write https://"), "{text:?}");
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(text.contains(&format!("content-length: {}\r\n", body.len())), "{text:?}");
    assert_eq!(it.server.calls(), 0);
}

#[tokio::test]
async fn a_handshake_that_stops_half_way_is_cut() {
    let it = Encrypted::start("server.handshake_timeout = \"200ms\"").await;
    let mut stream = TcpStream::connect(it.gate.address()).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    assert_eq!(soon("the end", stream.read(&mut [0])).await.unwrap(), 0);
    it.gate.until_metric("tollgate_bound_reached_total{bound=\"handshake_timeout\"}", 1.0).await;
}

#[tokio::test]
async fn a_caller_who_leaves_closes_the_backends_connection_over_tls_too() {
    let mut it = Encrypted::start("").await;
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{CHAT}",
        it.gate.key(),
        CHAT.len()
    );
    // The second one waits in the gate's buffer, behind which the end can't be read.
    for text in [request.clone(), request.repeat(2)] {
        it.server.script(Script::ndjson().chunk("{}\n").stall());
        let mut stream = tls::connect(it.gate.address(), &it.authority.client(&["http/1.1"])).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        it.server.seen().await;
        drop(stream);
        let closed = timeout(Duration::from_secs(1), it.server.closed()).await;
        assert!(closed.is_ok(), "the backend's connection stands a second after its caller has left");
    }
}

#[tokio::test]
async fn a_certificate_replaced_under_load_fails_no_call() {
    let it = Encrypted::start("limits.requests_per_minute = 1000000").await;
    let (client, is_over, served) = (it.client(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (url, address) = (format!("https://{NAME}:{}/api/chat", it.gate.address().port()), it.gate.address());
    let mut callers = JoinSet::new();
    for fresh in [false, false, true, true] {
        let (shared, url, key) = (client.clone(), url.clone(), it.gate.key().to_owned());
        let (is_over, served) = (Arc::clone(&is_over), Arc::clone(&served));
        let config = it.authority.client(&["http/1.1"]);
        callers.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                let builder = Client::builder().no_proxy().resolve(NAME, address);
                let builder = builder.tls_backend_preconfigured(rustls::ClientConfig::clone(&config));
                let client = if fresh { builder.build().unwrap() } else { shared.clone() };
                let response = client.post(&url).bearer_auth(&key).body(CHAT).send().await;
                assert_eq!(Answer::of(response.expect("no call fails")).await.status, 200);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for _ in 0..10 {
        let (before, new) = (served.load(Ordering::Relaxed), it.authority.issue());
        new.put(it.gate.folder());
        it.until_shown(&new).await;
        until("calls after the change", async || served.load(Ordering::Relaxed) >= before + 8).await;
    }
    is_over.store(true, Ordering::Relaxed);
    callers.join_all().await;
}
