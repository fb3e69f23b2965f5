//! A consumer that rests until a crowd waits, and producers that wake it when it does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What the consumer rests for. It guards nothing: a crossing that is missed costs the rest of a slice.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// So many are waited for; 0 while the consumer does not rest.
    crowd: AtomicUsize,
    consumer: Mutex<Option<Thread>>,
}

impl Gathering {
    /// Blocks this thread for a slice of time, or until `crowd` wait, as `waiting` counts them; says whether they do.
    pub(super) fn slice(&self, crowd: usize, slice: Duration, waiting: impl Fn() -> usize) -> bool {
        let until = Instant::now() + slice;
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        let is_there = loop {
            // Before each look: one who has woken us in vain has taken it back.
            self.crowd.store(crowd, Ordering::SeqCst);
            if waiting() >= crowd {
                break true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            thread::park_timeout(left);
        };
        self.crowd.store(0, Ordering::SeqCst);
        is_there
    }

    /// One more has come; `waiting` are there now.
    pub(super) fn joined(&self, waiting: impl FnOnce() -> usize) {
        let crowd = self.crowd.load(Ordering::SeqCst);
        // Only the one who completes the crowd wakes the consumer.
        if crowd == 0 || waiting() < crowd || self.crowd.swap(0, Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(consumer) = &*self.consumer.lock().unwrap_or_else(PoisonError::into_inner) {
            consumer.unpark();
        }
    }
}
