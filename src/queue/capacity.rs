//! A counted bound, and holds on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many units and no more, of which some are held.
#[derive(Debug)]
pub(super) struct Capacity {
    most: usize,
    used: AtomicUsize,
}

impl Capacity {
    pub(super) fn new(most: usize) -> Self {
        Self { most, used: AtomicUsize::new(0) }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn is_full(&self) -> bool {
        self.used() >= self.most
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, units: usize) -> bool {
        // The count guards no other memory, so relaxed is enough: what a job holds is passed on by the channel.
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(units).filter(|sum| *sum <= self.most)
        });
        taken.is_ok()
    }

    fn give_back(&self, units: usize) {
        self.used.fetch_sub(units, Ordering::Relaxed);
    }
}

/// A hold on some units of a capacity, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    of: Arc<Capacity>,
    units: usize,
}

impl Reservation {
    pub(super) fn empty(of: Arc<Capacity>) -> Self {
        Self { of, units: 0 }
    }

    /// Holds at least `units`; false, and no more than before, if there is no room for them.
    #[must_use]
    pub fn grow_to(&mut self, units: usize) -> bool {
        let more = units.saturating_sub(self.units);
        if more > 0 && !self.of.take(more) {
            return false;
        }
        self.units += more;
        true
    }

    /// Holds at most `units`.
    pub(super) fn shrink_to(&mut self, units: usize) {
        let less = self.units.saturating_sub(units);
        self.of.give_back(less);
        self.units -= less;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.of.give_back(self.units);
    }
}
