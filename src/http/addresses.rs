//! How many connections each address has open. An address is forgotten with its last connection, so this is never larger
//! than the connections are many.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of an IPv6 address the network: whoever has one address of a /64 has all of them.
const NETWORK_BITS: u128 = !0 << 64;

/// Counts connections by address.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address.
#[derive(Debug)]
pub(super) struct Held {
    address: IpAddr,
    addresses: Addresses,
}

/// The address has as many as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Addresses {
    /// Each address may have `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// Takes a place for a connection of `address`, until it is dropped.
    pub(super) fn hold(&self, address: IpAddr) -> Result<Held, TooMany> {
        let address = network(address);
        let mut open = self.lock();
        let count = open.entry(address).or_insert(0);
        if *count >= self.most {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Held { address, addresses: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.addresses.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// What counts as one sender: an IPv4 address, or an IPv6 network.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK_BITS).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_own_places_and_is_forgotten_with_its_last_connection() {
        let addresses = Addresses::new(2);
        let hold = |address: &str| addresses.hold(address.parse().unwrap());
        let (first, second) = (hold("192.0.2.1").unwrap(), hold("192.0.2.1").unwrap());
        assert_eq!(hold("192.0.2.1").unwrap_err(), TooMany);
        let other = hold("192.0.2.2").unwrap();
        drop(first);
        let third = hold("192.0.2.1").unwrap();
        assert_eq!(hold("192.0.2.1").unwrap_err(), TooMany);
        drop((second, third, other));
        assert!(addresses.lock().is_empty());
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_are_one_sender() {
        let addresses = Addresses::new(1);
        let hold = |address: &str| addresses.hold(address.parse().unwrap());
        let _first = hold("2001:db8:0:1::1").unwrap();
        assert_eq!(hold("2001:db8:0:1:ffff:ffff:ffff:ffff").unwrap_err(), TooMany);
        hold("2001:db8:0:2::1").unwrap();
    }
}
