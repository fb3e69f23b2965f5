//! Places for what only so many requests may do at once: in all, and of one client, so that one cannot keep the others from
//! it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::addresses::network;

/// The part of all places that one client may have.
const CLIENT_PART: usize = 4;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A tenant, by its name.
    Tenant(String),
    /// Where there are no tenants, an address.
    Address(IpAddr),
    /// A connection without an address.
    Unknown,
}

/// The places, and who has them. A client is forgotten with its last place, so there are never more clients than places.
#[derive(Debug)]
pub(super) struct Places {
    all: Semaphore,
    most_per_client: usize,
    by_client: Mutex<HashMap<Client, usize>>,
}

/// A permit for one place.
#[derive(Debug)]
pub(super) struct Place<'a> {
    client: Client,
    of: &'a Places,
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

impl Places {
    /// `most` places, and a quarter of them for one client.
    pub(super) fn new(most: usize) -> Self {
        Self { all: Semaphore::new(most), most_per_client: most / CLIENT_PART, by_client: Mutex::default() }
    }

    /// A permit for `client` until it is dropped; none when it, or all together, have as many as they may.
    pub(super) fn begin(&self, client: &Client) -> Option<Place<'_>> {
        let permit = self.all.try_acquire().ok()?;
        let mut by_client = self.lock();
        let count = by_client.entry(client.clone()).or_insert(0);
        if *count >= self.most_per_client {
            return None;
        }
        *count += 1;
        Some(Place { client: client.clone(), of: self, _permit: permit })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
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
    fn a_client_has_a_quarter_of_the_places_and_cannot_take_all() {
        let places = Places::new(32);
        let (one, two) = (Client::new(Some("a"), None), Client::new(None, Some([192, 0, 2, 1].into())));
        let held: Vec<_> = std::iter::from_fn(|| places.begin(&one)).collect();
        assert_eq!(held.len(), 8);
        let other = places.begin(&two).unwrap();
        drop((held, other));
        assert!(places.lock().is_empty());
    }

    #[test]
    fn all_together_have_no_more_than_the_limit() {
        let places = Places::new(32);
        let held: Vec<_> =
            (0..100).filter_map(|n: u8| places.begin(&Client::new(None, Some([192, 0, 2, n].into())))).collect();
        assert_eq!(held.len(), 32);
    }
}
