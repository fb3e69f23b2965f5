//! The files that the settings of the broker name.

use std::fs;
use std::path::{Path, PathBuf};

use async_nats::ConnectOptions;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::config::BrokerSettings;

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
    check(
        "BROKER_CREDENTIALS",
        settings.credentials.as_deref(),
        |content| {
            let text = std::str::from_utf8(content).ok()?;
            ConnectOptions::with_credentials(text).ok().map(drop)
        },
        "a JWT of a user and its seed (.creds)",
    )?;
    check(
        "BROKER_CA",
        settings.ca.as_deref(),
        |content| {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(content) {
                roots.add(certificate.ok()?).ok()?;
            }
            (!roots.is_empty()).then_some(())
        },
        "certificates of authorities in PEM",
    )
}

fn check(
    setting: &'static str,
    path: Option<&Path>,
    parse: impl FnOnce(&[u8]) -> Option<()>,
    expected: &str,
) -> Result<(), BrokerFileError> {
    let Some(path) = path else { return Ok(()) };
    let error = |reason| BrokerFileError { setting, path: path.to_owned(), reason };
    let content = fs::read(path).map_err(|cause| error(cause.to_string()))?;
    parse(&content).ok_or_else(|| error(format!("expected {expected}")))
}
