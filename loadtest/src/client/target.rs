//! Where requests go: an address, the host name in them, and the certificates that are trusted.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use hyper::Uri;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::either::Either;

use super::invalid;

pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

const HTTP2: &[u8] = b"h2";

/// A server as a client knows it.
#[derive(Clone)]
pub struct Target {
    /// Its address.
    pub addr: SocketAddr,
    /// Host and port as they stand in requests.
    pub(crate) authority: String,
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// A certificate for `localhost`, which signs itself, and its key, in a folder.
#[derive(Debug)]
pub struct SelfSigned {
    /// The certificate, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

impl From<SocketAddr> for Target {
    /// Without TLS.
    fn from(addr: SocketAddr) -> Self {
        Self { addr, authority: addr.to_string(), tls: None }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{} ({})", self.scheme(), self.authority, self.addr)
    }
}

impl Target {
    /// The target that a URL such as `https://millpond.example:8443/v1/payloads` names, and the URL's path and query if
    /// it has one. The certificate authorities in the file `ca`, in PEM, are trusted instead of the system's.
    /// Errors: the URL is not one of http or https, its host is unknown, or the file holds no certificate.
    pub async fn resolve(url: &str, ca: Option<&Path>) -> anyhow::Result<(Self, Option<String>)> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        let authority = uri.authority().with_context(|| format!("{url} has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (secure, port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => bail!("{url} does not begin with http:// or https://"),
        };
        let port = authority.port_u16().unwrap_or(port);
        let mut addrs = tokio::net::lookup_host((&*host, port)).await.with_context(|| format!("looking up {host}"))?;
        let addr = addrs.next().with_context(|| format!("{host} has no address"))?;
        let target = Self { addr, authority: authority.to_string(), tls: None };
        let path = uri.path_and_query().filter(|path| path.as_str() != "/").map(ToString::to_string);
        Ok((if secure { target.with_tls(&host, ca)? } else { target }, path))
    }

    /// The same with TLS: the server has to have a certificate for `host` of an authority in the file `ca`, or of one of
    /// the system's.
    /// Errors: there is no certificate to trust.
    pub fn with_tls(self, host: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(path) => {
                let read = || format!("reading the certificates in {}", path.display());
                for cert in CertificateDer::pem_file_iter(path).with_context(read)? {
                    roots.add(cert.with_context(read)?).with_context(read)?;
                }
                ensure!(!roots.is_empty(), "{} holds no certificate", path.display());
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                ensure!(!roots.is_empty(), "the system has no certificate authorities: give them with --ca");
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Self { tls: Some(Tls { name, config: Arc::new(config) }), ..self })
    }

    /// The same at another address.
    #[must_use]
    pub fn at(self, addr: SocketAddr) -> Self {
        match self.tls {
            Some(_) => Self { addr, authority: format!("{}:{}", SelfSigned::HOST, addr.port()), ..self },
            None => Self::from(addr),
        }
    }

    /// The same for HTTP/2, which TLS has to agree on.
    #[must_use]
    pub fn with_http2(mut self) -> Self {
        if let Some(tls) = &mut self.tls {
            Arc::make_mut(&mut tls.config).alpn_protocols = vec![HTTP2.to_vec()];
        }
        self
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Opens a connection, to `addr` instead of the target's own.
    pub(super) async fn connect(&self, addr: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let Some(Tls { name, config }) = &self.tls else { return Ok(Either::Left(stream)) };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?;
        if !config.alpn_protocols.is_empty() && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(invalid(&"the server does not offer HTTP/2"));
        }
        Ok(Either::Right(Box::new(stream)))
    }
}

impl SelfSigned {
    /// The name in the certificate.
    pub const HOST: &str = "localhost";

    /// Makes a key and a certificate.
    /// Errors: the files cannot be written.
    pub fn generate(folder: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([Self::HOST.to_owned()]).context("making a certificate")?;
        let this = Self { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        std::fs::write(&this.key, made.signing_key.serialize_pem()).context("writing a key")?;
        std::fs::write(&this.cert, made.cert.pem()).context("writing a certificate")?;
        Ok(this)
    }

    /// The settings of a server that serves with it.
    pub fn env(&self) -> [(String, String); 2] {
        [("TLS_CERT", &self.cert), ("TLS_KEY", &self.key)]
            .map(|(name, path)| (name.to_owned(), path.to_string_lossy().into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_gives_address_authority_and_path() {
        let resolve = |url| Target::resolve(url, None);
        let (target, path) = resolve("http://127.0.0.1:8080").await.unwrap();
        assert_eq!(
            (target.addr.to_string(), &*target.authority, path),
            ("127.0.0.1:8080".to_owned(), "127.0.0.1:8080", None)
        );
        let (target, path) = resolve("http://[::1]/v1/payloads?ack=disk").await.unwrap();
        assert_eq!((target.addr.to_string(), path.as_deref()), ("[::1]:80".to_owned(), Some("/v1/payloads?ack=disk")));
        for wrong in ["127.0.0.1:8080", "ftp://127.0.0.1", "/v1/payloads"] {
            assert!(resolve(wrong).await.is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_an_error() {
        let target = || Target::from(SocketAddr::from(([127, 0, 0, 1], 443)));
        let folder = tempfile::tempdir().unwrap();
        let pair = SelfSigned::generate(folder.path()).unwrap();
        assert_eq!(target().with_tls(SelfSigned::HOST, Some(&pair.cert)).unwrap().scheme(), "https");
        let wrong = target().with_tls(SelfSigned::HOST, Some(&pair.key)).unwrap_err();
        assert!(wrong.to_string().contains("holds no certificate"), "{wrong:#}");
    }
}
