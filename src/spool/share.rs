//! What the jobs of one sender take of `SPOOL_MAX_BYTES`.
//!
//! A segment holds the jobs of many senders. Each commit passes the bytes that the segment's file has grown by, in whole
//! blocks, on to the senders of its jobs, by the bytes of their lines. They are given back when the file is gone, so the sum
//! over all senders never exceeds what the spool holds. The segments of dead processes are charged to no sender: the file
//! does not say whose jobs are in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A sealed segment forgets the charges of senders with less than this part of it, so that what is kept for a backlog of
/// many segments stays small. It is under 1%, the least share that can be set: a sender that is never charged cannot
/// exceed any share.
const FORGOTTEN_PART: usize = 128;

/// The bytes on disk that one sender's jobs take, and the most that they may take. Clones are the same share.
///
/// The limit is checked before a batch is taken and not at its commit, so what the sender has in the queue by then may still
/// follow: a sender exceeds the limit by at most its share of the queue.
#[derive(Debug, Clone)]
pub struct SpoolShare(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    max_bytes: usize,
    used: AtomicUsize,
}

impl SpoolShare {
    /// A share of which nothing is used.
    pub fn new(max_bytes: usize) -> Self {
        Self(Arc::new(Counter { max_bytes, used: AtomicUsize::new(0) }))
    }

    /// Bytes on disk, in whole blocks.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Whether the next batch has to be refused.
    pub fn is_full(&self) -> bool {
        self.used() >= self.0.max_bytes
    }

    /// Names the share: clones have the same.
    fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

/// What the senders of one segment's jobs are charged for it; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct SenderCharges {
    by_sender: HashMap<usize, Charged>,
    /// Bytes that were passed on so far, whether or not their senders have a share.
    passed_on: usize,
}

#[derive(Debug)]
struct Charged {
    share: SpoolShare,
    bytes: usize,
}

impl SenderCharges {
    /// The segment takes `taken` bytes now: what it has grown by is charged to the senders of `jobs`, each with the bytes of
    /// its lines.
    pub(super) fn grow_to<'a>(
        &mut self,
        taken: usize,
        jobs: impl Iterator<Item = (Option<&'a SpoolShare>, usize)> + Clone,
    ) {
        let grown = taken.saturating_sub(self.passed_on);
        if grown == 0 {
            return;
        }
        self.passed_on = taken;
        let lines = jobs.clone().map(|(_, bytes)| bytes).sum::<usize>().max(1);
        // Parts of a running sum, so that they add up to the whole.
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
        let of_sender = self.by_sender.entry(share.id());
        of_sender.or_insert_with(|| Charged { share: share.clone(), bytes: 0 }).bytes += bytes;
        share.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The segment is sealed: gives back what is too little to be kept in mind.
    pub(super) fn seal(&mut self) {
        let least = self.passed_on / FORGOTTEN_PART;
        self.by_sender.retain(|_, charged| charged.bytes >= least);
        self.by_sender.shrink_to_fit();
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.share.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(charges: &mut SenderCharges, taken: usize, jobs: &[(&SpoolShare, usize)]) {
        charges.grow_to(taken, jobs.iter().map(|(share, bytes)| (Some(*share), *bytes)));
    }

    #[test]
    fn what_a_segment_takes_is_charged_by_the_bytes_of_the_lines_to_the_last_byte_and_given_back_once() {
        let [one, other] = [100_000, 100_000].map(SpoolShare::new);
        let mut charges = SenderCharges::default();
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
    fn a_sender_without_a_share_takes_its_part_from_those_that_have_one() {
        let one = SpoolShare::new(100_000);
        let mut charges = SenderCharges::default();
        charges.grow_to(4096, [(Some(&one), 1), (None, 3)].into_iter());
        assert_eq!(one.used(), 1024);
    }

    #[test]
    fn a_share_is_full_when_it_is_used_up_and_only_then() {
        let one = SpoolShare::new(4096);
        let mut charges = SenderCharges::default();
        grow(&mut charges, 4095, &[(&one, 1)]);
        assert!(!one.is_full());
        grow(&mut charges, 4096, &[(&one, 1)]);
        assert!(one.is_full());
    }

    #[test]
    fn a_sealed_segment_keeps_few_charges_and_gives_back_those_that_it_forgets() {
        let large = SpoolShare::new(1 << 20);
        let small: Vec<_> = (0..1000).map(|_| SpoolShare::new(1 << 20)).collect();
        let jobs: Vec<_> = small.iter().map(|share| (share, 1)).chain([(&large, 1000)]).collect();
        let mut charges = SenderCharges::default();
        grow(&mut charges, 1 << 20, &jobs);
        assert!(small.iter().all(|share| share.used() > 0));
        charges.seal();
        assert!(small.iter().all(|share| share.used() == 0) && charges.by_sender.len() == 1);
        assert_eq!(large.used(), 1 << 19);
        drop(charges);
        assert_eq!(large.used(), 0);
    }
}
