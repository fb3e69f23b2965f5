//! The files that the settings of the broker name.

use std::path::{Path, PathBuf};
use std::{fs, io};

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::config::BrokerSettings;
use crate::disk::on_blocking_thread;

/// A file cannot be used. It never contains anything of the file.
#[derive(Debug, thiserror::Error)]
#[error("{setting}={}: {reason}", path.display())]
pub struct BrokerFileError {
    setting: &'static str,
    path: PathBuf,
    reason: String,
}

/// Checks the files, so that the process does not start with one that no connection could use.
///
/// # Errors
/// The first one that cannot be used.
pub fn check_files(settings: &BrokerSettings) -> Result<(), BrokerFileError> {
    settings.credentials.as_deref().map(Credentials::read).transpose()?;
    settings.ca.as_deref().map(read_authorities).transpose()?;
    Ok(())
}

/// Responds to the challenge of a server with what the file holds now, so that a renewed one needs no restart.
pub(super) async fn authenticate(path: PathBuf, challenge: Vec<u8>) -> Result<Auth, AuthError> {
    let read = on_blocking_thread(move || Credentials::read(&path).map_err(io::Error::other)).await;
    let Credentials { jwt, key } = read.map_err(AuthError::new)?;
    let mut auth = Auth::new();
    auth.jwt = Some(jwt);
    auth.signature = Some(key.sign(&challenge).map_err(AuthError::new)?);
    Ok(auth)
}

/// What a `.creds` file holds: a line of each between a line with BEGIN and one with END.
struct Credentials {
    /// Signed by the account of the user.
    jwt: String,
    key: KeyPair,
}

impl Credentials {
    fn read(path: &Path) -> Result<Self, BrokerFileError> {
        let parse = |content: &[u8]| Self::parse(std::str::from_utf8(content).ok()?);
        read("BROKER_CREDENTIALS", path, parse, "a JWT of a user and its seed (.creds)")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        let mut next = || {
            lines.find(|line| line.starts_with("---") && line.contains("BEGIN"))?;
            lines.next()
        };
        let (jwt, seed) = (next()?, next()?);
        Some(Self { jwt: jwt.to_owned(), key: KeyPair::from_seed(seed).ok()? })
    }
}

fn read_authorities(path: &Path) -> Result<(), BrokerFileError> {
    let parse = |content: &[u8]| {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(content) {
            roots.add(certificate.ok()?).ok()?;
        }
        (!roots.is_empty()).then_some(())
    };
    read("BROKER_CA", path, parse, "certificates of authorities in PEM")
}

fn read<T>(
    setting: &'static str,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Option<T>,
    expected: &str,
) -> Result<T, BrokerFileError> {
    let error = |reason| BrokerFileError { setting, path: path.to_owned(), reason };
    let content = fs::read(path).map_err(|cause| error(cause.to_string()))?;
    parse(&content).ok_or_else(|| error(format!("expected {expected}")))
}
