//! A sample of what accepted requests were answered, spread evenly over a load.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps so many bodies, each of those offered with the same chance (Vitter, Random Sampling with a Reservoir, 1985).
#[derive(Debug)]
pub struct Receipts {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    offered: usize,
    bodies: Vec<Vec<u8>>,
}

impl Receipts {
    /// Room for `capacity` bodies.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, kept: Mutex::default() }
    }

    pub(super) fn offer(&self, body: &[u8]) {
        let mut kept = self.lock();
        let place = kept.offered;
        kept.offered += 1;
        if place < self.capacity {
            kept.bodies.push(body.to_owned());
            return;
        }
        let place = fastrand::usize(..=place);
        if let Some(old) = kept.bodies.get_mut(place) {
            old.clear();
            old.extend_from_slice(body);
        }
    }

    /// Takes the sample out.
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.lock()).bodies
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capacity_is_kept_and_late_ones_among_them() {
        let receipts = Receipts::new(50);
        for number in 0..1_000_u32 {
            receipts.offer(&number.to_be_bytes());
        }
        let kept = receipts.take();
        assert_eq!(kept.len(), 50);
        // That none of 50 is of the second half has a chance of 2^-50.
        assert!(kept.iter().any(|body| *body >= 500_u32.to_be_bytes().to_vec()));
        assert!(receipts.take().is_empty());
    }
}
