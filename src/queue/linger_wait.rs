//! The dispatcher's wait for more jobs, which the push that completes the batch ends early.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The wait of the consumer. A wake-up that is missed costs no more than the rest of the wait.
#[derive(Debug, Default)]
pub(super) struct LingerWait {
    /// The number of queued jobs that ends the wait; 0 while the consumer does not wait.
    target: AtomicUsize,
    consumer: Mutex<Option<Thread>>,
}

impl LingerWait {
    /// Blocks this thread until `queued` returns `target` or `timeout` has passed. Returns whether the target was reached.
    pub(super) fn wait(&self, target: usize, timeout: Duration, queued: impl Fn() -> usize) -> bool {
        let until = Instant::now() + timeout;
        *self.consumer.lock() = Some(thread::current());
        let is_reached = loop {
            // Before each check: a spurious wake-up has reset it.
            self.target.store(target, Ordering::SeqCst);
            if queued() >= target {
                break true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            thread::park_timeout(left);
        };
        self.target.store(0, Ordering::SeqCst);
        is_reached
    }

    /// Called after each push: wakes the consumer if `queued` has reached its target.
    pub(super) fn pushed(&self, queued: impl FnOnce() -> usize) {
        let target = self.target.load(Ordering::SeqCst);
        // Only one producer takes the target, and wakes the consumer.
        if target == 0 || queued() < target || self.target.swap(0, Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(consumer) = &*self.consumer.lock() {
            consumer.unpark();
        }
    }
}
