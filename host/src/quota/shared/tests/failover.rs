//! A primary that dies, and its replica that Sentinel puts in its place; Sentinels that want to know who asks.

use super::server::{Server, free_port};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_follows_sentinel_to_the_new_primary_with_what_was_counted() {
    let mut primary = Server::start();
    let mut replica = Server::start_with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    replica.until_it_says("Finished with success");
    let mut sentinel = Server::sentinel_of(&primary);
    sentinel.until_it_says("+slave");
    // The first Sentinel is a dead one.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port);
    let gate = Gate::sound(&url).await;
    assert_eq!(gate.admitted(per_month(5), 3).await, 3);
    gate.until_totals(|totals| totals.waiting == 0).await;
    primary.run(&["WAIT", "1", "5000"]);
    primary.kill();
    gate.until_degraded().await;
    sentinel.until_it_says("+switch-master");
    gate.until(|condition| *condition == Condition::Sound).await;
    assert_eq!(gate.admitted(per_month(5), 9).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_behind_tls_and_a_password_are_asked_by_those_who_have_both() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key, tls_port) = (certificate.to_str().unwrap(), key.to_str().unwrap(), free_port());
    let files = [("tls-cert-file", certificate), ("tls-key-file", key), ("tls-ca-cert-file", certificate)];
    let port = tls_port.to_string();
    let mut options = vec!["--tls-port", &port, "--tls-auth-clients", "no", "--requirepass", "hunter2"];
    let names = files.map(|(name, _)| format!("--{name}"));
    options.extend(names.iter().zip(&files).flat_map(|(name, (_, file))| [name.as_str(), *file]));
    let _primary = Server::start_with(&options);
    let lines: String = files.iter().map(|(name, file)| format!("{name} {file}\n")).collect();
    let lines =
        format!("port 0\ntls-port PORT\ntls-auth-clients no\ntls-replication yes\nrequirepass s3ntinel\n{lines}");
    let sentinel = Server::sentinel_with(tls_port, &lines);
    let url = format!("rediss+sentinel://:hunter2@127.0.0.1:{}/main", sentinel.port);
    let authority = || Some(made.cert.pem().into_bytes());
    let login = |password: &str| SentinelLogin { user: None, password: password.to_owned() };
    let trusting = Address::parse(&url, authority()).unwrap();
    let gate = Gate::sound_with("redis://h", |settings| {
        settings.deadline = Duration::from_secs(2);
        settings.address = trusting.clone().signing_in(login("s3ntinel")).unwrap();
    });
    assert_eq!(gate.await.admitted(per_minute(1), 2).await, 1);
    let strangers = [
        trusting.clone(),
        trusting.signing_in(login("wr0ng")).unwrap(),
        Address::parse(&url, None).unwrap().signing_in(login("s3ntinel")).unwrap(),
    ];
    for address in strangers {
        let cause = Gate::start("redis://h", |settings| settings.address = address).until_degraded().await;
        assert!(!cause.contains("wr0ng") && !cause.contains("hunter2") && !cause.contains("s3ntinel"), "{cause}");
    }
}
