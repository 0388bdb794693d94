//! The calls that are made, and what TLS trusts.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::failure::{Failure, Trying};

/// One kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// Says what the backend answers.
    pub(crate) model: &'a str,
    /// Size of the body.
    pub(crate) body_bytes: usize,
    /// Presented as `Bearer`.
    pub(crate) key: &'a str,
}

impl Call<'_> {
    /// The request as it goes over the wire. A body smaller than its frame is as large as that.
    pub(crate) fn request(&self) -> Bytes {
        let is_stream = !self.model.starts_with("bytes-");
        let head =
            format!(r#"{{"model":"{}","stream":{is_stream},"messages":[{{"role":"user","content":""#, self.model);
        let tail = r#""}]}"#;
        let filling = "word ".chars().cycle().take(self.body_bytes.saturating_sub(head.len() + tail.len()));
        let body: String = head.chars().chain(filling).chain(tail.chars()).collect();
        let request = format!(
            "POST /api/chat HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\naccept: */*\r\n\
             user-agent: tollgate-benchmark\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.key,
            body.len(),
        );
        Bytes::from(request)
    }
}

/// TLS that trusts this certificate, and speaks HTTP/1.1.
pub(crate) fn client_tls(certificate: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    let place = certificate.display();
    let certificate = CertificateDer::from_pem_file(certificate).trying(format_args!("{place} can't be read"))?;
    roots.add(certificate).trying(format_args!("{place} can't be trusted"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .trying("TLS can't be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_asked_size_and_is_json() {
        for (model, body_bytes) in [("bytes-1024:latest", 1024), ("stream-4-0", 16_384)] {
            let request = Call { model, body_bytes, key: "k" }.request();
            let at = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            let body: serde_json::Value = serde_json::from_slice(&request[at + 4..]).unwrap();
            assert_eq!(request.len() - at - 4, body_bytes);
            assert_eq!(body["model"], model);
            assert_eq!(body["stream"], !model.starts_with("bytes"));
        }
    }
}
