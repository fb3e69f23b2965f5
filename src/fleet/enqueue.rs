//! Adds ended segments to the work queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::fate::{settle, stored_whole};
use crate::broker::{Broker, BrokerError, End};
use crate::context::PipelineContext;
use crate::log_throttle::LogThrottle;
use crate::segment::{Committed, SegmentName};
use crate::spool::{EndedSegment, EndedSegments};

/// The pause after a failure, which doubles each time.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

static FAILED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// Adds each ended segment to the work queue. What it has not added when the process exits is found by the reapers of the fleet.
pub(super) async fn run(broker: Arc<Broker>, mut ended: EndedSegments, context: PipelineContext) {
    while let Some(segment) = ended.recv().await {
        let mut pause = PAUSE;
        while let Err(error) = enqueue(&broker, &segment, &context).await {
            if let Some(suppressed) = FAILED.permit() {
                tracing::warn!(segment = %segment.name.id, %error, suppressed, "cannot add a segment to the work queue of the broker; will retry");
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        context.spool.queued();
    }
    std::future::pending().await
}

async fn enqueue(broker: &Broker, segment: &EndedSegment, context: &PipelineContext) -> Result<(), BrokerError> {
    let mut name = segment.name;
    if segment.is_unsure {
        let (committed, end, _) = broker.end(name).await?;
        count_unconfirmed(name, committed, context);
        if committed.jobs == 0 {
            context.spool.forget(name.id);
            return Ok(());
        }
        if end == End::Stored {
            settle(context, stored_whole(name, committed));
            return Ok(());
        }
        name = SegmentName { committed: Some(committed), ..name };
    }
    broker.enqueue(name, Some(broker.inbox())).await
}

/// Counts jobs as accepted whose clients were told that they may have been: the broker has them.
fn count_unconfirmed(name: SegmentName, committed: Committed, context: &PipelineContext) {
    if let Some((jobs, payloads)) = context.spool.correct(name.id, committed) {
        context.metrics.ledger.accepted(jobs.into(), payloads.into());
    }
}
