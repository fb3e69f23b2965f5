//! What outbound HTTP connections have in common: to a collector, to another version, and of the command line.

use std::error::Error;
use std::io;

use hyper_rustls::HttpsConnectorBuilder;
use hyper_rustls::builderstates::WantsSchemes;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The builder of a connector. The certificate authorities of the system are read only if https `is_used`: a small container
/// has none.
///
/// # Errors
/// If they cannot be read, or there are none.
pub(crate) fn connector(is_used: bool) -> io::Result<HttpsConnectorBuilder<WantsSchemes>> {
    let (builder, provider) = (HttpsConnectorBuilder::new(), aws_lc_rs::default_provider());
    if is_used {
        return builder.with_provider_and_native_roots(provider);
    }
    let config = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?;
    Ok(builder.with_tls_config(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

/// The innermost error: hyper's own messages do not say what the operating system said. None of them contains a header.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
