//! What stands in the way of taking work or storing it, as the workers and the shutdown see it and `/health` and `/ready`
//! show it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use crate::store::{ErrorClass, StoreError};

/// The state that the probes are answered from.
#[derive(Debug, Default)]
pub struct Health {
    draining: AtomicBool,
    store: Mutex<Option<StoreTrouble>>,
}

/// The store does not take objects.
#[derive(Debug, Clone)]
pub struct StoreTrouble {
    /// Since when.
    pub since: SystemTime,
    /// What kind of trouble it was the last time.
    pub class: ErrorClass,
    /// What the store said the last time.
    pub message: String,
    began: Instant,
}

impl Health {
    /// The server stops: no new work from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the server stops.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The store refused an object, or could not be asked.
    pub fn store_failed(&self, error: &StoreError) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, began) = store
            .as_ref()
            .map_or_else(|| (SystemTime::now(), Instant::now()), |trouble| (trouble.since, trouble.began));
        if store.is_none() {
            tracing::error!(class = ?error.class, %error, "the store does not take objects; what is accepted is kept and tried again");
        }
        *store = Some(StoreTrouble { since, class: error.class, message: error.message.clone(), began });
    }

    /// The store took an object, or is there again.
    pub fn store_answered(&self) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trouble) = store.take() {
            tracing::info!(after = ?trouble.began.elapsed(), "the store takes objects again");
        }
    }

    /// What ails the store, if anything does.
    pub fn store_trouble(&self) -> Option<StoreTrouble> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
