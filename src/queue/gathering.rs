//! A consumer that rests until a crowd waits, and producers that wake it when it does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What the consumer rests for. Nothing is guarded by it, so every access is relaxed: a crossing that is missed costs the
/// rest of a rest.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// So many are waited for; 0 while the consumer does not rest.
    crowd: AtomicUsize,
    consumer: Mutex<Option<Thread>>,
}

impl Gathering {
    /// Blocks this thread until `crowd` wait, as `waiting` counts them, or `most` has passed.
    pub(super) fn rest(&self, crowd: usize, most: Duration, waiting: impl Fn() -> usize) {
        let until = Instant::now() + most;
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.crowd.store(crowd, Ordering::Relaxed);
        while waiting() < crowd {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        self.crowd.store(0, Ordering::Relaxed);
    }

    /// One more has come; `waiting` are there now.
    pub(super) fn joined(&self, waiting: impl FnOnce() -> usize) {
        let crowd = self.crowd.load(Ordering::Relaxed);
        // Only the one who completes the crowd wakes the consumer.
        if crowd == 0 || waiting() < crowd || self.crowd.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(consumer) = &*self.consumer.lock().unwrap_or_else(PoisonError::into_inner) {
            consumer.unpark();
        }
    }
}
