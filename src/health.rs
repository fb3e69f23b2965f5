//! What stands in the way of taking work or storing it, as the workers and the shutdown see it and `/health` and `/ready`
//! show it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::store::StoreError;

/// The state that the probes are answered from.
#[derive(Debug, Default)]
pub struct Health {
    draining: AtomicBool,
    store: Mutex<Option<Trouble>>,
    spool: Mutex<Option<Trouble>>,
}

/// Something does not do its work.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when.
    pub since: SystemTime,
    /// What it said the last time.
    pub message: String,
    began: Instant,
}

impl Trouble {
    fn again(before: Option<Self>, message: String) -> Self {
        let (since, began) =
            before.map_or_else(|| (SystemTime::now(), Instant::now()), |trouble| (trouble.since, trouble.began));
        Self { since, message, began }
    }
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
        let mut store = lock(&self.store);
        if store.is_none() {
            tracing::error!(class = ?error.class, %error, "the store does not take objects; what is accepted is kept and tried again");
        }
        *store = Some(Trouble::again(store.take(), error.message.clone()));
    }

    /// The store took an object, or is there again.
    pub fn store_answered(&self) {
        if let Some(trouble) = lock(&self.store).take() {
            tracing::info!(after = ?trouble.began.elapsed(), "the store takes objects again");
        }
    }

    /// What ails the store, if anything does.
    pub fn store_trouble(&self) -> Option<Trouble> {
        lock(&self.store).clone()
    }

    /// The spool did not take a commit, or could not give a segment back.
    pub fn spool_failed(&self, error: &impl ToString) {
        let mut spool = lock(&self.spool);
        if spool.is_none() {
            tracing::error!(error = error.to_string(), "the spool fails; jobs are refused until it does not");
        }
        *spool = Some(Trouble::again(spool.take(), error.to_string()));
    }

    /// The spool took a commit.
    pub fn spool_answered(&self) {
        if let Some(trouble) = lock(&self.spool).take() {
            tracing::info!(after = ?trouble.began.elapsed(), "the spool takes commits again");
        }
    }

    /// What ails the spool, if anything does.
    pub fn spool_trouble(&self) -> Option<Trouble> {
        lock(&self.spool).clone()
    }
}

fn lock(trouble: &Mutex<Option<Trouble>>) -> MutexGuard<'_, Option<Trouble>> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}
