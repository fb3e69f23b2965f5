//! A lane for the large bodies of each address: those of one address wait for each other, and those of others for few of
//! them. A lane is forgotten with its last body.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::addresses::network;

/// The lanes of all addresses that have a large body now.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    width: usize,
    open: Arc<Mutex<HashMap<IpAddr, Open>>>,
}

#[derive(Debug)]
struct Open {
    bodies: usize,
    turns: Arc<Semaphore>,
}

/// The lane of one address, for one body.
#[derive(Debug)]
pub(super) struct Lane {
    address: IpAddr,
    turns: Arc<Semaphore>,
    lanes: Lanes,
}

impl Lanes {
    /// So many bodies of an address have their turn at once.
    pub(super) fn new(width: usize) -> Self {
        Self { width, open: Arc::default() }
    }

    /// The lane of `address`, which is remembered until all that was returned for it is dropped.
    pub(super) fn of(&self, address: IpAddr) -> Lane {
        let address = network(address);
        let mut open = self.lock();
        let lane =
            open.entry(address).or_insert_with(|| Open { bodies: 0, turns: Arc::new(Semaphore::new(self.width)) });
        lane.bodies += 1;
        Lane { address, turns: Arc::clone(&lane.turns), lanes: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// The lane in which a body waits for its turn.
    pub(super) fn turns(&self) -> Arc<Semaphore> {
        Arc::clone(&self.turns)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut open = self.lanes.lock();
        if let Some(lane) = open.get_mut(&self.address) {
            lane.bodies -= 1;
            if lane.bodies == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_lane_of_its_own_and_it_is_forgotten_with_its_last_body() {
        let lanes = Lanes::new(2);
        let of = |address: &str| lanes.of(address.parse().unwrap());
        let (first, second, other) = (of("192.0.2.1"), of("192.0.2.1"), of("192.0.2.2"));
        let turns = [first.turns().try_acquire_owned().unwrap(), second.turns().try_acquire_owned().unwrap()];
        assert!(of("192.0.2.1").turns().try_acquire_owned().is_err(), "its lane is full");
        assert!(other.turns().try_acquire_owned().is_ok(), "the other's is not");
        drop((first, turns));
        assert!(of("192.0.2.1").turns().try_acquire_owned().is_ok());
        drop((second, other));
        assert!(lanes.lock().is_empty());
        let network = (of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::"));
        assert_eq!(lanes.lock().len(), 1, "an IPv6 network is one sender");
        drop(network);
    }
}
