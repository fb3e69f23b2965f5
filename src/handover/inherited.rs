//! Listeners that a service manager has opened: `LISTEN_FDS`, as sd_listen_fds(3) describes it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use thiserror::Error;

use crate::config::Settings;

/// The name of the admin listener in `LISTEN_FDNAMES`.
const ADMIN: &str = "admin";
/// The name of the public listener.
const PUBLIC: &str = "public";

/// Listeners that a service manager has opened.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The socket named `public`, or the only one.
    pub public: Option<TcpListener>,
    /// The socket named `admin`.
    pub admin: Option<TcpListener>,
}

/// Why the sockets cannot be used.
#[derive(Debug, Error)]
pub enum InheritedError {
    /// A socket has no known name.
    #[error(
        "LISTEN_FDS: socket {index} is named {name:?}: set FileDescriptorName=public or FileDescriptorName=admin in its unit, one socket each"
    )]
    Name {
        /// The index of the socket.
        index: usize,
        /// Its name in `LISTEN_FDNAMES`.
        name: String,
    },
    /// A socket is not a TCP listener.
    #[error(
        "LISTEN_FDS: socket {index} is not a TCP listener: use ListenStream= with an address and a port, and Accept=no: {error}"
    )]
    Kind {
        /// The index of the socket.
        index: usize,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The admin listener is open to other machines, and no token protects it.
    #[error(
        "LISTEN_FDS: the socket named admin listens on {0}, which is not a loopback address, and ADMIN_TOKEN is not set: set ADMIN_TOKEN, or use a loopback address"
    )]
    Exposed(SocketAddr),
}

impl Inherited {
    /// Takes the sockets of `listen_fds`. `names` is `LISTEN_FDNAMES`: a name for each socket, separated by colons.
    ///
    /// # Errors
    /// If a socket has no known name or is not a TCP listener.
    pub fn take(mut listen_fds: ListenFd, names: Option<&str>) -> Result<Self, InheritedError> {
        let mut inherited = Self::default();
        let names: Vec<&str> = names.map(|names| names.split(':').collect()).unwrap_or_default();
        let count = listen_fds.len();
        for index in 0..count {
            let name = names.get(index).copied().unwrap_or_default();
            let place = match name {
                ADMIN => &mut inherited.admin,
                PUBLIC => &mut inherited.public,
                // systemd's default is the name of the unit.
                _ if count == 1 => &mut inherited.public,
                _ => return Err(InheritedError::Name { index, name: name.to_owned() }),
            };
            if place.is_some() {
                return Err(InheritedError::Name { index, name: name.to_owned() });
            }
            let not_a_listener = |error| InheritedError::Kind { index, error };
            let Some(listener) = listen_fds.take_tcp_listener(index).map_err(not_a_listener)? else { continue };
            if !socket_acceptconn(&listener).map_err(|error| not_a_listener(error.into()))? {
                return Err(not_a_listener(io::ErrorKind::InvalidInput.into()));
            }
            listener.set_nonblocking(true).map_err(not_a_listener)?;
            *place = Some(listener);
        }
        Ok(inherited)
    }

    /// The addresses of the public and of the admin listener: those of inherited sockets, else as the settings have them.
    pub fn addresses(&self, settings: &Settings) -> [SocketAddr; 2] {
        let own = |listener: &Option<TcpListener>| listener.as_ref().and_then(|listener| listener.local_addr().ok());
        [own(&self.public).unwrap_or(settings.http.listen_addr), own(&self.admin).unwrap_or(settings.admin_addr)]
    }

    /// Checks the admin listener as `ADMIN_ADDR` is checked.
    ///
    /// # Errors
    /// If other machines can reach it, and there is no `ADMIN_TOKEN`.
    pub fn check(&self, has_token: bool) -> Result<(), InheritedError> {
        match self.admin.as_ref().and_then(|admin| admin.local_addr().ok()) {
            Some(address) if !has_token && !address.ip().to_canonical().is_loopback() => {
                Err(InheritedError::Exposed(address))
            }
            _ => Ok(()),
        }
    }
}
