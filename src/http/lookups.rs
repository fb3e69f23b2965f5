//! How many lookups of jobs of other machines may ask the store at once: in all, and of one client, so that one cannot keep
//! the others from asking.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::addresses::network;

/// Lookups that may ask the store at once.
const LOOKUPS_MAX: usize = 32;
/// Those of one client.
const LOOKUPS_MAX_PER_CLIENT: usize = 8;

/// Whose lookups are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A tenant, by its name.
    Tenant(String),
    /// Where there are no tenants, an address.
    Address(IpAddr),
    /// A connection without an address.
    Unknown,
}

/// The lookups under way. A client is forgotten with its last, so this never holds more than [`LOOKUPS_MAX`] of them.
#[derive(Debug)]
pub(super) struct Lookups {
    all: Semaphore,
    by_client: Mutex<HashMap<Client, usize>>,
}

/// A permit for one lookup.
#[derive(Debug)]
pub(super) struct Lookup<'a> {
    client: Client,
    of: &'a Lookups,
    _permit: SemaphorePermit<'a>,
}

impl Client {
    pub(super) fn new(tenant: Option<&str>, address: Option<IpAddr>) -> Self {
        match (tenant, address) {
            (Some(name), _) => Self::Tenant(name.to_owned()),
            (None, Some(address)) => Self::Address(network(address)),
            (None, None) => Self::Unknown,
        }
    }
}

impl Lookups {
    pub(super) fn new() -> Self {
        Self { all: Semaphore::new(LOOKUPS_MAX), by_client: Mutex::default() }
    }

    /// A permit for `client` until it is dropped; none when it, or all together, have as many as they may.
    pub(super) fn begin(&self, client: &Client) -> Option<Lookup<'_>> {
        let permit = self.all.try_acquire().ok()?;
        let mut by_client = self.lock();
        let count = by_client.entry(client.clone()).or_insert(0);
        if *count >= LOOKUPS_MAX_PER_CLIENT {
            return None;
        }
        *count += 1;
        Some(Lookup { client: client.clone(), of: self, _permit: permit })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        let mut by_client = self.of.lock();
        if let Some(count) = by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_own_lookups_and_cannot_take_all() {
        let lookups = Lookups::new();
        let (one, two) = (Client::new(Some("a"), None), Client::new(None, Some([192, 0, 2, 1].into())));
        let held: Vec<_> = std::iter::from_fn(|| lookups.begin(&one)).collect();
        assert_eq!(held.len(), LOOKUPS_MAX_PER_CLIENT);
        let other = lookups.begin(&two).unwrap();
        drop((held, other));
        assert!(lookups.lock().is_empty());
    }

    #[test]
    fn all_together_have_no_more_than_the_limit() {
        let lookups = Lookups::new();
        let held: Vec<_> =
            (0..100).filter_map(|n: u8| lookups.begin(&Client::new(None, Some([192, 0, 2, n].into())))).collect();
        assert_eq!(held.len(), LOOKUPS_MAX);
    }
}
