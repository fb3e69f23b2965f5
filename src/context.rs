//! The state that the listeners, the dispatcher and the workers share.

use std::sync::Arc;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::shutdown::Shutdown;
use crate::spool::{Backlog, Spool};
use crate::trace::Tracer;

/// Shared state of the pipeline from the queue to the store.
#[derive(Clone)]
pub struct PipelineContext {
    /// Segments until they are stored.
    pub spool: Arc<Spool>,
    /// Sealed segments that wait for a worker.
    pub backlog: Arc<Backlog>,
    /// What `/health` and `/ready` report.
    pub health: Arc<Health>,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// The last stored objects and rejected requests.
    pub recent: Arc<Recent>,
    /// Whether the process is stopping.
    pub shutdown: Shutdown,
    /// Traces sampled requests; none if traces are not exported.
    pub tracer: Option<Arc<Tracer>>,
}
