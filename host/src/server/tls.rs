//! TLS towards callers: one certificate, replaced while connections come and go.
//!
//! A pair of files is taken only when it can be used: it parses, the key is the certificate's, and the certificate has not
//! ended. Otherwise the pair in use stays. There is no way from here to plain HTTP.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ::aws_lc_rs::digest::{SHA256, digest};
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// What is spoken within TLS, best first.
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Largest certificate or key file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a pair of files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificate file is no PEM file with certificates.
    #[error("{} holds no certificate: it must be PEM, with a `BEGIN CERTIFICATE` line ({reason})", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key file is no PEM file with an unencrypted private key.
    #[error("{} holds no private key: it must be PEM and not encrypted, with a `BEGIN … PRIVATE KEY` line ({reason})", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is another certificate's, or of a kind that isn't supported.
    #[error("the key in {} does not fit the first certificate in {}: {reason}", key.display(), cert.display())]
    Mismatch {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate has ended.
    #[error("the certificate in {} ended on {ended}: renew it", path.display())]
    Ended {
        /// Which file.
        path: PathBuf,
        /// When.
        ended: String,
    },
    /// The certificate is not valid yet.
    #[error("the certificate in {} is valid from {begins} only: wait for that, or set this machine's clock right", path.display())]
    NotYet {
        /// Which file.
        path: PathBuf,
        /// From when.
        begins: String,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The certificate in use, and the files it comes from.
#[derive(Debug)]
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<Current>,
    /// The content that was refused last, so that it is complained of once.
    refused: Mutex<Option<Fingerprint>>,
}

#[derive(Debug)]
struct Current {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    ends_unix_s: i64,
}

/// Both files' content, hashed.
type Fingerprint = [u8; 32];

/// Stands for files that can't be read.
const UNREADABLE: Fingerprint = [0; 32];

impl Certificates {
    /// Reads a pair of files. `now_unix_ms` tells whether the certificate has ended.
    ///
    /// # Errors
    /// When the pair can't be used.
    pub fn load(cert: &Path, key: &Path, now_unix_ms: u64) -> Result<Arc<Self>, TlsError> {
        let files = Files::read(cert, key)?;
        let current = ArcSwap::from_pointee(files.check(cert, key, now_unix_ms)?);
        Ok(Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), current, refused: Mutex::default() }))
    }

    /// Reads the files again and takes them if they changed and can be used; true when they were taken. What can't be used
    /// is complained of once.
    ///
    /// # Errors
    /// When changed files can't be used; those in use stay.
    pub fn reload(&self, now_unix_ms: u64) -> Result<bool, TlsError> {
        let files = Files::read(&self.cert, &self.key);
        let fingerprint = files.as_ref().map_or(UNREADABLE, Files::fingerprint);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if fingerprint == self.current.load().fingerprint {
            *refused = None;
            return Ok(false);
        }
        let was_refused = refused.replace(fingerprint) == Some(fingerprint);
        match files.and_then(|files| files.check(&self.cert, &self.key, now_unix_ms)) {
            Ok(current) => {
                self.current.store(Arc::new(current));
                *refused = None;
                Ok(true)
            }
            // It may be valid by now, so it is looked at every time; it is complained of once.
            Err(_) if was_refused => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The two files.
    pub fn files(&self) -> [&Path; 2] {
        [&self.cert, &self.key]
    }

    /// When the certificate in use ends, in seconds since 1970.
    pub fn ends_unix_s(&self) -> i64 {
        self.current.load().ends_unix_s
    }

    /// TLS 1.2 and 1.3 with this certificate, and HTTP/2 or HTTP/1.1 within.
    ///
    /// # Errors
    /// When the cryptography can't be set up.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // Tickets hold a session at the caller's side, so returning callers cost no memory here.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self { cert: read(cert)?, key: read(key)? })
    }

    fn fingerprint(&self) -> Fingerprint {
        let both = [self.cert.as_slice(), b"\0", self.key.as_slice()].concat();
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(digest(&SHA256, &both).as_ref());
        fingerprint
    }

    fn check(&self, cert: &Path, key: &Path, now_unix_ms: u64) -> Result<Current, TlsError> {
        let no_certificate = |reason: String| TlsError::NoCertificate { path: cert.to_owned(), reason };
        let chain = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<Vec<_>, pem::Error>>()
            .map_err(|error| no_certificate(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| no_certificate("there is none".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| no_certificate(error.to_string()))?;
        let (begins, ends) = (parsed.validity().not_before, parsed.validity().not_after);
        let ends_unix_s = ends.timestamp();
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| TlsError::NoKey { path: key.to_owned(), reason: error.to_string() })?;
        let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| TlsError::Mismatch {
            cert: cert.to_owned(),
            key: key.to_owned(),
            reason: error.to_string(),
        })?;
        let now_unix_s = i64::try_from(now_unix_ms / 1000).unwrap_or(i64::MAX);
        if now_unix_s < begins.timestamp() {
            return Err(TlsError::NotYet { path: cert.to_owned(), begins: begins.to_string() });
        }
        if now_unix_s >= ends_unix_s {
            return Err(TlsError::Ended { path: cert.to_owned(), ended: ends.to_string() });
        }
        Ok(Current { certified: Arc::new(certified), fingerprint: self.fingerprint(), ends_unix_s })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE_BYTES {
        return Err(failed(io::Error::other(format!("it has {length} bytes; that is no PEM file"))));
    }
    std::fs::read(path).map_err(failed)
}
