//! What stands in the way of taking work or storing it, as the workers and the shutdown see it and `/health` and `/ready`
//! show it.

mod segments;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use segments::{FailingSegments, Side};

use crate::store::{ErrorClass, StoreError};

/// A store that fails is in trouble when it has taken nothing for this long: one failed call is no news. What will not pass
/// by itself is trouble at once.
const TROUBLE_AFTER: Duration = Duration::from_secs(3);

/// The state that the probes are answered from.
#[derive(Debug, Default)]
pub struct Health {
    draining: CancellationToken,
    store_is_back: Notify,
    store: Mutex<Option<Trouble>>,
    spool: Mutex<Option<Trouble>>,
    /// Segments that fail while others get through.
    pub segments: FailingSegments,
}

/// Something does not do its work.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when.
    pub since: SystemTime,
    /// What it said the last time.
    pub message: String,
    began: Instant,
    /// Whether it was logged.
    is_declared: bool,
}

impl Trouble {
    fn again(before: Option<Self>, message: String) -> Self {
        match before {
            Some(before) => Self { message, ..before },
            None => Self { since: SystemTime::now(), message, began: Instant::now(), is_declared: false },
        }
    }
}

impl Health {
    /// The server stops: no new work from now on.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Whether the server stops.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Waits until the server stops.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// The store refused an object, or could not be asked.
    pub fn store_failed(&self, error: &StoreError) {
        let mut store = lock(&self.store);
        let mut trouble = Trouble::again(store.take(), error.message.clone());
        if !trouble.is_declared && (error.class == ErrorClass::Permanent || trouble.began.elapsed() >= TROUBLE_AFTER) {
            tracing::error!(class = ?error.class, %error, "the store does not take objects; what is accepted is kept and tried again");
            trouble.is_declared = true;
        }
        *store = Some(trouble);
    }

    /// The store took an object, or is there again.
    pub fn store_answered(&self) {
        let trouble = lock(&self.store).take();
        if let Some(trouble) = trouble.filter(|trouble| trouble.is_declared) {
            tracing::info!(after = ?trouble.began.elapsed(), "the store takes objects again");
            self.store_is_back.notify_waiters();
        }
    }

    /// Waits until the store has taken an object after it had failed.
    pub async fn store_is_back(&self) {
        self.store_is_back.notified().await;
    }

    /// What ails the store, if anything does.
    pub fn store_trouble(&self) -> Option<Trouble> {
        let store = lock(&self.store);
        store.as_ref().filter(|trouble| trouble.is_declared || trouble.began.elapsed() >= TROUBLE_AFTER).cloned()
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
