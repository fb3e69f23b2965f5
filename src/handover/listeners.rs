//! Where the listeners of a process come from.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::inherited::Inherited;
use super::takeover::Takeover;
use crate::config::Settings;
use crate::server::bind;

/// A process that was killed closes its connection to HANDOVER_SOCKET some moments before its listeners.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
const RELEASE_INTERVAL: Duration = Duration::from_millis(10);

/// Why a handover did not help.
const NO_HANDOVER: &str = " (the process that has the port does not listen on HANDOVER_SOCKET: stop it first; the next upgrade needs no stop)";

/// A listener cannot be opened.
#[derive(Debug, Error)]
#[error("{setting}: cannot listen on {address}{hint}")]
pub struct ListenError {
    setting: &'static str,
    address: SocketAddr,
    hint: &'static str,
    source: io::Error,
}

/// The public and the admin listener: each of the service manager, of the running process if its address is the same, or a new
/// one.
///
/// # Errors
/// If an address cannot be bound.
pub async fn listen(
    settings: &Settings,
    inherited: Inherited,
    takeover: Option<&mut Takeover>,
) -> Result<(TcpListener, TcpListener), ListenError> {
    let (public, admin) = (settings.http.listen_addr, settings.admin_addr);
    let (taken_public, taken_admin) = match takeover {
        Some(takeover) => (takeover.take_public(public), takeover.take_admin(admin)),
        None => (None, None),
    };
    let waits = settings.handover_socket.is_some();
    let listener = async |setting, given: Option<std::net::TcpListener>, address| {
        let listener = match given {
            Some(listener) => TcpListener::from_std(listener),
            None if waits => bind_when_released(address).await,
            None => bind(address),
        };
        listener.map_err(|source| {
            let hint = if waits && source.kind() == io::ErrorKind::AddrInUse { NO_HANDOVER } else { "" };
            ListenError { setting, address, hint, source }
        })
    };
    Ok((
        listener("LISTEN_ADDR", inherited.public.or(taken_public), public).await?,
        listener("ADMIN_ADDR", inherited.admin.or(taken_admin), admin).await?,
    ))
}

/// Binds `address`; waits for a short time while another process has it.
async fn bind_when_released(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                sleep(RELEASE_INTERVAL).await;
            }
            bound => return bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_a_killed_process_still_holds_is_bound_when_it_is_released() {
        let held = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = held.local_addr().unwrap();
        let (bound, ()) = tokio::join!(bind_when_released(address), async {
            sleep(RELEASE_INTERVAL * 3).await;
            drop(held);
        });
        assert_eq!(bound.unwrap().local_addr().unwrap(), address);
    }
}
