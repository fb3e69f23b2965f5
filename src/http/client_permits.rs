//! Permits for what only a number of requests may do at once, with a share for each client, so that one client cannot keep
//! the others waiting.

use std::net::IpAddr;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::keyed_semaphores::{KeyedPermit, KeyedSemaphores};
use crate::server::network;

/// One client may hold one part in this many of all permits.
const CLIENT_PART: usize = 4;

/// The requests that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum ClientKey {
    /// A tenant, by its name.
    Tenant(String),
    /// Without tenants, an address.
    Address(IpAddr),
    /// A connection without an address.
    Unknown,
}

impl ClientKey {
    pub(super) fn new(tenant: Option<&str>, address: Option<IpAddr>) -> Self {
        match (tenant, address) {
            (Some(name), _) => Self::Tenant(name.to_owned()),
            (None, Some(address)) => Self::Address(network(address)),
            (None, None) => Self::Unknown,
        }
    }
}

/// The permits of all clients.
#[derive(Debug)]
pub(super) struct ClientPermits {
    all: Semaphore,
    by_client: KeyedSemaphores<ClientKey>,
}

/// One permit, returned when it is dropped.
#[derive(Debug)]
pub(super) struct ClientPermit<'a> {
    _permit: SemaphorePermit<'a>,
    _of_client: KeyedPermit<ClientKey>,
}

impl ClientPermits {
    /// `max` permits, of which one client may hold a quarter.
    pub(super) fn new(max: usize) -> Self {
        Self { all: Semaphore::new(max), by_client: KeyedSemaphores::new(max / CLIENT_PART) }
    }

    /// A permit, unless the client, or all clients together, hold as many as they may.
    pub(super) fn try_acquire(&self, client: &ClientKey) -> Option<ClientPermit<'_>> {
        let permit = self.all.try_acquire().ok()?;
        Some(ClientPermit { _permit: permit, _of_client: self.by_client.try_acquire(client.clone())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_gets_a_quarter_of_the_permits() {
        let permits = ClientPermits::new(32);
        let (one, two) = (ClientKey::new(Some("a"), None), ClientKey::new(None, Some([192, 0, 2, 1].into())));
        let held: Vec<_> = std::iter::from_fn(|| permits.try_acquire(&one)).collect();
        assert_eq!(held.len(), 8);
        let other = permits.try_acquire(&two).unwrap();
        drop((held, other));
        assert!(permits.by_client.is_empty());
    }

    #[test]
    fn all_clients_together_get_no_more_than_the_limit() {
        let permits = ClientPermits::new(32);
        let held: Vec<_> = (0..100)
            .filter_map(|n: u8| permits.try_acquire(&ClientKey::new(None, Some([192, 0, 2, n].into()))))
            .collect();
        assert_eq!(held.len(), 32);
    }
}
