//! A counter with an upper bound, and parts of a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `percent` of `whole`, and at least one.
pub(crate) fn part(whole: usize, percent: usize) -> usize {
    // In 128 bits the product cannot overflow.
    ((whole as u128 * percent as u128 / 100) as usize).max(1)
}

/// A counter of units in use. It guards no other memory, so relaxed operations are enough.
#[derive(Debug)]
pub(crate) struct Bound {
    max: usize,
    used: AtomicUsize,
}

impl Bound {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, used: AtomicUsize::new(0) }
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.max
    }

    /// Adds `units` if the sum stays within the bound. Returns whether it did.
    pub(crate) fn take(&self, units: usize) -> bool {
        if units == 0 {
            return true;
        }
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(units).filter(|sum| *sum <= self.max)
        });
        taken.is_ok()
    }

    /// Adds `units`, even beyond the bound.
    pub(crate) fn add(&self, units: usize) {
        self.used.fetch_add(units, Ordering::Relaxed);
    }

    /// Takes `units` until the permit is dropped; `None` if they would exceed the bound.
    pub(crate) fn acquire(self: &Arc<Self>, units: usize) -> Option<BoundPermit> {
        self.take(units).then(|| BoundPermit { bound: Arc::clone(self), units })
    }

    pub(crate) fn release(&self, units: usize) {
        if units > 0 {
            self.used.fetch_sub(units, Ordering::Relaxed);
        }
    }
}

/// Units of a bound, released on drop.
#[derive(Debug)]
pub(crate) struct BoundPermit {
    bound: Arc<Bound>,
    units: usize,
}

impl Drop for BoundPermit {
    fn drop(&mut self) {
        self.bound.release(self.units);
    }
}
