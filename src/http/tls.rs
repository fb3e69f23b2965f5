//! TLS on the public listener, and how its certificate is exchanged while connections stay open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::config::TlsSettings;

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// TLS 1.2 and 1.3 with the certificate that is in force.
pub struct Tls {
    files: TlsSettings,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
    /// For those who are only told why they are refused, in HTTP/1.1.
    refuser: TlsAcceptor,
}

/// Why a certificate and its key cannot be used. Never with a word of what the key's file holds.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting}={path}: {error}")]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file holds something else.
    #[error("{setting}={path}: expected {expected}")]
    Unusable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// They are not a pair, or not of a kind that rustls knows.
    #[error("TLS_CERT and TLS_KEY are no pair that can be used: {0}")]
    NoPair(rustls::Error),
    /// The library refuses what we ask of it.
    #[error("TLS cannot be set up: {0}")]
    NoTls(rustls::Error),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] when they hold no certificate and its key.
    pub fn load(files: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = Arc::new(Current(RwLock::new(read(files, &provider)?)));
        let config = |protocols: &[&[u8]]| {
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(TlsError::NoTls)?
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Ok(TlsAcceptor::from(Arc::new(config)))
        };
        let (acceptor, refuser) = (config(&[H2, HTTP_1_1])?, config(&[HTTP_1_1])?);
        Ok(Self { files: files.clone(), provider, current, acceptor, refuser })
    }

    /// Reads the files again: connections that come from now on get what is in them now.
    ///
    /// # Errors
    /// [`TlsError`], and what was read before stays in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        let pair = read(&self.files, &self.provider)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = pair;
        Ok(())
    }

    /// The handshake with a sender that is served.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// The handshake with a sender that is to be told one thing in HTTP/1.1.
    pub(super) async fn accept_to_refuse(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.refuser.accept(stream).await
    }
}

/// The certificate in force, and its key.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(files: &TlsSettings, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = pem("TLS_CERT", &files.cert)?;
    let chain: Option<Vec<_>> = CertificateDer::pem_slice_iter(&chain).map(Result::ok).collect();
    let chain = chain.filter(|chain| !chain.is_empty()).ok_or_else(|| {
        unusable("TLS_CERT", &files.cert, "a certificate, and after it those that vouch for it, in PEM")
    })?;
    let key = pem("TLS_KEY", &files.key)?;
    // The error would quote the file.
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| unusable("TLS_KEY", &files.key, "a private key in PEM, not encrypted"))?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(TlsError::NoPair)
}

fn pem(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable { setting, path: path.to_owned(), error })
}

fn unusable(setting: &'static str, path: &Path, expected: &'static str) -> TlsError {
    TlsError::Unusable { setting, path: path.to_owned(), expected }
}
