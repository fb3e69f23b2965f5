//! The space on disk, and its bound.

use std::sync::Arc;

use super::share::{SpoolShare, TenantCharges};
use crate::bound::Bound;

/// Space is allocated in blocks of this size.
const BLOCK: usize = 4096;

/// `SPOOL_MAX_BYTES`, and how much of it is used. Files count in whole blocks, as they do on disk.
#[derive(Debug)]
pub struct Space(Arc<Bound>);

/// The space of one segment. Released on drop.
#[derive(Debug)]
pub(super) struct SegmentCharge {
    space: Arc<Space>,
    bytes: usize,
    blocks: usize,
    /// The tenants' parts of it.
    tenants: TenantCharges,
}

impl Space {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self(Arc::new(Bound::new(max_bytes)))
    }

    /// Counts without a limit: that of the broker is common to all processes of a fleet.
    pub(super) fn in_broker() -> Self {
        Self::new(usize::MAX)
    }

    /// What counts the bytes.
    pub(super) fn bound(&self) -> &Arc<Bound> {
        &self.0
    }

    /// The bytes in use, in whole blocks.
    pub fn used(&self) -> usize {
        self.0.used()
    }

    /// `SPOOL_MAX_BYTES`.
    pub fn max_bytes(&self) -> usize {
        self.0.max()
    }

    /// Whether batches are rejected before their body is read.
    pub fn is_nearly_full(&self) -> bool {
        self.max_bytes().saturating_sub(self.used()) < self.margin()
    }

    /// The spool is nearly full with fewer free bytes than this.
    pub fn margin(&self) -> usize {
        (self.max_bytes() / 64).max(BLOCK)
    }

    /// Charges a new file of `bytes`; none if there is no space.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Option<SegmentCharge> {
        let mut charge = self.count(0);
        charge.grow_to(bytes).then_some(charge)
    }

    /// Charges an existing file, even if that exceeds the bound.
    pub(super) fn count(self: &Arc<Self>, bytes: usize) -> SegmentCharge {
        let blocks = bytes.div_ceil(BLOCK);
        self.0.add(blocks * BLOCK);
        SegmentCharge { space: Arc::clone(self), bytes, blocks, tenants: TenantCharges::default() }
    }
}

impl SegmentCharge {
    /// Charges the growth of the file to `bytes`. Returns false, and charges nothing, if there is no space.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.div_ceil(BLOCK).saturating_sub(self.blocks) * BLOCK;
        let taken = self.space.0.take(more);
        if taken {
            self.bytes = self.bytes.max(bytes);
            self.blocks += more / BLOCK;
        }
        taken
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges the growth of the file to the tenants of `jobs`, in proportion to the bytes of their lines.
    pub(super) fn charge_tenants<'a>(&mut self, jobs: impl Iterator<Item = (Option<&'a SpoolShare>, usize)> + Clone) {
        self.tenants.grow_to(self.blocks * BLOCK, jobs);
    }

    /// The file does not grow any more.
    pub(super) fn seal(&mut self) {
        self.tenants.seal();
    }

    /// The file stays on disk: its space is not released. The tenants' charges are, since they did not cause that.
    pub(super) fn keep(mut self) {
        self.blocks = 0;
    }
}

impl Drop for SegmentCharge {
    fn drop(&mut self) {
        self.space.0.release(self.blocks * BLOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::super::share::SpoolLimit;
    use super::*;

    #[test]
    fn space_is_charged_in_blocks_and_never_exceeds_the_bound() {
        let space = Arc::new(Space::new(4 * BLOCK));
        let mut one = space.charge(1).unwrap();
        assert_eq!(space.used(), BLOCK);
        assert!(one.grow_to(BLOCK) && one.grow_to(BLOCK + 1));
        let two = space.charge(2 * BLOCK).unwrap();
        assert!(space.is_nearly_full());
        assert!(!one.grow_to(2 * BLOCK + 1) && space.charge(1).is_none());
        assert_eq!((one.bytes(), space.used()), (BLOCK + 1, 4 * BLOCK));
        drop(one);
        two.keep();
        assert_eq!(space.used(), 2 * BLOCK);
    }

    #[test]
    fn tenants_are_charged_until_the_file_is_removed_or_kept_as_damaged() {
        let space = Arc::new(Space::new(10 * BLOCK));
        let share = SpoolShare::new(SpoolLimit::Bytes(10 * BLOCK));
        let jobs = || [(Some(&share), 100)].into_iter();
        let [mut removed, mut damaged] = [1, 2].map(|blocks| space.charge(blocks * BLOCK).unwrap());
        removed.charge_tenants(jobs());
        damaged.charge_tenants(jobs());
        assert_eq!((share.used(), space.used()), (3 * BLOCK, 3 * BLOCK));
        // A commit that failed is charged to no tenant.
        assert!(removed.grow_to(2 * BLOCK));
        assert_eq!(share.used(), 3 * BLOCK);
        removed.seal();
        drop(removed);
        assert_eq!((share.used(), space.used()), (2 * BLOCK, 2 * BLOCK));
        damaged.keep();
        assert_eq!((share.used(), space.used()), (0, 2 * BLOCK), "a tenant does not pay for damage");
    }

    #[test]
    fn sealing_a_file_releases_negligible_charges() {
        let space = Arc::new(Space::new(1000 * BLOCK));
        let [large, small] = [1000 * BLOCK; 2].map(|max| SpoolShare::new(SpoolLimit::Bytes(max)));
        let mut file = space.charge(100 * BLOCK).unwrap();
        file.charge_tenants([(Some(&large), 999), (Some(&small), 1)].into_iter());
        assert!(small.used() > 0);
        file.seal();
        assert_eq!((small.used(), space.used()), (0, 100 * BLOCK));
        assert!(large.used() > 99 * BLOCK);
    }

    #[test]
    fn the_spool_is_nearly_full_with_less_than_a_64th_free() {
        let space = Arc::new(Space::new(640 * BLOCK));
        assert_eq!((space.max_bytes(), space.margin()), (640 * BLOCK, 10 * BLOCK));
        let mut file = space.charge(630 * BLOCK).unwrap();
        assert!(!space.is_nearly_full());
        assert!(file.grow_to(631 * BLOCK) && space.is_nearly_full());
        assert_eq!(Space::new(BLOCK).margin(), BLOCK, "at least one block");
    }

    #[test]
    fn an_existing_file_is_charged_even_beyond_the_bound() {
        let space = Arc::new(Space::new(BLOCK));
        let left = space.count(10 * BLOCK);
        assert!(space.charge(1).is_none());
        drop(left);
        assert!(space.charge(1).is_some());
    }
}
