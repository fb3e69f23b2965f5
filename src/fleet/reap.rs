//! Ends the segments of processes that have exited, so that they are uploaded.
//!
//! Any process may end any segment at any time without losing a job: the writer's next append fails, and the writer commits its
//! jobs to another segment. So reapers need no leader, and a process that is only slow or cut off loses nothing either.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fate::Fates;
use crate::broker::{BrokerError, End, Inbox, Listing, Tail};
use crate::context::PipelineContext;
use crate::log_throttle::LogThrottle;
use crate::segment::{SegmentId, SegmentName};

/// How often the segments of the broker are listed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Listing takes at most one part in so many of the time.
const SWEEP_PART: u32 = 20;
/// A process that does not respond in so many successive sweeps has exited, hangs, or is cut off.
const SILENT_SWEEPS_MAX: u32 = 3;

static FAILED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// Looks for segments without a writer.
pub(super) struct Reaper {
    fates: Fates,
    context: PipelineContext,
    /// The ends of segments that need nothing, as long as they stay in the broker.
    settled: HashMap<SegmentId, End>,
    /// Segments whose process did not respond, and how often.
    silent: HashMap<SegmentId, u32>,
    /// The processes that did not respond in this sweep.
    silent_now: Vec<Inbox>,
}

impl Reaper {
    pub(super) fn new(fates: Fates, context: PipelineContext) -> Self {
        Self { fates, context, settled: HashMap::new(), silent: HashMap::new(), silent_now: Vec::new() }
    }

    pub(super) async fn run(mut self) {
        let mut took = Duration::ZERO;
        loop {
            let interval = SWEEP_INTERVAL.max(took * SWEEP_PART);
            // The workers of a fleet list at different times.
            sleep(interval.mul_f64(0.5 + fastrand::f64())).await;
            let began = Instant::now();
            let listing = self.fates.broker.list().await;
            took = began.elapsed();
            let swept = match listing {
                Ok(listing) => self.sweep(listing).await,
                Err(error) => Err(error),
            };
            if let Err(error) = swept
                && let Some(suppressed) = FAILED.permit()
            {
                tracing::warn!(%error, suppressed, "cannot look for segments of exited processes in the broker; will retry");
            }
        }
    }

    async fn sweep(&mut self, listing: Listing) -> Result<(), BrokerError> {
        self.silent_now.clear();
        let present: HashSet<_> = listing.segments.iter().map(|(name, _)| name.id).collect();
        self.settled.retain(|id, _| present.contains(id));
        self.silent.retain(|id, _| present.contains(id));
        let mut swept = Ok(());
        for (name, messages) in listing.segments {
            let is_settled = match self.settled.get(&name.id) {
                Some(End::Damaged) => true,
                // Only the end is left. Frames that were removed can come back with a server that was killed.
                Some(_) => messages == 1,
                None => false,
            };
            if is_settled || listing.queued.contains(&name.id) || self.context.spool.owns(name.id) {
                continue;
            }
            // One segment that fails does not keep the others waiting.
            swept = self.examine(name, messages).await.and(swept);
        }
        swept
    }

    /// Adds a segment to the work queue if it is sealed, or if its process has exited.
    async fn examine(&mut self, name: SegmentName, messages: usize) -> Result<(), BrokerError> {
        let Some(tail) = self.fates.broker.tail_of(name).await? else { return Ok(()) };
        let (committed, inbox) = match tail.end {
            Some(End::Sealed) if tail.committed.jobs > 0 => (tail.committed, tail.inbox),
            Some(end) => {
                // Frames of a stored segment, or parts of one that is not whole.
                if end != End::Damaged && messages > 1 {
                    self.fates.broker.purge(name, 1).await?;
                }
                self.settled.insert(name.id, end);
                return Ok(());
            }
            None if self.has_writer(name, &tail).await => return Ok(()),
            // Its end has expired, and frames have come back.
            None if tail.committed.jobs > 0 && self.fates.is_stored(name, tail.committed.jobs).await? => {
                return self.fates.broker.purge(name, 0).await;
            }
            None => match self.fates.broker.end(name).await? {
                (committed, End::Sealed, inbox) if committed.jobs > 0 => (committed, inbox),
                _ => return Ok(()),
            },
        };
        self.fates.broker.enqueue(SegmentName { committed: Some(committed), ..name }, inbox.as_ref(), true).await?;
        self.silent.remove(&name.id);
        self.context.metrics.segments_adopted.inc();
        tracing::info!(segment = %name.id, jobs = committed.jobs, "sealed a segment whose process does not respond or has lost it");
        Ok(())
    }

    async fn has_writer(&mut self, name: SegmentName, tail: &Tail) -> bool {
        let Some(inbox) = &tail.inbox else { return false };
        // A process that does not respond is asked once in a sweep.
        let is_silent = self.silent_now.iter().any(|silent| silent == inbox);
        let response = if is_silent { None } else { self.fates.broker.ask_owner(inbox, name).await };
        match response {
            Some(is_owner) => is_owner,
            None => {
                if !is_silent {
                    self.silent_now.push(inbox.clone());
                }
                let sweeps = self.silent.entry(name.id).or_default();
                *sweeps += 1;
                *sweeps < SILENT_SWEEPS_MAX
            }
        }
    }
}
