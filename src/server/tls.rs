//! TLS on the public listener. The certificate is replaced while connections stay open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
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

/// TLS 1.2 and 1.3 with the current certificate.
pub struct Tls {
    files: TlsSettings,
    provider: Arc<CryptoProvider>,
    current: Arc<CurrentCertificate>,
    acceptor: TlsAcceptor,
    /// Without HTTP/2, for connections that only get a rendered HTTP/1.1 response.
    http1_acceptor: TlsAcceptor,
}

/// Why a certificate and its key cannot be used. It never contains anything of the key.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting}={path}: {error}")]
    Unreadable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A file does not hold what is expected.
    #[error("{setting}={path}: expected {expected}")]
    Unusable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The key does not belong to the certificate, or is of an unsupported kind.
    #[error("TLS_CERT and TLS_KEY do not match, or are of an unsupported kind: {0}")]
    Mismatch(rustls::Error),
    /// The configuration of rustls is invalid.
    #[error("TLS cannot be configured: {0}")]
    Config(rustls::Error),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] when they do not hold a certificate and its key.
    pub fn load(files: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = Arc::new(CurrentCertificate(ArcSwap::new(read(files, &provider)?)));
        let config = |protocols: &[&[u8]]| {
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Config)?
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Ok(TlsAcceptor::from(Arc::new(config)))
        };
        let (acceptor, http1_acceptor) = (config(&[H2, HTTP_1_1])?, config(&[HTTP_1_1])?);
        Ok(Self { files: files.clone(), provider, current, acceptor, http1_acceptor })
    }

    /// Reads the files again. New connections get the new certificate.
    ///
    /// # Errors
    /// [`TlsError`]; the previous certificate stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.0.store(read(&self.files, &self.provider)?);
        Ok(())
    }

    /// When the certificate expires; none if its dates cannot be read.
    pub fn expires(&self) -> Option<SystemTime> {
        let current = self.current.0.load();
        let (_, certificate) = x509_parser::parse_x509_certificate(current.cert.first()?).ok()?;
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// Makes the handshake with a client that is served.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Makes the handshake with a client that gets one HTTP/1.1 response.
    pub(super) async fn accept_http1(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.http1_acceptor.accept(stream).await
    }
}

/// The certificate that new connections get, and its key.
#[derive(Debug)]
struct CurrentCertificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn read(files: &TlsSettings, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = pem("TLS_CERT", &files.cert)?;
    let chain: Option<Vec<_>> = CertificateDer::pem_slice_iter(&chain).map(Result::ok).collect();
    let chain = chain
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| unusable("TLS_CERT", &files.cert, "a certificate followed by its chain, in PEM"))?;
    let key = pem("TLS_KEY", &files.key)?;
    // The parser's error would quote the file.
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| unusable("TLS_KEY", &files.key, "an unencrypted private key in PEM"))?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(TlsError::Mismatch)
}

fn pem(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable { setting, path: path.to_owned(), error })
}

fn unusable(setting: &'static str, path: &Path, expected: &'static str) -> TlsError {
    TlsError::Unusable { setting, path: path.to_owned(), expected }
}
