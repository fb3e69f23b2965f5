//! Where the listeners of a process come from.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;
use tokio::net::TcpListener;

use super::inherited::Inherited;
use super::takeover::Takeover;
use crate::config::Settings;
use crate::server::bind;

/// A listener cannot be opened.
#[derive(Debug, Error)]
#[error("{setting}: cannot listen on {address}")]
pub struct ListenError {
    setting: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// The public and the admin listener: each of the service manager, of the running process if its address is the same, or a new
/// one.
///
/// # Errors
/// If an address cannot be bound.
pub fn listen(
    settings: &Settings,
    inherited: Inherited,
    takeover: Option<&mut Takeover>,
) -> Result<(TcpListener, TcpListener), ListenError> {
    let (public, admin) = (settings.http.listen_addr, settings.admin_addr);
    let (taken_public, taken_admin) = match takeover {
        Some(takeover) => (takeover.take_public(public), takeover.take_admin(admin)),
        None => (None, None),
    };
    let listener = |setting, given: Option<std::net::TcpListener>, address| {
        let listener = given.map_or_else(|| bind(address), TcpListener::from_std);
        listener.map_err(|source| ListenError { setting, address, source })
    };
    Ok((
        listener("LISTEN_ADDR", inherited.public.or(taken_public), public)?,
        listener("ADMIN_ADDR", inherited.admin.or(taken_admin), admin)?,
    ))
}
