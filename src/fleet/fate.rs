//! What became of a segment of the broker: one way to find it out, and one way to record it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, End, Settled};
use crate::context::PipelineContext;
use crate::segment::{Committed, SegmentId, SegmentName};
use crate::spool::{SegmentState, SettledSegment};
use crate::store::{ErrorClass, Store, StoreError, StoredObject};

/// Where a segment can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its frames are in the broker.
    Waiting,
    Stored,
    /// Neither the broker nor the store has it.
    Missing,
    /// The broker does not have it, and the store did not say whether it does.
    Unknown,
}

/// Looks segments up in the broker and in the store.
#[derive(Clone)]
pub(super) struct Fates {
    pub(super) broker: Arc<Broker>,
    pub(super) store: Arc<Store>,
    pub(super) prefix: String,
}

impl Fates {
    /// Asks the broker, and the store if the broker has forgotten the segment.
    pub(super) async fn of(&self, name: SegmentName) -> Result<Fate, BrokerError> {
        Ok(match self.broker.tail_of(name).await? {
            Some(tail) if matches!(tail.end, Some(End::Stored | End::Damaged)) => Fate::Stored,
            Some(_) => Fate::Waiting,
            None => match self.object(name).await {
                Ok(Some(_)) => Fate::Stored,
                Ok(None) => Fate::Missing,
                Err(_) => Fate::Unknown,
            },
        })
    }

    async fn object(&self, name: SegmentName) -> Result<Option<StoredObject>, StoreError> {
        self.store.find(&name.id.key(&self.prefix, name.compression)).await
    }

    /// Whether the store has an object of the segment with at least so many jobs. Where the store denies the question, it does not
    /// have it as far as is known, and an upload replaces no object with more.
    pub(super) async fn is_stored(&self, name: SegmentName, jobs: u32) -> Result<bool, BrokerError> {
        match self.object(name).await {
            Ok(found) => Ok(found.is_some_and(|object| object.total_jobs.is_none_or(|total| total >= jobs))),
            Err(error) if error.class == ErrorClass::Permanent => Ok(false),
            Err(error) => Err(BrokerError::Unavailable(error.to_string())),
        }
    }
}

/// Records that a segment of this process has left the broker.
pub(super) fn settle(context: &PipelineContext, Settled { segment, jobs, payloads, dead }: Settled) {
    let Ok(id) = segment.parse() else { return };
    let dead: Arc<_> = dead.into_iter().map(|(first, end)| first..end).collect();
    let state = if jobs == 0 { SegmentState::Dead } else { SegmentState::Stored { dead } };
    let Some(SettledSegment { committed, opened }) = context.spool.settle(id, state) else { return };
    let metrics = &context.metrics;
    metrics.stored_seconds.observe(Instant::now().saturating_duration_since(opened).as_secs_f64());
    // No notice counts more than this process has committed.
    let (all_jobs, all_payloads) = (u64::from(committed.jobs), u64::from(committed.payloads));
    let (jobs, payloads) = (jobs.min(all_jobs), payloads.min(all_payloads));
    metrics.ledger.stored(jobs, payloads);
    metrics.ledger.dead(all_jobs - jobs, all_payloads - payloads);
}

/// Records that neither the broker nor the store has a segment of this process.
pub(super) fn settle_lost(context: &PipelineContext, id: SegmentId) {
    if let Some(SettledSegment { committed, .. }) = context.spool.settle(id, SegmentState::Dead) {
        lost(context, id, committed.jobs.into(), committed.payloads.into());
    }
}

/// Records acknowledged jobs that neither the broker nor the store has.
pub(super) fn lost(context: &PipelineContext, segment: SegmentId, jobs: u64, payloads: u64) {
    let metrics = &context.metrics;
    metrics.ledger.dead(jobs, payloads);
    metrics.segments_possibly_lost.inc();
    metrics.jobs_possibly_lost.inc_by(jobs);
    metrics.payloads_possibly_lost.inc_by(payloads);
    tracing::error!(%segment, jobs, payloads, "the broker has lost acknowledged jobs: its stream was deleted or purged, or its servers have lost what they had not synced (sync_interval: always)");
}

/// The outcome of a segment that is stored whole.
pub(super) fn stored_whole(name: SegmentName, committed: Committed) -> Settled {
    let Committed { jobs, payloads, .. } = committed;
    Settled { segment: name.id.to_string(), jobs: jobs.into(), payloads: payloads.into(), dead: Vec::new() }
}
