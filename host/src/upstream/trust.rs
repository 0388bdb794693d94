//! Whom backends on TLS must be certified by: the authorities of the public web, and those of one file.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};

/// A file of authorities is not larger than this: all of the public web's take a quarter of it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why TLS towards backends can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file can't be read.
    #[error("upstream.ca: {} can't be read: name a PEM file with the certificates of your authority", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too large to be what it should be.
    #[error("upstream.ca: {} is larger than {MAX_FILE_BYTES} bytes: leave only the certificates of your authority in it", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The file is no PEM.
    #[error("upstream.ca: {} is broken: write the certificates anew, as PEM", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A certificate makes no sense.
    #[error("upstream.ca: certificate {number} of {} can't be used: replace it", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Which one in it, from 1.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// There is no certificate in the file.
    #[error("upstream.ca: {} holds no certificate: it needs blocks that begin with -----BEGIN CERTIFICATE-----", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// The provider of cryptography doesn't do what TLS needs.
    #[error("TLS can't be set up")]
    Provider(#[source] rustls::Error),
}

/// TLS towards backends. The authorities in `ca`, a PEM file, are trusted besides those of the public web.
///
/// # Errors
/// When the file can't be used; then nothing is trusted.
pub fn client_tls(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = ca {
        add(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Provider)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let path_owned = || path.to_owned();
    let mut text = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text));
    let read = file.map_err(|source| TrustError::Unreadable { path: path_owned(), source })?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(TrustError::TooLarge { path: path_owned() });
    }
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|source| TrustError::Broken { path: path_owned(), source })?;
        found += 1;
        roots.add(certificate).map_err(|source| TrustError::Certificate {
            path: path_owned(),
            number: found,
            source,
        })?;
    }
    if found == 0 { Err(TrustError::Empty { path: path_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, text).unwrap();
        let said = client_tls(Some(&path)).map_or_else(|error| error.to_string(), |_| "trusted".to_owned());
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn a_file_of_authorities_is_trusted_or_refused_with_what_to_do() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let good = authority.self_signed(&key).unwrap().pem();
        check(&good, "trusted");
        check(&format!("a comment\n{good}\n{good}"), "trusted");
        check("", "holds no certificate: it needs");
        check(&key.serialize_pem(), "holds no certificate");
        check("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "is broken");
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 of");
        check(&" ".repeat(1 << 21), "is larger than");
        let missing = client_tls(Some(Path::new("/nowhere/ca.pem"))).unwrap_err().to_string();
        assert!(missing.starts_with("upstream.ca: /nowhere/ca.pem can't be read"), "{missing}");
    }
}
