//! A tenant's share of the room in the broker, which all processes of a fleet use.
//!
//! A process knows which bytes of its own segments are of which tenant, and of the other processes the sum only. It assumes that
//! the tenant has the same part of all bytes as of its own ones, as it has behind a load balancer.

use std::sync::Arc;

use crate::bound::Bound;
use crate::broker::{Broker, Room};

/// A tenant whose bytes in this process are fewer than the free ones divided by this is not rejected. So one that is alone in a
/// process does not answer for what others fill, and one that floods fewer than 300 processes still leaves room.
const SMALL_PART: u64 = 16;

/// The share of each tenant.
#[derive(Debug, Clone)]
pub struct BrokerShare {
    broker: Arc<Broker>,
    /// The bytes of this process in the broker.
    own: Arc<Bound>,
    percent: u64,
}

impl BrokerShare {
    pub(super) fn new(broker: Arc<Broker>, own: Arc<Bound>, percent: usize) -> Self {
        Self { broker, own, percent: percent as u64 }
    }

    /// Whether a tenant with so many bytes in segments of this process uses all of its share.
    pub(super) fn is_used_up(&self, tenant: usize) -> bool {
        is_used_up(self.broker.room(), self.own.used() as u64, tenant as u64, self.percent)
    }
}

/// All in bytes: `own` of this process, `tenant` among them.
fn is_used_up(room: Room, own: u64, tenant: u64, percent: u64) -> bool {
    // What this process has added since the stream was last checked counts as well.
    let used = room.used.max(own);
    let free = room.max.saturating_sub(used);
    let of_all = u128::from(used) * u128::from(tenant) / u128::from(own.max(1));
    of_all * 100 >= u128::from(room.max) * u128::from(percent) && tenant >= free / SMALL_PART
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a tenant with half of the room is rejected.
    fn is_rejected(used: u64, own: u64, tenant: u64) -> bool {
        is_used_up(Room { used, max: 1600 }, own, tenant, 50)
    }

    #[test]
    fn a_tenant_alone_in_one_process_is_rejected_at_its_share() {
        assert!(!is_rejected(799, 799, 799));
        assert!(is_rejected(800, 800, 800));
        assert!(is_rejected(0, 800, 800), "the stream was checked before");
    }

    #[test]
    fn a_tenant_of_several_processes_is_rejected_when_its_estimated_bytes_are_its_share() {
        assert!(!is_rejected(799, 200, 200));
        assert!(is_rejected(800, 200, 200));
        assert!(!is_rejected(1000, 200, 100), "it has half of the bytes");
        assert!(is_rejected(1600, 200, 100));
    }

    #[test]
    fn a_tenant_with_few_bytes_is_accepted_whatever_the_others_have() {
        assert!(!is_rejected(960, 39, 39), "640 bytes are free");
        assert!(is_rejected(960, 40, 40));
        assert!(!is_rejected(1599, 0, 0));
    }
}
