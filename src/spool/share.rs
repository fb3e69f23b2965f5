//! The tenants' shares of `SPOOL_MAX_BYTES`, or of the room in the broker (see [`super::broker_share`]).
//!
//! A segment holds the jobs of many tenants. Each commit charges the growth of the segment's file, in whole blocks, to the
//! tenants of its jobs, in proportion to the bytes of their lines. The charges are released with the file, so the sum over
//! all tenants never exceeds what the spool holds. Adopted segments are charged to no tenant: the file does not name them.

use std::collections::HashMap;
use std::sync::Arc;

use super::broker_share::BrokerShare;
use crate::bound::Bound;

/// When a segment is sealed, tenants with less than its bytes divided by this are no longer charged for it, so that a large
/// backlog needs little memory. That is under 1%, the smallest share that can be set.
const NEGLIGIBLE_PART: usize = 128;

/// What one tenant may use of the spool.
#[derive(Debug, Clone)]
pub enum SpoolLimit {
    /// So many bytes on disk.
    Bytes(usize),
    /// A part of the room in the broker.
    Broker(BrokerShare),
}

/// The share of one tenant. Clones are the same share.
///
/// The limit is checked when a batch is queued and not at its commit, so a tenant exceeds it by at most its share of the queue.
#[derive(Debug, Clone)]
pub struct SpoolShare {
    used: Arc<Bound>,
    /// Its limit, if segments are in the broker.
    broker: Option<BrokerShare>,
}

impl SpoolShare {
    /// An unused share.
    pub fn new(limit: SpoolLimit) -> Self {
        match limit {
            SpoolLimit::Bytes(max) => Self { used: Arc::new(Bound::new(max)), broker: None },
            SpoolLimit::Broker(share) => Self { used: Arc::new(Bound::new(usize::MAX)), broker: Some(share) },
        }
    }

    /// The bytes of segments of this process that are not stored, in whole blocks.
    pub fn used(&self) -> usize {
        self.used.used()
    }

    /// Whether the next batch is rejected.
    pub fn is_full(&self) -> bool {
        self.broker.as_ref().map_or_else(|| self.used.is_full(), |share| share.is_used_up(self.used()))
    }

    /// Identifies the share; clones have the same id.
    fn id(&self) -> usize {
        Arc::as_ptr(&self.used).addr()
    }
}

/// The charges of one segment's tenants. Released on drop.
#[derive(Debug, Default)]
pub(super) struct TenantCharges {
    by_tenant: HashMap<usize, TenantCharge>,
    /// Bytes that were distributed so far, including those of tenants without a share.
    distributed: usize,
}

#[derive(Debug)]
struct TenantCharge {
    share: SpoolShare,
    bytes: usize,
}

impl TenantCharges {
    /// The segment has grown to `taken` bytes: distributes the growth to the tenants of `jobs`.
    pub(super) fn grow_to<'a>(
        &mut self,
        taken: usize,
        jobs: impl Iterator<Item = (Option<&'a SpoolShare>, usize)> + Clone,
    ) {
        let grown = taken.saturating_sub(self.distributed);
        if grown == 0 {
            return;
        }
        self.distributed = taken;
        let lines = jobs.clone().map(|(_, bytes)| bytes).sum::<usize>().max(1);
        // Parts of a running sum, so that rounding loses nothing.
        let part = |sum: usize| (grown as u128 * sum as u128 / lines as u128) as usize;
        let mut sum = 0;
        for (share, bytes) in jobs {
            let before = part(sum);
            sum += bytes;
            if let Some(share) = share {
                self.charge(share, part(sum) - before);
            }
        }
    }

    fn charge(&mut self, share: &SpoolShare, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let charged = self.by_tenant.entry(share.id());
        charged.or_insert_with(|| TenantCharge { share: share.clone(), bytes: 0 }).bytes += bytes;
        share.used.add(bytes);
    }

    /// The segment is sealed: releases negligible charges.
    pub(super) fn seal(&mut self) {
        let min = self.distributed / NEGLIGIBLE_PART;
        self.by_tenant.retain(|_, charged| charged.bytes >= min);
        self.by_tenant.shrink_to_fit();
    }
}

impl Drop for TenantCharge {
    fn drop(&mut self) {
        self.share.used.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(max_bytes: usize) -> SpoolShare {
        SpoolShare::new(SpoolLimit::Bytes(max_bytes))
    }

    fn grow(charges: &mut TenantCharges, taken: usize, jobs: &[(&SpoolShare, usize)]) {
        charges.grow_to(taken, jobs.iter().map(|(share, bytes)| (Some(*share), *bytes)));
    }

    #[test]
    fn all_bytes_of_a_segment_are_charged_in_proportion_to_the_lines_and_released_once() {
        let [one, other] = [share(100_000), share(100_000)];
        let mut charges = TenantCharges::default();
        grow(&mut charges, 8192, &[(&one, 100), (&other, 300)]);
        assert_eq!([one.used(), other.used()], [2048, 6144]);
        grow(&mut charges, 8192, &[(&one, 100)]);
        assert_eq!(one.used(), 2048, "the file has not grown");
        // None of these divides the block evenly.
        let many: Vec<_> = (0..1000).map(|n| (if n % 3 == 0 { &one } else { &other }, 1)).collect();
        grow(&mut charges, 8192 + 4096, &many);
        assert_eq!(one.used() + other.used(), 8192 + 4096);
        drop(charges);
        assert_eq!([one.used(), other.used()], [0, 0]);
    }

    #[test]
    fn a_tenant_without_a_share_is_charged_nothing_and_reduces_the_part_of_the_others() {
        let one = share(100_000);
        let mut charges = TenantCharges::default();
        charges.grow_to(4096, [(Some(&one), 1), (None, 3)].into_iter());
        assert_eq!(one.used(), 1024);
    }

    #[test]
    fn a_share_is_full_when_all_of_it_is_used() {
        let one = share(4096);
        let mut charges = TenantCharges::default();
        grow(&mut charges, 4095, &[(&one, 1)]);
        assert!(!one.is_full());
        grow(&mut charges, 4096, &[(&one, 1)]);
        assert!(one.is_full());
    }

    #[test]
    fn sealing_releases_negligible_charges() {
        let large = share(1 << 20);
        let small: Vec<_> = (0..1000).map(|_| share(1 << 20)).collect();
        let jobs: Vec<_> = small.iter().map(|share| (share, 1)).chain([(&large, 1000)]).collect();
        let mut charges = TenantCharges::default();
        grow(&mut charges, 1 << 20, &jobs);
        assert!(small.iter().all(|share| share.used() > 0));
        charges.seal();
        assert!(small.iter().all(|share| share.used() == 0) && charges.by_tenant.len() == 1);
        assert_eq!(large.used(), 1 << 19);
        drop(charges);
        assert_eq!(large.used(), 0);
    }
}
