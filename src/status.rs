//! One snapshot a second of everything that operators see. The page, the stream, StatsD and `millpond top` all read it.
//!
//! The [`Sampler`] reads counters that exist anyway, so a request costs nothing more. Rates and quantiles are differences
//! between two readings. One row of each snapshot goes into the [`History`] of the last 15 minutes.

mod history;
mod model;
mod process;
mod quantiles;
mod readiness;
mod reading;
mod rollout;
mod sampler;
mod slow;
mod sources;
mod tenant_rates;

use std::sync::Arc;

use bytes::Bytes;
use prometheus::proto::MetricFamily;
use tokio::sync::watch;

pub use history::{COLUMNS, HISTORY_MAX, History};
pub use model::*;
pub use readiness::readiness;
pub use sampler::Sampler;
pub use sources::{Facts, Sources};

/// The state of the server at one second.
#[derive(Debug)]
pub struct Snapshot {
    /// The state.
    pub status: Status,
    /// The same as one line of JSON.
    pub json: Bytes,
    /// All metrics at that second.
    pub families: Vec<MetricFamily>,
}

/// The current snapshot and the history. Clones share them.
#[derive(Debug, Clone)]
pub struct Snapshots {
    current: watch::Receiver<Arc<Snapshot>>,
    history: Arc<History>,
}

impl Snapshots {
    /// The newest snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    /// Waits for the next snapshot; none when the sampler has ended.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        self.current.changed().await.ok()?;
        Some(Arc::clone(&self.current.borrow_and_update()))
    }

    /// The rows before the newest snapshot, oldest first, and that snapshot. [`next`](Self::next) then returns the one after.
    pub fn replay(&mut self) -> (Vec<Bytes>, Arc<Snapshot>) {
        self.history.before_current(|| Arc::clone(&self.current.borrow_and_update()))
    }
}
