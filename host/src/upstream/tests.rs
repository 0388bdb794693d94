//! Calls and probes on real sockets: how connections come about, and bodies that pass through.

use std::{
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method};
use http_body::Frame;
use http_body_util::StreamBody;
use rustix::io::Errno;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    backend::Backend,
    client::{CallPath, Departure, ParameterError, SendError, Upstream},
    control::Control,
    declared::DeclaredBackend,
    resolver::Resolver,
    trust::client_tls,
};
use crate::{
    clock::Clock,
    config::{self, BackendKind, BackendUrl, Config},
    wire::{
        body::{Outgoing, Pieces},
        bounded::ReadError,
        causes::causes,
        upload::{Bounds, Upload},
    },
};

/// What must come is given up after this long.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

fn upstream_config(change: impl FnOnce(&mut config::Upstream)) -> config::Upstream {
    let mut config = Config::defaults_in(std::path::Path::new("/nowhere")).upstream;
    change(&mut config);
    config
}

fn backend(url: &str) -> Arc<Backend> {
    let url = BackendUrl::parse(url, false).unwrap();
    let (name, kind) = ("gpu-1".to_owned(), BackendKind::Ollama);
    let config = config::Backend { name, url, kind, weight: 1, anthropic: false };
    Arc::new(Backend::new(0, &DeclaredBackend::of_config(&config)))
}

/// Every name leads to this address.
fn leading_to(address: SocketAddr) -> Resolver {
    Resolver::asking(false, move |_| Box::pin(std::future::ready(Ok(vec![address]))))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn client(config: &config::Upstream, resolver: Resolver) -> Upstream {
    Upstream::new(&client_tls(config.ca.as_deref()).unwrap(), resolver, config, Clock::system())
}

async fn send(upstream: &Upstream, backend: &Arc<Backend>, body: impl Into<Outgoing>) -> Result<u16, SendError> {
    let departure = Departure::default();
    let sending = upstream.send(backend, (&Method::POST, "/api/chat"), HeaderMap::new(), body.into(), &departure);
    timeout(PATIENCE, sending).await.unwrap().map(|response| response.status().as_u16())
}

/// Reads until this text has come.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut bytes = [0; 1024];
        let length = timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
        assert!(length > 0, "{seen:?} has no {text:?}");
        seen.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    seen
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_no_connection_once_the_time_is_up() {
    let (_silent, address) = listener().await;
    let config = upstream_config(|config| config.connect_timeout = Duration::from_millis(100));
    let upstream = client(&config, Resolver::system(false));
    let error = send(&upstream, &backend(&format!("https://{address}")), Pieces::default()).await.unwrap_err();
    assert!(matches!(error, SendError::Connect(_)), "{error:?}");
    assert!(causes(&error).contains("within 100ms"), "{}", causes(&error));
    assert!(!error.is_ours());
}

#[tokio::test]
async fn a_call_whose_caller_leaves_before_there_is_a_connection_has_not_left() {
    let (silent, address) = listener().await;
    let upstream = client(&upstream_config(|_| {}), Resolver::system(false));
    let (backend, departure) = (backend(&format!("https://{address}")), Departure::default());
    let body = Pieces::whole("{}".into()).into();
    let sending = upstream.send(&backend, (&Method::POST, "/api/chat"), HeaderMap::new(), body, &departure);
    // The handshake has begun when the caller leaves.
    let begun = async {
        let (mut stream, _) = silent.accept().await.unwrap();
        stream.read_u8().await.unwrap();
    };
    tokio::select! {
        answer = sending => panic!("{:?}", answer.map(|answer| answer.status())),
        begun = timeout(PATIENCE, begun) => begun.unwrap(),
    }
    assert!(!departure.has_left());
}

#[tokio::test]
async fn a_name_that_never_resolves_is_no_connection_either() {
    let config = upstream_config(|config| config.connect_timeout = Duration::from_millis(100));
    let upstream = client(&config, Resolver::asking(false, |_| Box::pin(pending())));
    let error = send(&upstream, &backend("http://gpu-1.example"), Pieces::default()).await.unwrap_err();
    assert!(matches!(error, SendError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn what_is_no_tls_is_no_connection() {
    let (listener, address) = listener().await;
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(ANSWER.as_bytes()).await.unwrap();
        pending::<()>().await;
    });
    let upstream = client(&upstream_config(|_| {}), Resolver::system(false));
    let error = send(&upstream, &backend(&format!("https://{address}")), Pieces::default()).await.unwrap_err();
    assert!(matches!(error, SendError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn neither_calls_nor_probes_go_where_a_name_must_not_lead() {
    let metadata = SocketAddr::from((Ipv4Addr::new(169, 254, 169, 254), 0));
    let config = upstream_config(|_| {});
    let backend = backend("http://gpu-1.example:11434");
    let error = send(&client(&config, leading_to(metadata)), &backend, Pieces::default()).await.unwrap_err();
    assert!(matches!(error, SendError::Connect(_)), "{error:?}");
    assert!(causes(&error).contains("upstream.allow_link_local"), "{}", causes(&error));
    let control = Control::new(&client_tls(None).unwrap(), leading_to(metadata), PATIENCE).unwrap();
    let error = control.ask(&backend, "/api/version").await.unwrap_err().to_string();
    assert!(error.contains("upstream.allow_link_local"), "{error}");
}

#[tokio::test]
async fn a_backend_with_a_private_authority_is_trusted_if_its_file_is_given_and_not_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(&ca, authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["gpu-1.example".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let (listener, address) = listener().await;
    let tasks = TaskTracker::new();
    let connections = tasks.clone();
    tasks.spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(ANSWER.as_bytes()).await.unwrap();
                pending::<()>().await;
            });
        }
    });
    let backend = backend(&format!("https://gpu-1.example:{}", address.port()));
    let knowing = upstream_config(|config| config.ca = Some(ca.clone()));
    assert_eq!(send(&client(&knowing, leading_to(address)), &backend, Pieces::default()).await.unwrap(), 200);
    let control = Control::new(&client_tls(Some(&ca)).unwrap(), leading_to(address), PATIENCE).unwrap();
    assert_eq!(control.ask(&backend, "/api/version").await.unwrap(), "{}");

    let strange = client(&upstream_config(|_| {}), leading_to(address));
    let error = send(&strange, &backend, Pieces::default()).await.unwrap_err();
    assert!(matches!(error, SendError::Connect(_)), "{error:?}");
    let control = Control::new(&client_tls(None).unwrap(), leading_to(address), PATIENCE).unwrap();
    assert!(control.ask(&backend, "/api/version").await.is_err());
}

/// A body whose pieces come from the test.
fn upload(bounds: Bounds) -> (mpsc::Sender<Bytes>, Upload) {
    let (pieces, from_test) = mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(from_test, async |mut from_test| {
        let piece = from_test.recv().await?;
        Some((Ok::<_, io::Error>(Frame::data(piece)), from_test))
    });
    (pieces, Upload::new(StreamBody::new(Box::pin(frames)), bounds).unwrap())
}

/// A client with this deadline for the first byte, a server, and a call to it with a body from the test.
async fn uploading(
    first_byte: Duration,
    bounds: Bounds,
) -> (mpsc::Sender<Bytes>, TcpStream, tokio::task::JoinHandle<Result<u16, SendError>>) {
    let (listener, address) = listener().await;
    let config = upstream_config(|config| {
        config.first_byte_timeout = first_byte;
        config.idle_timeout = Duration::from_millis(300);
    });
    let upstream = client(&config, Resolver::system(false));
    let (pieces, upload) = upload(bounds);
    let backend = backend(&format!("http://{address}"));
    let call = TaskTracker::new().spawn(async move { send(&upstream, &backend, upload).await });
    let (stream, _) = listener.accept().await.unwrap();
    (pieces, stream, call)
}

const ROOMY: Bounds = Bounds { cap: usize::MAX, idle: PATIENCE, rate: NonZeroU64::MIN };

#[tokio::test]
async fn an_upload_takes_as_long_as_it_takes_and_the_first_byte_counts_from_its_end() {
    let first_byte = Duration::from_millis(200);
    let (pieces, mut server, call) = uploading(first_byte, ROOMY).await;
    for piece in ["one", "two", "three"] {
        pieces.send(piece.into()).await.unwrap();
        let seen = read_until(&mut server, piece).await;
        assert!(!seen.contains("content-length"), "its length isn't known: {seen}");
        tokio::time::sleep(first_byte).await;
    }
    drop(pieces);
    read_until(&mut server, "0\r\n\r\n").await;
    server.write_all(ANSWER.as_bytes()).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 200);

    let (pieces, mut server, call) = uploading(first_byte, ROOMY).await;
    drop(pieces);
    read_until(&mut server, "0\r\n\r\n").await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::FirstByte(_)), "{error:?}");
}

#[tokio::test]
async fn each_call_has_its_own_time_to_the_first_byte_though_calls_share_their_timers() {
    let (listener, address) = listener().await;
    let upstream = client(&upstream_config(|config| config.first_byte_timeout = PATIENCE), Resolver::system(false));
    let (hasty, backend) =
        (upstream.with_first_byte(Duration::from_millis(100)), backend(&format!("http://{address}")));
    // A patient call leaves its timer to a hasty one, and the other way round.
    for _ in 0..3 {
        let answers = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            stream.write_all(ANSWER.as_bytes()).await.unwrap();
            stream
        };
        let (sent, served) = tokio::join!(send(&upstream, &backend, Pieces::default()), answers);
        assert_eq!(sent.unwrap(), 200, "it was not cut when the call before it was");
        drop(served);
        let error = tokio::select! {
            sent = send(&hasty, &backend, Pieces::default()) => sent.unwrap_err(),
            () = async { let _silent = listener.accept().await.unwrap(); pending().await } => unreachable!(),
        };
        assert!(matches!(error, SendError::FirstByte(_)), "{error:?}");
    }
}

#[tokio::test]
async fn an_upload_that_breaks_its_bounds_is_the_caller_s_doing_and_ends_the_connection() {
    let bounds = Bounds { cap: 5, idle: Duration::from_millis(100), ..ROOMY };
    for (pieces_sent, is_expected) in [
        (1, (|error| matches!(error, ReadError::Idle(_))) as fn(&ReadError) -> bool),
        (2, |error| matches!(error, ReadError::TooLarge { cap: 5 })),
    ] {
        let (pieces, mut server, call) = uploading(PATIENCE, bounds).await;
        for _ in 0..pieces_sent {
            pieces.send("four".into()).await.unwrap();
        }
        match call.await.unwrap().unwrap_err() {
            SendError::Body(error) => assert!(is_expected(&error), "{error:?}"),
            error => panic!("{error:?}"),
        }
        let mut rest = Vec::new();
        drop(timeout(PATIENCE, server.read_to_end(&mut rest)).await.unwrap());
        assert!(!rest.ends_with(b"0\r\n\r\n"), "half a body must not look whole");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_is_an_answer() {
    let (pieces, mut server, call) = uploading(PATIENCE, ROOMY).await;
    pieces.send("some".into()).await.unwrap();
    read_until(&mut server, "some").await;
    server.write_all(b"HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 413);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_backend_that_stops_taking_an_upload_is_cut() {
    let (pieces, _server, call) = uploading(PATIENCE, ROOMY).await;
    let piece = Bytes::from(vec![0; 1 << 20]);
    // The sockets' buffers take some of it; then it stands until the connection is given up.
    while let Ok(Ok(())) = timeout(PATIENCE, pieces.send(piece.clone())).await {}
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::Broken(_)), "{error:?}");
}

#[tokio::test]
async fn a_parameter_of_a_path_is_one_plain_segment() {
    let (listener, address) = listener().await;
    let digest = format!("sha256:{}", "0a".repeat(32));
    let upstream = client(&upstream_config(|_| {}), Resolver::system(false));
    let backend = backend(&format!("http://{address}/llm"));
    let tasks = TaskTracker::new();
    let expected = format!("HEAD /llm/api/blobs/{digest} HTTP/1.1\r\n");
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let seen = read_until(&mut stream, "\r\n\r\n").await;
        let status = if seen.starts_with(&expected) { 200 } else { 404 };
        stream.write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).await.unwrap();
    });
    let path = CallPath::with_parameter("/api/blobs/", &digest).unwrap();
    let departure = Departure::default();
    let target = (&Method::HEAD, path);
    let sending = upstream.send(&backend, target, HeaderMap::new(), Pieces::default().into(), &departure);
    assert_eq!(timeout(PATIENCE, sending).await.unwrap().unwrap().status(), 200);
    for bad in ["", "a/b", "..", "a?b", "a%2fb", "a b", "ä"] {
        assert_eq!(CallPath::with_parameter("/api/blobs/", bad), Err(ParameterError), "{bad:?}");
    }
    assert!(departure.has_left());
}

#[test]
fn want_of_descriptors_is_this_machine_s_and_a_refusal_the_backend_s() {
    let check = |errno: Errno, is_ours: bool| {
        let error = io::Error::from_raw_os_error(errno.raw_os_error());
        let plain = SendError::Connect(Box::new(io::Error::from_raw_os_error(errno.raw_os_error())));
        let wrapped = SendError::Connect(Box::new(ConnectFailed(error)));
        assert_eq!((plain.is_ours(), wrapped.is_ours()), (is_ours, is_ours), "{errno}");
    };
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
        check(errno, true);
    }
    for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::HOSTUNREACH, Errno::TIMEDOUT] {
        check(errno, false);
    }
}

/// An error as connectors wrap it.
#[derive(Debug, thiserror::Error)]
#[error("no connection")]
struct ConnectFailed(#[source] io::Error);
