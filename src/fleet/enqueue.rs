//! Adds ended segments to the work queue.

use std::time::Duration;

use tokio::time::sleep;

use super::fate::{Fates, lost, settle, settle_lost, stored_whole};
use crate::broker::{BrokerError, End};
use crate::context::PipelineContext;
use crate::log_throttle::LogThrottle;
use crate::segment::{Committed, SegmentName};
use crate::spool::{EndedSegment, EndedSegments};
use crate::worker::retry_delay;

static FAILED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// Adds each ended segment to the work queue. What it has not added when the process exits is found by the reapers of the fleet.
pub(super) async fn run(fates: Fates, mut ended: EndedSegments, context: PipelineContext) {
    // One that fails does not keep the others waiting: their upload may free the space that it needs.
    let mut waiting: Vec<EndedSegment> = Vec::new();
    // The rounds since the last one without a failure.
    let mut failures = 0_u32;
    loop {
        let mut failed = Vec::new();
        for segment in waiting {
            match enqueue(&fates, &segment, &context).await {
                Ok(()) => context.spool.queued(segment.name.id),
                Err(error) => {
                    if let Some(suppressed) = FAILED.permit() {
                        tracing::warn!(segment = %segment.name.id, %error, suppressed, "cannot add a segment to the work queue of the broker; will retry");
                    }
                    failed.push(segment);
                }
            }
        }
        let is_failing = !failed.is_empty();
        let is_draining = context.shutdown.is_draining();
        let delay = retry_delay(failures, is_draining);
        failures = if is_failing { failures.saturating_add(1) } else { 0 };
        tokio::select! {
            Some(segment) = ended.recv() => failed.push(segment),
            () = sleep(delay), if is_failing => {}
            // While draining the delays are short.
            () = context.shutdown.draining(), if is_failing && !is_draining => {}
            else => std::future::pending().await,
        }
        while let Ok(segment) = ended.try_recv() {
            failed.push(segment);
        }
        waiting = failed;
    }
}

async fn enqueue(fates: &Fates, segment: &EndedSegment, context: &PipelineContext) -> Result<(), BrokerError> {
    let (broker, mut name) = (&fates.broker, segment.name);
    if segment.is_unsure {
        let counted = name.committed.unwrap_or_default();
        let (committed, end, _) = broker.end(name).await?;
        if committed.jobs < counted.jobs && fates.is_stored(name, counted.jobs).await? {
            // Its frames and its end have left the broker.
            settle(context, stored_whole(name, counted));
            return Ok(());
        }
        if committed.jobs == 0 {
            if counted.jobs == 0 {
                context.spool.forget(name.id);
            } else {
                settle_lost(context, name.id);
            }
            // Parts of a frame that is not whole.
            return broker.purge(name, 1).await;
        }
        correct(name, committed, context);
        if end != End::Sealed {
            settle(context, stored_whole(name, committed));
            return Ok(());
        }
        name = SegmentName { committed: Some(committed), ..name };
    }
    broker.enqueue(name, Some(broker.inbox()), segment.is_unsure).await
}

/// Counts what the broker has of a segment: more, if clients were told that their batches may be stored; less, if it has lost some.
fn correct(name: SegmentName, committed: Committed, context: &PipelineContext) {
    let Some(before) = context.spool.correct(name.id, committed) else { return };
    let more = |now: u32, before: u32| u64::from(now.saturating_sub(before));
    context.metrics.ledger.accepted(more(committed.jobs, before.jobs), more(committed.payloads, before.payloads));
    if committed.jobs < before.jobs {
        lost(context, name.id, more(before.jobs, committed.jobs), more(before.payloads, committed.payloads));
    }
}
