//! Requests on a raw socket: what no client library would send.

use std::net::SocketAddr;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Answer, TestProxy, soon};

/// One connection to a gate.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) async fn connect(gate: &TestProxy) -> Self {
        Self::connect_to(gate.address()).await
    }

    pub(crate) async fn connect_to(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends these bytes. A gate that has closed already is no failure of the test: its answer tells.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.0.write_all(bytes.as_ref()).await);
    }

    /// The next that the gate says; what it has said by then, however little.
    pub(crate) async fn next(&mut self) -> String {
        let mut bytes = vec![0; 64 << 10];
        let length = soon("the next bytes", self.0.read(&mut bytes)).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Whether the gate has said nothing so far.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.0.peek(&mut [0]).now_or_never().is_none()
    }

    /// All that the gate says until it closes the connection.
    pub(crate) async fn text(mut self) -> String {
        let mut bytes = Vec::new();
        // A reset after the answer is as good as an end: the gate doesn't read what it has refused.
        drop(soon("the end of the connection", self.0.read_to_end(&mut bytes)).await);
        String::from_utf8(bytes).unwrap()
    }

    /// The one answer on this connection, after which the gate must close it.
    pub(crate) async fn answer(self) -> Answer {
        let text = self.text().await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            headers.append(HeaderName::try_from(name).unwrap(), value.trim().parse().unwrap());
        }
        Answer { status, headers, body: body.to_owned() }
    }
}

/// What a gate answers to one request, sent as it stands.
pub(crate) async fn exchange(gate: &TestProxy, request: impl AsRef<[u8]>) -> Answer {
    let mut raw = Raw::connect(gate).await;
    raw.send(request).await;
    raw.answer().await
}

/// A whole request with the gate's key and nothing else that a test doesn't state; the last one on its connection.
pub(crate) fn request(gate: &TestProxy, line: impl AsRef<[u8]>, headers: &str, body: &str) -> Vec<u8> {
    let fixed = format!("host: gate\r\nconnection: close\r\nauthorization: Bearer {}\r\n", gate.key());
    [line.as_ref(), b" HTTP/1.1\r\n", fixed.as_bytes(), headers.as_bytes(), b"\r\n", body.as_bytes()].concat()
}
