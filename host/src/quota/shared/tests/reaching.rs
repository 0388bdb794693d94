//! Every way to a server: Unix socket, user and password, TLS, a database of its own.

use super::server::{Server, free_port};
use super::*;

async fn one_is_admitted(gate: &Gate) {
    assert_eq!(gate.admitted(per_minute(1), 2).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_unix_socket_and_database() {
    let server = Server::start();
    let socket = server.folder.path().join("redis.sock");
    one_is_admitted(&Gate::sound(&format!("unix://{}?db=3", socket.display())).await).await;
    assert_eq!(server.keys("*"), [""; 0]);
    one_is_admitted(&Gate::sound(&format!("redis+unix://{}", socket.display())).await).await;
    assert_ne!(server.keys("*"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_user_and_password_with_no_more_rights_than_needed() {
    let server = Server::start();
    let rights = ["~tollgate:*", "+evalsha", "+eval", "+get", "+set", "+time", "+pexpire", "+zadd", "+zcard"];
    let more = ["+zcount", "+zrem", "+zremrangebyscore", "+info"];
    server.run(&[&["ACL", "SETUSER", "gate", "on", ">se@cret"], &rights[..], &more[..]].concat());
    server.run(&["ACL", "SETUSER", "default", "off"]);
    let gate = Gate::sound(&format!("redis://gate:se%40cret@127.0.0.1:{}", server.port)).await;
    one_is_admitted(&gate).await;
    gate.stop().await;
    let wrong = Gate::start(&format!("redis://gate:wr0ng@127.0.0.1:{}", server.port), |_| ());
    let cause = wrong.until_degraded().await;
    assert!(!cause.contains("wr0ng"), "{cause}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tls_with_a_certificate_that_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let options = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        certificate.to_str().unwrap(),
    ];
    let _server = Server::start_with(&options);
    let url = format!("rediss://localhost:{port}");
    let trusting = |settings: &mut SharedSettings| {
        settings.deadline = Duration::from_secs(2);
        settings.address = Address::parse(&url, Some(made.cert.pem().into_bytes())).unwrap();
    };
    one_is_admitted(&Gate::sound_with(&url, trusting).await).await;
    Gate::start(&url, |_| ()).until_degraded().await;
}
