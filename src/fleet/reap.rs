//! Ends the segments of processes that have exited, so that they are uploaded.
//!
//! Any process may end any segment at any time without losing a job: the writer's next append fails, and the writer commits its
//! jobs to another segment. So reapers need no leader, and a process that is only slow or cut off loses nothing either.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fate::Fates;
use crate::broker::{BrokerError, End, Inbox, ListedSegment, Tail};
use crate::context::PipelineContext;
use crate::log_throttle::LogThrottle;
use crate::segment::{SegmentId, SegmentName};

/// How often the segments of the broker are listed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Listing takes at most one part in so many of the time.
const SWEEP_PART: u32 = 20;
/// A process that does not respond in so many successive sweeps has exited, hangs, or is cut off.
const SILENT_SWEEPS_MAX: u32 = 3;
/// Segments that need nothing and that are remembered, at 32 bytes each. More are looked up in each sweep.
const SETTLED_MAX: usize = 200_000;
/// Segments whose processes do not respond and that are counted at a time.
const SILENT_MAX: usize = 20_000;

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
            let (listed_in, swept) = self.sweep().await;
            took = listed_in;
            if let Err(error) = swept
                && let Some(suppressed) = FAILED.permit()
            {
                tracing::warn!(%error, suppressed, "cannot look for segments of exited processes in the broker; will retry");
            }
        }
    }

    /// Looks at all segments, one page after the other. Returns how long listing them took.
    async fn sweep(&mut self) -> (Duration, Result<(), BrokerError>) {
        self.silent_now.clear();
        let (mut took, mut swept) = (Duration::ZERO, Ok(()));
        // The greatest id of the page before.
        let (mut offset, mut after) = (0, None);
        loop {
            let began = Instant::now();
            let page = match self.fates.broker.list(offset).await {
                Ok(page) => page,
                // The time of a page that failed says nothing of the number of segments.
                Err(error) => return (took, Err(error)),
            };
            took += began.elapsed();
            let last = page.last.filter(|_| !page.is_last);
            if page.is_last || last.is_some() {
                self.forget_absent(&page.segments, after, last);
            }
            (offset, after) = (page.end, last.or(after));
            for segment in page.segments {
                // One segment that fails does not keep the others waiting.
                swept = self.look_at(segment).await.and(swept);
            }
            if page.is_last {
                tracing::debug!(segments = page.end, ?took, "listed the segments in the broker");
                return (took, swept);
            }
        }
    }

    /// Forgets what is known of segments that have left the broker or are in the work queue: those after `after`, up to `last`.
    fn forget_absent(&mut self, present: &[ListedSegment], after: Option<SegmentId>, last: Option<SegmentId>) {
        let is_kept = |id: &SegmentId| {
            let is_of_page = after.is_none_or(|after| *id > after) && last.is_none_or(|last| *id <= last);
            !is_of_page || present.binary_search_by_key(id, |segment| segment.id).is_ok()
        };
        self.settled.retain(|id, _| is_kept(id));
        self.silent.retain(|id, _| is_kept(id));
    }

    async fn look_at(&mut self, segment: ListedSegment) -> Result<(), BrokerError> {
        let ListedSegment { id, compression, messages } = segment;
        let is_settled = match self.settled.get(&id) {
            Some(End::Damaged) => true,
            // Only the end is left. Frames that were removed can come back with a server that was killed.
            Some(_) => messages == 1,
            None => false,
        };
        if is_settled || self.context.spool.owns(id) {
            return Ok(());
        }
        self.examine(SegmentName { id, compression, committed: None }, messages).await
    }

    /// Adds a segment to the work queue if it is sealed, or if its process has exited.
    async fn examine(&mut self, name: SegmentName, messages: u32) -> Result<(), BrokerError> {
        let Some(tail) = self.fates.broker.tail_of(name).await? else { return Ok(()) };
        let (committed, inbox) = match tail.end {
            Some(end) if end != End::Sealed || tail.committed.jobs == 0 => {
                // Frames of a stored segment, or parts of one that is not whole.
                if end != End::Damaged && messages > 1 {
                    self.fates.broker.purge(name, 1).await?;
                }
                if self.settled.len() < SETTLED_MAX {
                    self.settled.insert(name.id, end);
                }
                return Ok(());
            }
            None if self.has_writer(name, &tail).await => return Ok(()),
            // The list of a queue that shrinks lacks segments of its second page and the next ones.
            _ if self.fates.broker.is_queued(name.id).await? => return Ok(()),
            Some(_) => (tail.committed, tail.inbox),
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
            Some(is_owner) => {
                self.silent.remove(&name.id);
                is_owner
            }
            None => {
                if !is_silent {
                    self.silent_now.push(inbox.clone());
                }
                // Others wait until segments of these processes are sealed.
                if self.silent.len() >= SILENT_MAX && !self.silent.contains_key(&name.id) {
                    return true;
                }
                let sweeps = self.silent.entry(name.id).or_default();
                *sweeps += 1;
                *sweeps < SILENT_SWEEPS_MAX
            }
        }
    }
}
