//! Bytes on disk, and their bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::share::{SenderCharges, SpoolShare};

/// A file takes whole blocks of this.
const BLOCK: usize = 4096;

/// `SPOOL_MAX_BYTES`, and how much of it is taken. A file counts with the blocks it fills, so that many small ones are
/// not more than they seem.
#[derive(Debug)]
pub struct Space {
    most: usize,
    used: AtomicUsize,
}

/// What one file takes; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    space: Arc<Space>,
    bytes: usize,
    blocks: usize,
    /// Of the blocks, what the senders of the file's jobs are charged.
    senders: SenderCharges,
}

impl Space {
    pub(super) fn new(most: usize) -> Self {
        Self { most, used: AtomicUsize::new(0) }
    }

    /// Bytes taken, in whole blocks.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether so little is left that a batch is better refused before its body is read.
    pub fn is_nearly_full(&self) -> bool {
        self.most.saturating_sub(self.used()) < self.margin()
    }

    /// With fewer bytes left than this it is nearly full.
    pub fn margin(&self) -> usize {
        (self.most / 64).max(BLOCK)
    }

    /// Room for a file of `bytes`, if there is.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let mut charge = Charge { space: Arc::clone(self), bytes: 0, blocks: 0, senders: SenderCharges::default() };
        charge.grow_to(bytes).then_some(charge)
    }

    /// A file that is there already, whether there is room for it or not.
    pub(super) fn count(self: &Arc<Self>, bytes: usize) -> Charge {
        let blocks = blocks(bytes);
        self.used.fetch_add(blocks * BLOCK, Ordering::Relaxed);
        Charge { space: Arc::clone(self), bytes, blocks, senders: SenderCharges::default() }
    }
}

impl Charge {
    /// Takes what a file of `bytes` needs; false, and as before, if there is no room.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = blocks(bytes).saturating_sub(self.blocks) * BLOCK;
        let taken = self.space.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| more == 0 || *sum <= self.space.most)
        });
        if taken.is_ok() {
            self.bytes = self.bytes.max(bytes);
            self.blocks += more / BLOCK;
        }
        taken.is_ok()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges what the file has grown by to the senders of the jobs that it has grown for, each with the bytes of its lines.
    pub(super) fn pass_on<'a>(&mut self, jobs: impl Iterator<Item = (Option<&'a SpoolShare>, usize)> + Clone) {
        self.senders.grow_to(self.blocks * BLOCK, jobs);
    }

    /// The file grows no more.
    pub(super) fn seal(&mut self) {
        self.senders.seal();
    }

    /// The file stays: its space is not given back. Its senders are charged no longer: they did not damage it.
    pub(super) fn keep(mut self) {
        self.blocks = 0;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.space.used.fetch_sub(self.blocks * BLOCK, Ordering::Relaxed);
    }
}

fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_taken_in_blocks_and_never_beyond_the_bound() {
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
    fn senders_are_charged_all_that_a_file_takes_until_it_is_gone_or_set_aside() {
        let space = Arc::new(Space::new(10 * BLOCK));
        let share = SpoolShare::new(10 * BLOCK);
        let jobs = || [(Some(&share), 100)].into_iter();
        let [mut removed, mut damaged] = [1, 2].map(|blocks| space.charge(blocks * BLOCK).unwrap());
        removed.pass_on(jobs());
        damaged.pass_on(jobs());
        assert_eq!((share.used(), space.used()), (3 * BLOCK, 3 * BLOCK));
        // A commit that fails has taken space, but no job of it is in the file.
        assert!(removed.grow_to(2 * BLOCK));
        assert_eq!(share.used(), 3 * BLOCK);
        removed.seal();
        drop(removed);
        assert_eq!((share.used(), space.used()), (2 * BLOCK, 2 * BLOCK));
        damaged.keep();
        assert_eq!((share.used(), space.used()), (0, 2 * BLOCK), "it is not the sender's fault");
    }

    #[test]
    fn what_is_there_already_counts_even_beyond_the_bound() {
        let space = Arc::new(Space::new(BLOCK));
        let left = space.count(10 * BLOCK);
        assert!(space.charge(1).is_none());
        drop(left);
        assert!(space.charge(1).is_some());
    }
}
