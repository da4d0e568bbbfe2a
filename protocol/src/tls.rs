//! TLS on the way to Redis: whom to trust, and with which certificate to log in.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer, ServerName,
            pem::{self, PemObject},
        },
    },
};

/// The files that TLS needs, all in PEM form. They are read at each connect, so that a certificate can be renewed
/// without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the CAs to trust; without it, the public ones that this machine trusts.
    pub ca: Option<PathBuf>,
    /// The client's certificate, with the chain that leads to its CA.
    pub cert: Option<PathBuf>,
    /// The client's private key.
    pub key: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    /// A file has no certificate.
    #[error("{path} has no certificate in PEM form", path = .0.display())]
    NoCertificate(PathBuf),
    /// A file has no private key.
    #[error("{path} has no private key in PEM form, or one with a passphrase, which cannot be used", path = .0.display())]
    NoKey(PathBuf),
    /// A certificate of a CA is broken.
    #[error("a certificate in {path} cannot be used: {1}", path = .0.display())]
    BadCa(PathBuf, rustls::Error),
    /// The client's certificate and its key are not a pair.
    #[error("the certificate {cert} cannot be used with the key {key}: {2}", cert = .0.display(), key = .1.display())]
    Pair(PathBuf, PathBuf, rustls::Error),
    /// One of the two is missing.
    #[error("redis_cert and redis_key belong together: name both")]
    Half,
    /// The address has no TLS.
    #[error("redis_ca, redis_cert and redis_key are for TLS, and '{0}' has none: write rediss:// in place of redis://")]
    Plain(String),
    /// This machine trusts nobody.
    #[error("this machine has no list of public CAs: name the file with your own (redis_ca)")]
    NoPublic,
    /// What the library does not support.
    #[error("TLS cannot be used: {0}")]
    Unsupported(rustls::Error),
}

impl TlsFiles {
    /// Whether none is named.
    pub const fn is_empty(&self) -> bool {
        self.ca.is_none() && self.cert.is_none() && self.key.is_none()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn read(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unsupported)?
            .with_root_certificates(self.trusted()?);
        match (&self.cert, &self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => builder
                .with_client_auth_cert(certificates(cert)?, private_key(key)?)
                .map_err(|error| TlsError::Pair(cert.clone(), key.clone(), error)),
            _ => Err(TlsError::Half),
        }
    }

    fn trusted(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        let Some(path) = &self.ca else {
            // A certificate that is not understood makes the others no less trusted.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return if store.is_empty() { Err(TlsError::NoPublic) } else { Ok(store) };
        };
        for certificate in certificates(path)? {
            store.add(certificate).map_err(|error| TlsError::BadCa(path.clone(), error))?;
        }
        Ok(store)
    }

    /// Whether a certificate of the client is named.
    pub(crate) const fn has_certificate(&self) -> bool {
        self.cert.is_some()
    }

    /// Begins TLS with the server of this name.
    ///
    /// # Errors
    /// The files cannot be used, or the server cannot be trusted.
    pub async fn wrap(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(self.read().map_err(io::Error::other)?)).connect(name, stream).await
    }
}

/// The certificates in a file.
///
/// # Errors
/// It cannot be read, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let missing = |error| unusable(path, error, TlsError::NoCertificate);
    let found: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(missing)?;
    if found.is_empty() { Err(TlsError::NoCertificate(path.into())) } else { Ok(found) }
}

/// The private key in a file.
///
/// # Errors
/// It cannot be read, or has none that can be used.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(path, error, TlsError::NoKey))
}

fn unusable(path: &Path, error: pem::Error, other: fn(PathBuf) -> TlsError) -> TlsError {
    match error {
        pem::Error::Io(error) => TlsError::Read(path.into(), error),
        _ => other(path.into()),
    }
}
