//! The real binary before three backends: one that answers, one whose streams go wrong, and one that is gone.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate::{app::SimulatedOllama, identity::FreshKey};

use crate::support::{
    LlmServer, Script,
    binary::{Running, run},
    guest,
};

/// Bodies may be so large, in bytes.
const MAX_BODY: usize = 64 << 10;

/// New enough for every operation.
const VERSION: &str = "0.99.0";

/// How callers speak with the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// A gate that serves, and what stands behind it.
pub(crate) struct Gate {
    folder: TempDir,
    transport: Transport,
    address: String,
    admin: String,
    keys: Value,
    /// The backend that breaks off its first stream after its first piece, and then never ends its second.
    pub(crate) broken: LlmServer,
    _running: Running,
}

impl Gate {
    /// `first` is the first piece of a stream, in the dialect that will be asked for.
    pub(crate) async fn start(transport: Transport, first: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), transport, first).await
    }

    /// A plain one that charges a call as a header of it says.
    pub(crate) async fn start_charging() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("ask-admit.wasm"), guest::gallery("ask-admit")).unwrap();
        Self::start_in(folder, Transport::Plain, "").await
    }

    async fn start_in(folder: TempDir, transport: Transport, first: &str) -> Self {
        let simulated =
            SimulatedOllama::start("sim-1", &["llama3:latest"], &TaskTracker::new(), &CancellationToken::new())
                .await
                .unwrap();
        let broken = LlmServer::start("broken", &["broken:latest"]).await;
        broken.set_version(VERSION);
        let head = if first.starts_with('{') { Script::ndjson } else { Script::sse };
        broken.script(head().chunk(first).close());
        broken.script(head().chunk(first).stall());
        let gone = LlmServer::start("gone", &["gone:latest"]).await;
        gone.set_version(VERSION);

        let backends =
            [("sim-1", format!("http://{}", simulated.address())), ("broken", broken.url()), ("gone", gone.url())];
        configure(folder.path(), transport, &backends);
        let keys = keys(folder.path());
        let mut running = Running::start(folder.path(), &["serve"]);
        let (address, admin) = running.on_stderr(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
            let place = |name: &str| line[name].as_str().unwrap().to_owned();
            (line["message"] == "serving").then(|| (place("data_plane"), place("admin")))
        });
        gone.kill().await;
        running.on_stderr(|line| (line.contains("the backend is down") && line.contains("gone")).then_some(()));
        Self { folder, transport, address, admin, keys, broken, _running: running }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.transport == Transport::Tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// A header line with the key that may do everything.
    pub(crate) fn authorization(&self) -> String {
        format!("authorization: Bearer {}", self.keys["good"].as_str().unwrap())
    }

    /// What a client's program is told.
    pub(crate) fn described(&self) -> String {
        let admin = format!("http://{}", self.admin);
        json!({ "url": self.url(""), "admin": admin, "keys": self.keys, "max_body": MAX_BODY }).to_string()
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// The certificate of the authority that signed the gate's.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder().join("authority.pem")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn configure(folder: &Path, transport: Transport, backends: &[(&str, String)]) {
    let mut toml = format!(
        "state_dir = \"state\"\nserver.listen = \"127.0.0.1:0\"\nserver.max_body = {MAX_BODY}\n\
         admin.listen = \"127.0.0.1:0\"\nupstream.probe_interval = \"100ms\"\nlog.format = \"json\"\n"
    );
    if transport == Transport::Tls {
        toml += "server.tls = { cert = \"cert.pem\", key = \"key.pem\" }\n";
        certify(folder);
    }
    if folder.join("policies").exists() {
        toml += "policies.folder = \"policies\"\n";
    }
    for (name, url) in backends {
        write!(toml, "\n[[backends]]\nname = \"{name}\"\nurl = \"{url}\"\n").unwrap();
    }
    fs::write(folder.join("tollgate.toml"), toml).unwrap();
}

/// A pair for loopback, signed by an authority of its own. Clients differ in how much they want to see of one.
fn certify(folder: &Path) {
    let mut authority = CertificateParams::default();
    // By its name it is told from what it signs.
    authority.distinguished_name.push(DnType::CommonName, "an authority for tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate().unwrap();
    fs::write(folder.join("authority.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();

    let mut gate = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    gate.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let cert = gate.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("key.pem")).unwrap();
    std::io::Write::write_all(&mut file, key.serialize_pem().as_bytes()).unwrap();
}

/// A key for each thing that can come of a key.
fn keys(folder: &Path) -> Value {
    let create = |name: &str, more: &[&str]| {
        let created = run(folder, &[&["keys", "create", "--name", name], more].concat());
        assert_eq!(created.code, Some(0), "{created:?}");
        created.stdout.trim().to_owned()
    };
    let good = create("good", &["--rpm", "1000000"]);
    let (manager, limited) = (create("manager", &["--manage"]), create("limited", &["--rpm", "1"]));
    // More than a hundred tokens are reserved for a call, and few of them used.
    let spent = create("spent", &["--budget", "day=130"]);
    let disabled = create("disabled", &[]);
    assert_eq!(run(folder, &["keys", "disable", "disabled"]).code, Some(0));
    // Well formed, and nobody's.
    let wrong = FreshKey::generate().unwrap();
    json!({
        "good": good, "manager": manager, "limited": limited, "spent": spent, "disabled": disabled,
        "wrong": wrong.text(),
    })
}
