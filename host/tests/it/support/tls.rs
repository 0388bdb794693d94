//! TLS as a caller sees it: an authority of the test's own, and bare connections.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Answer, proxy::Builder, soon};

/// The name that certificates are for.
pub(crate) const NAME: &str = "gate.test";

/// Signs certificates that its clients trust.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub(crate) fn issue(&self) -> Pair {
        self.issue_until(2100)
    }

    /// One that ends when this year begins.
    pub(crate) fn issue_until(&self, year: i32) -> Pair {
        self.issue_between(1990, year)
    }

    /// One that begins and ends when these years begin.
    pub(crate) fn issue_between(&self, first: i32, last: i32) -> Pair {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(first, 1, 1), date_time_ymd(last, 1, 1));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Pair { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    }

    /// A client that trusts this authority, speaks these versions of TLS and offers these protocols.
    pub(crate) fn client_of(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub(crate) fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.client_of(rustls::ALL_VERSIONS, alpn)
    }
}

impl Pair {
    /// Writes both files, each whole by renaming, the way people should.
    pub(crate) fn put(&self, folder: &Path) {
        put(folder, &self.cert, &self.key);
    }
}

/// Writes what shall stand in the two files.
pub(crate) fn put(folder: &Path, cert: &str, key: &str) {
    for (name, text) in [("cert.pem", cert), ("key.pem", key)] {
        let part = folder.join(format!("{name}.part"));
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, folder.join(name)).unwrap();
    }
}

impl Builder {
    /// The gate speaks TLS with this pair, which can be replaced in the gate's folder.
    pub(crate) fn tls(self, pair: &Pair) -> Self {
        pair.put(self.folder());
        self.set("server.tls = { cert = \"cert.pem\", key = \"key.pem\" }")
    }
}

/// A connection to this address.
pub(crate) async fn connect(address: SocketAddr, client: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(NAME).unwrap();
    soon("the handshake", TlsConnector::from(Arc::clone(client)).connect(name, stream)).await
}

/// The certificate that the other side showed.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// A connection over HTTP/2. It ends with what is answered here and all that came from it.
pub(crate) async fn http2(address: SocketAddr, authority: &Authority) -> SendRequest<Full<Bytes>> {
    let stream = connect(address, &authority.client(&["h2"])).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's connection ends with the test's runtime")]
    drop(tokio::spawn(connection));
    sender
}

/// A call of `/api/chat` as HTTP/2 has it.
pub(crate) fn chat(key: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post(format!("https://{NAME}/api/chat")).header("authorization", format!("Bearer {key}"));
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

/// The whole answer.
pub(crate) async fn whole(response: http::Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    #[expect(clippy::disallowed_methods, reason = "capped")]
    let body = soon("the answer", Limited::new(body, 1 << 24).collect()).await.unwrap().to_bytes();
    Answer { status: head.status.as_u16(), headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}
