//! What became of a segment of the broker: one way to find it out, and one way to record it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, End, Settled};
use crate::context::PipelineContext;
use crate::segment::{Committed, SegmentName};
use crate::spool::{SegmentState, SettledSegment};
use crate::store::{Store, StoreError, StoredObject};

/// Where a segment can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its frames are in the broker.
    Waiting,
    Stored,
    /// The broker does not have it, and the store does not confirm that it does.
    Missing,
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
            Some(tail) if tail.end == Some(End::Stored) => Fate::Stored,
            Some(_) => Fate::Waiting,
            None if matches!(self.object(name).await, Ok(Some(_))) => Fate::Stored,
            None => Fate::Missing,
        })
    }

    /// The object of a segment.
    pub(super) async fn object(&self, name: SegmentName) -> Result<Option<StoredObject>, StoreError> {
        self.store.find(&name.id.key(&self.prefix, name.compression)).await
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
    metrics.ledger.stored(jobs, payloads);
    metrics
        .ledger
        .dead(u64::from(committed.jobs).saturating_sub(jobs), u64::from(committed.payloads).saturating_sub(payloads));
}

/// The outcome of a segment that is stored whole.
pub(super) fn stored_whole(name: SegmentName, committed: Committed) -> Settled {
    let Committed { jobs, payloads, .. } = committed;
    Settled { segment: name.id.to_string(), jobs: jobs.into(), payloads: payloads.into(), dead: Vec::new() }
}
