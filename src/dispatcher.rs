//! Drains the queue, packs what waits into frames, commits each to the open segment, acknowledges its jobs, and seals the
//! segment when it is full, old enough or waited for.
//!
//! Compressing and syncing block, so [`Dispatcher::run`] belongs on a thread of its own.

mod pace;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::config::ObjectSettings;
use crate::metrics::SealReason;
use crate::pipeline::PipelineContext;
use crate::queue::{Job, JobReceiver, Receipt};
use crate::segment::{FRAME_MAX_BYTES, FrameEncoder};
use crate::spool::{OpenSegment, Space, SpoolError};
use pace::Pace;

/// Jobs are taken out of the queue by so many at most.
const DRAIN_MAX_JOBS: usize = 1024;
/// A segment is sealed at this share of the spool's bytes at the latest, so that one can be uploaded while others are filled.
const SPOOL_SHARE: usize = 4;
/// A spool that fails is tried so often.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The one that drains the queue.
pub struct Dispatcher {
    queue: JobReceiver,
    /// Taken out of the queue and not packed yet.
    drained: Vec<Job>,
    encoder: FrameEncoder,
    limits: ObjectSettings,
    context: PipelineContext,
    pace: Pace,
    next_probe: Instant,
    /// When a segment was last sealed because a job waited for that.
    last_early_seal: Option<Instant>,
}

/// When the open segment is to be sealed, and why.
#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    reason: SealReason,
}

impl Dispatcher {
    /// A dispatcher between `queue` and `context`.
    ///
    /// # Errors
    /// When the codec cannot be set up.
    pub fn new(queue: JobReceiver, mut limits: ObjectSettings, context: PipelineContext) -> io::Result<Self> {
        if let Some(space) = context.spool.space() {
            limits.max_bytes = limits.max_bytes.min((space.most() / SPOOL_SHARE).max(1));
        }
        let encoder = FrameEncoder::new(limits.compression)?;
        let pace = Pace::new(queue.max_jobs());
        let next_probe = Instant::now();
        Ok(Self { queue, drained: Vec::new(), encoder, limits, context, pace, next_probe, last_early_seal: None })
    }

    /// Runs until the queue is closed and all that was in it is in sealed segments; then closes the backlog.
    pub async fn run(mut self) {
        let context = self.context.clone();
        loop {
            // A segment that is open has a place to be sealed into; without a place, no job is taken.
            let slot = context.backlog.slot().await;
            if !self.drain().await {
                break;
            }
            let mut segment = match context.spool.open(SystemTime::now(), self.limits.max_bytes) {
                Ok(segment) => segment,
                Err(error) => {
                    self.refuse_all(&error);
                    continue;
                }
            };
            let reason = self.fill(&mut segment).await;
            if segment.is_empty() {
                context.spool.discard(segment);
                continue;
            }
            let sealed = segment.seal();
            context.metrics.sealed(reason);
            context.metrics.segment_bytes.observe(sealed.len as f64);
            context.metrics.segment_age_seconds.observe(sealed.age.unwrap_or_default().as_secs_f64());
            slot.fill(sealed);
        }
        context.backlog.close();
    }

    /// Waits until there are jobs to pack; false when the queue is closed and empty.
    async fn drain(&mut self) -> bool {
        if !self.drained.is_empty() {
            return true;
        }
        loop {
            let failing = self.context.health.spool_outage().is_some();
            tokio::select! {
                biased;
                // Also while nobody sends: a load balancer that has heard of the trouble keeps away until it is over.
                () = sleep_until(self.next_probe), if failing => {
                    self.next_probe = Instant::now() + PROBE_INTERVAL;
                    match self.context.spool.probe() {
                        Ok(()) => self.context.health.spool_succeeded(),
                        Err(error) => self.context.health.spool_failed(&error),
                    }
                }
                taken = self.queue.recv_many(&mut self.drained, DRAIN_MAX_JOBS) => return taken > 0,
            }
        }
    }

    /// Commits jobs to `segment` until it has to be sealed.
    async fn fill(&mut self, segment: &mut OpenSegment) -> SealReason {
        let mut due = Due { at: segment.opened() + self.limits.max_age, reason: SealReason::Age };
        loop {
            while !self.drained.is_empty() {
                let count = frame_jobs(&self.drained);
                let early = self.early_seal();
                // While the store is away nobody sees anything stored, and small objects would only pile up.
                let is_worth_it = early < due.at && self.context.health.store_outage().is_none();
                if is_worth_it && self.drained.iter().take(count).any(|job| job.is_urgent) {
                    due = Due { at: early, reason: SealReason::Urgent };
                }
                if let Err(error) = self.commit(segment, count) {
                    self.refuse(count, &error);
                    return SealReason::Fault;
                }
                if segment.len() >= self.limits.max_bytes {
                    return SealReason::Size;
                }
                if self.makes_room(segment) {
                    return SealReason::SpoolFull;
                }
            }
            self.rest();
            tokio::select! {
                // Due is due, also while jobs keep coming.
                biased;
                () = sleep_until(due.at) => {
                    if due.reason == SealReason::Urgent {
                        self.last_early_seal = Some(Instant::now());
                    }
                    return due.reason;
                }
                more = self.drain() => if !more {
                    return SealReason::Shutdown;
                }
            }
        }
    }

    /// Whether the spool is nearly full, so that batches are refused from now on, and to store this segment makes room. A
    /// segment that is smaller than what is missing makes none, and neither does any while the store is away.
    fn makes_room(&self, segment: &OpenSegment) -> bool {
        let is_worth_it = |space: &Arc<Space>| space.is_nearly_full() && segment.len() >= space.margin();
        self.context.spool.space().is_some_and(is_worth_it) && self.context.health.store_outage().is_none()
    }

    /// When a segment may be sealed for the sake of a job that has just come: senders that wait until their jobs are stored,
    /// however many, do not make more than one small object in `STORED_INTERVAL`.
    fn early_seal(&self) -> Instant {
        let linger = Instant::now() + self.limits.stored_linger;
        self.last_early_seal.map_or(linger, |last| linger.max(last + self.limits.stored_interval))
    }

    /// Lets jobs gather for the next commit, while that pays. Blocks.
    fn rest(&mut self) {
        let Some(crowd) = self.pace.crowd() else { return };
        for _ in 0..pace::SLICES_MAX {
            let (before, bytes) = self.queue.waiting();
            // With a whole frame waiting there is nothing to gather for.
            if bytes >= FRAME_MAX_BYTES || self.queue.gather(crowd, pace::SLICE) {
                return;
            }
            if self.queue.waiting().0 <= before {
                return self.pace.was_quiet();
            }
        }
    }

    /// Packs the first `count` of the drained jobs as one frame, commits it, and acknowledges them.
    fn commit(&mut self, segment: &mut OpenSegment, count: usize) -> Result<(), SpoolError> {
        let began = Instant::now();
        let PipelineContext { health, metrics, .. } = &self.context;
        let batch = self.drained.get(..count).unwrap_or_default();
        let payloads = batch.iter().map(|job| job.lines.payloads).sum();
        let lines = batch.iter().map(|job| job.lines.bytes.as_slice());
        let encoder = &mut self.encoder;
        let first = segment.commit(count as u32, payloads, |out| encoder.pack(lines, out))?;
        // Before it is acknowledged, so that a sender never has more on disk than it is charged.
        segment.pass_on(batch.iter().map(|job| (job.spool_share(), job.lines.bytes.len())));
        // Before it can be stored.
        let (jobs, accepted) = batch
            .iter()
            .filter(|job| job.is_accepted_by_commit())
            .fold((0, 0), |(jobs, sum), job| (jobs + 1, sum + u64::from(job.lines.payloads)));
        metrics.ledger.accepted(jobs, accepted);
        metrics.frame_jobs.observe(count as f64);
        metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        health.spool_succeeded();
        self.queue.record_drained(count);
        self.pace.committed(count, began.into());
        for (job, index) in self.drained.drain(..count).zip(first..) {
            job.acknowledge(|| Receipt { segment: Arc::clone(segment.status()), index });
        }
        Ok(())
    }

    fn refuse_all(&mut self, error: &SpoolError) {
        self.refuse(self.drained.len(), error);
    }

    fn refuse(&mut self, count: usize, error: &SpoolError) {
        self.context.metrics.commit_failures.inc();
        self.context.health.spool_failed(error);
        self.drained.drain(..count).for_each(|job| job.refuse(error.clone()));
    }
}

/// How many of `jobs` make one frame: at least one, and no more than fit.
fn frame_jobs(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fit = jobs.iter().take_while(|job| {
        bytes += job.lines.bytes.len();
        bytes <= FRAME_MAX_BYTES
    });
    fit.count().max(1).min(jobs.len())
}
