//! Drains the queue, packs jobs into frames, commits each frame to the open segment, acknowledges its jobs, and seals the
//! segment when it is full, old enough or waited for.
//!
//! Compressing and syncing block, so [`Dispatcher::run`] needs a thread of its own.

mod linger;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::config::ObjectSettings;
use crate::context::PipelineContext;
use crate::metrics::SealReason;
use crate::queue::{Job, JobReceiver, Receipt};
use crate::segment::{FRAME_MAX_BYTES, FrameEncoder};
use crate::spool::{OpenSegment, Space, SpoolError};
use linger::LingerPolicy;

/// The most jobs that are received from the queue at once.
const DRAIN_MAX_JOBS: usize = 1024;
/// A segment is sealed at the latest when it holds the spool's bytes divided by this, so that one can be uploaded while
/// others are filled.
const SPOOL_PART: usize = 4;
/// The interval between probes of a spool that fails.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The consumer of the queue.
pub struct Dispatcher {
    queue: JobReceiver,
    /// Received from the queue and not packed yet.
    drained: Vec<Job>,
    encoder: FrameEncoder,
    limits: ObjectSettings,
    context: PipelineContext,
    linger_policy: LingerPolicy,
    next_probe: Instant,
    /// When a segment was last sealed because a client waited for it.
    last_early_seal: Option<Instant>,
}

/// When to seal the open segment, and why.
#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    reason: SealReason,
}

impl Dispatcher {
    /// A dispatcher between `queue` and `context`.
    ///
    /// # Errors
    /// The codec cannot be set up.
    pub fn new(queue: JobReceiver, mut limits: ObjectSettings, context: PipelineContext) -> io::Result<Self> {
        if let Some(space) = context.spool.space() {
            limits.max_bytes = limits.max_bytes.min((space.max_bytes() / SPOOL_PART).max(1));
        }
        let encoder = FrameEncoder::new(limits.compression)?;
        let linger_policy = LingerPolicy::new(queue.max_jobs());
        let (drained, next_probe) = (Vec::new(), Instant::now());
        Ok(Self { queue, drained, encoder, limits, context, linger_policy, next_probe, last_early_seal: None })
    }

    /// Runs until the queue is closed and all of its jobs are in sealed segments. Then closes the backlog.
    pub async fn run(mut self) {
        let context = self.context.clone();
        loop {
            // With the slot, a segment that is opened can be sealed. Without one, no job is taken.
            let slot = context.backlog.slot().await;
            if !self.drain().await {
                break;
            }
            let mut segment = match context.spool.open(SystemTime::now(), self.limits.max_bytes) {
                Ok(segment) => segment,
                Err(error) => {
                    self.reject(self.drained.len(), &error);
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

    /// Waits until there are jobs to pack. Returns false when the queue is closed and empty.
    async fn drain(&mut self) -> bool {
        if !self.drained.is_empty() {
            return true;
        }
        loop {
            let is_failing = self.context.health.spool_outage().is_some();
            tokio::select! {
                biased;
                // Without requests too: a load balancer sends none until the probe has succeeded.
                () = sleep_until(self.next_probe), if is_failing => {
                    self.next_probe = Instant::now() + PROBE_INTERVAL;
                    match self.context.spool.probe() {
                        Ok(()) => self.context.health.spool_succeeded(),
                        Err(error) => self.context.health.spool_failed(&error),
                    }
                }
                received = self.queue.recv_many(&mut self.drained, DRAIN_MAX_JOBS) => return received > 0,
            }
        }
    }

    /// Commits jobs to `segment` until it has to be sealed.
    async fn fill(&mut self, segment: &mut OpenSegment) -> SealReason {
        let mut due = Due { at: segment.opened + self.limits.max_age, reason: SealReason::Age };
        loop {
            while !self.drained.is_empty() {
                let count = frame_jobs(&self.drained);
                let early = self.early_seal();
                // During an outage of the store an early seal gains nothing and makes a small object.
                let is_useful = early < due.at && self.context.health.store_outage().is_none();
                if is_useful && self.drained.iter().take(count).any(|job| job.is_urgent) {
                    due = Due { at: early, reason: SealReason::Urgent };
                }
                if let Err(error) = self.commit(segment, count) {
                    self.reject(count, &error);
                    return SealReason::Fault;
                }
                if segment.len() >= self.limits.max_bytes {
                    return SealReason::Size;
                }
                if self.frees_space(segment) {
                    return SealReason::SpoolFull;
                }
            }
            self.linger();
            tokio::select! {
                // The deadline first, so that arriving jobs cannot postpone it.
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

    /// Whether the spool is nearly full and storing this segment would end that.
    fn frees_space(&self, segment: &OpenSegment) -> bool {
        let is_useful = |space: &Arc<Space>| space.is_nearly_full() && segment.len() >= space.margin();
        self.context.spool.space().is_some_and(is_useful) && self.context.health.store_outage().is_none()
    }

    /// When to seal a segment early for an urgent job that has just arrived. Urgent jobs, however many, make at most one
    /// small object in `STORED_INTERVAL`.
    fn early_seal(&self) -> Instant {
        let linger = Instant::now() + self.limits.stored_linger;
        self.last_early_seal.map_or(linger, |last| linger.max(last + self.limits.stored_interval))
    }

    /// Waits for more jobs, if that makes the next commit cheaper. Blocks.
    fn linger(&mut self) {
        let Some(batch_target) = self.linger_policy.batch_target() else { return };
        for _ in 0..linger::STEPS_MAX {
            let (before, bytes) = self.queue.depth.now();
            // A full frame gains nothing from more jobs.
            if bytes >= FRAME_MAX_BYTES || self.queue.linger(batch_target, linger::STEP) {
                return;
            }
            if self.queue.depth.now().0 <= before {
                return self.linger_policy.target_missed();
            }
        }
    }

    /// Packs the first `count` drained jobs as one frame, commits it, and acknowledges them.
    fn commit(&mut self, segment: &mut OpenSegment, count: usize) -> Result<(), SpoolError> {
        let began = Instant::now();
        let PipelineContext { health, metrics, .. } = &self.context;
        let jobs = self.drained.get(..count).unwrap_or_default();
        let payloads = jobs.iter().map(|job| job.lines.payloads).sum();
        let lines = jobs.iter().map(|job| job.lines.bytes.as_slice());
        let encoder = &mut self.encoder;
        let first = segment.commit(count as u32, payloads, |out| encoder.pack(lines, out))?;
        // Before the acknowledgement, so that a tenant never has more on disk than it is charged for.
        segment.charge_tenants(jobs.iter().map(|job| (job.spool_share(), job.lines.bytes.len())));
        // Before the jobs can be stored.
        let (accepted_jobs, accepted_payloads) = jobs
            .iter()
            .filter(|job| job.is_accepted_by_commit())
            .fold((0, 0), |(count, sum), job| (count + 1, sum + u64::from(job.lines.payloads)));
        metrics.ledger.accepted(accepted_jobs, accepted_payloads);
        metrics.frame_jobs.observe(count as f64);
        metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        health.spool_succeeded();
        self.queue.record_drained(count);
        self.linger_policy.committed(count, began.into());
        for (job, index) in self.drained.drain(..count).zip(first..) {
            job.acknowledge(|| Receipt { segment: Arc::clone(&segment.status), index });
        }
        Ok(())
    }

    /// Rejects the first `count` drained jobs.
    fn reject(&mut self, count: usize, error: &SpoolError) {
        self.context.metrics.commit_failures.inc();
        self.context.health.spool_failed(error);
        self.drained.drain(..count).for_each(|job| job.reject(error.clone()));
    }
}

/// How many of `jobs` fit into one frame: at least one, unless there are none.
fn frame_jobs(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let fit = jobs.iter().take_while(|job| {
        bytes += job.lines.bytes.len();
        bytes <= FRAME_MAX_BYTES
    });
    fit.count().max(1).min(jobs.len())
}
