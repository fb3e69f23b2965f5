//! Drains the queue, packs jobs into frames, commits each frame to the open segment, acknowledges its jobs, and seals the
//! segment when it is full, old enough or waited for.
//!
//! Compressing and syncing block, so [`Dispatcher::run`] needs a thread of its own.

mod linger;
mod packers;

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::config::ObjectSettings;
use crate::context::PipelineContext;
use crate::metrics::SealReason;
use crate::queue::{Acknowledgement, Job, JobReceiver, Receipt};
use crate::segment::{FRAME_MAX_BYTES, FrameEncoder};
use crate::spool::{OpenSegment, SegmentStatus, Space, SpoolError};
use linger::{Linger, LingerPolicy};
use packers::{Packers, Part};

/// The most jobs that are received from the queue at once.
const DRAIN_MAX_JOBS: usize = 1024;
/// A segment is sealed at the latest when it holds the spool's bytes divided by this, so that one can be uploaded while
/// others are filled.
const SPOOL_PART: usize = 4;
/// A segment has at least this many frames that are packed in parts, so that the last one exceeds its size by little.
const FRAMES_MIN: usize = 8;
/// The interval between probes of a spool that fails.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The consumer of the queue.
pub struct Dispatcher {
    queue: JobReceiver,
    /// Received from the queue and not packed yet.
    drained: Vec<Job>,
    encoder: FrameEncoder,
    packers: Packers,
    limits: ObjectSettings,
    context: PipelineContext,
    /// The runtime of the handlers.
    handlers: Handle,
    /// Tasks that inform handlers.
    acknowledging: JoinSet<()>,
    linger_policy: LingerPolicy,
    next_probe: Instant,
    /// Jobs of a segment that another process has ended before they were committed to it.
    superseded: Vec<Part>,
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
        let handlers = Handle::current();
        let encoder = FrameEncoder::new(limits.compression)?;
        let margin = context.spool.space().map_or(usize::MAX, |space| space.margin());
        let packers = Packers::new(limits.compression, margin.min(limits.max_bytes / FRAMES_MIN), handlers.clone());
        let linger_policy = LingerPolicy::new(queue.max_jobs(), context.spool.is_durable());
        Ok(Self {
            queue,
            drained: Vec::new(),
            encoder,
            packers,
            limits,
            context,
            handlers,
            acknowledging: JoinSet::new(),
            linger_policy,
            next_probe: Instant::now(),
            superseded: Vec::new(),
            last_early_seal: None,
        })
    }

    /// Runs until the queue is closed and all of its jobs are in sealed segments. Then closes the backlog. A panic of a task
    /// that packs is one of the dispatcher.
    pub async fn run(mut self) {
        let dispatched = self.dispatch().await;
        self.context.backlog.close();
        while self.acknowledging.join_next().await.is_some() {}
        if let Some(panic) = dispatched.err().and_then(|error| error.try_into_panic().ok()) {
            resume_unwind(panic);
        }
    }

    async fn dispatch(&mut self) -> Result<(), JoinError> {
        let context = self.context.clone();
        loop {
            // With the slot, a segment that is opened can be sealed. Without one, no job is taken. Segments in the broker wait
            // in its work queue.
            let slot = match context.spool.broker() {
                Some(_) => None,
                None => Some(context.backlog.slot().await),
            };
            if !self.drain().await {
                return Ok(());
            }
            let mut segment = match context.spool.open(SystemTime::now(), self.limits.max_bytes) {
                Ok(segment) => segment,
                Err(error) => {
                    let mut parts = std::mem::take(&mut self.superseded);
                    parts.extend(self.packers.take().await?);
                    parts.push(Part::of(std::mem::take(&mut self.drained)));
                    self.reject(parts, &error);
                    continue;
                }
            };
            let filled = self.fill(&mut segment).await;
            if !segment.is_empty() {
                if let Ok(reason) = &filled {
                    context.metrics.sealed(*reason);
                }
                context.metrics.segment_bytes.observe(segment.len() as f64);
                context.metrics.segment_age_seconds.observe(segment.opened.elapsed().as_secs_f64());
            }
            if let Some(sealed) = context.spool.seal(segment)
                && let Some(slot) = slot
            {
                slot.fill(sealed);
            }
            filled?;
        }
    }

    /// Waits until there are jobs to pack. Returns false when the queue is closed and empty.
    async fn drain(&mut self) -> bool {
        if !self.superseded.is_empty() || !self.drained.is_empty() || self.packers.is_active() {
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
    async fn fill(&mut self, segment: &mut OpenSegment) -> Result<SealReason, JoinError> {
        let mut due = Due { at: segment.opened + self.limits.max_age, reason: SealReason::Age };
        let shutdown = self.context.shutdown.clone();
        loop {
            // A frame that is being packed does not become larger.
            if !self.packers.is_active() {
                self.linger();
            }
            tokio::select! {
                // The deadline first, so that arriving jobs cannot postpone it.
                biased;
                () = sleep_until(due.at) => {
                    if due.reason == SealReason::Urgent {
                        self.last_early_seal = Some(Instant::now());
                    }
                    return Ok(due.reason);
                }
                () = shutdown.intake_stopped(), if due.reason != SealReason::Shutdown => {
                    // Batches that were being received may still follow.
                    due = Due { at: due.at.min(Instant::now() + self.limits.stored_linger), reason: SealReason::Shutdown };
                    continue;
                }
                more = self.drain() => if !more {
                    return Ok(SealReason::Shutdown);
                }
            }
            let parts = self.next_frame().await?;
            let early = self.early_seal();
            // During an outage of the store an early seal gains nothing and makes a small object.
            let is_useful =
                early < due.at && due.reason != SealReason::Shutdown && self.context.health.store_outage().is_none();
            if is_useful && parts.iter().flat_map(|part| &part.jobs).any(|job| job.is_urgent) {
                due = Due { at: early, reason: SealReason::Urgent };
            }
            match self.commit(segment, parts).await {
                Ok(()) => {}
                Err((parts, SpoolError::Superseded)) => {
                    self.superseded = parts;
                    return Ok(SealReason::Fault);
                }
                Err((parts, error)) => {
                    self.reject(parts, &error);
                    return Ok(SealReason::Fault);
                }
            }
            if segment.len() >= self.limits.max_bytes {
                return Ok(SealReason::Size);
            }
            if self.frees_space(segment) {
                return Ok(SealReason::SpoolFull);
            }
        }
    }

    /// The parts of the next frame: those that tasks have packed, or one of the drained jobs if these are few.
    async fn next_frame(&mut self) -> Result<Vec<Part>, JoinError> {
        if !self.superseded.is_empty() {
            return Ok(std::mem::take(&mut self.superseded));
        }
        self.drain_more();
        if !self.packers.is_active() {
            self.packers.submit(&mut self.drained);
        }
        if !self.packers.is_active() {
            return Ok(vec![Part::first_of(&mut self.drained, FRAME_MAX_BYTES)]);
        }
        let parts = self.packers.take().await?;
        // The next frame is packed while this one is committed.
        self.drain_more();
        self.packers.submit(&mut self.drained);
        Ok(parts)
    }

    /// Receives the jobs that have been queued meanwhile.
    fn drain_more(&mut self) {
        self.queue.try_recv_many(&mut self.drained, DRAIN_MAX_JOBS);
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
        let Some(Linger { batch_target, until }) = self.linger_policy.linger() else { return };
        let half = until.saturating_duration_since(std::time::Instant::now()) / 2;
        // A full frame gains nothing from more jobs.
        if half.is_zero() || self.queue.depth.now().1 >= FRAME_MAX_BYTES || self.queue.linger(batch_target, half) {
            return;
        }
        let before = self.queue.depth.now().0;
        if !self.queue.linger(batch_target, half) && self.queue.depth.now().0 <= before {
            self.linger_policy.target_missed();
        }
    }

    /// Commits a frame, and acknowledges its jobs. Packs what is not packed yet.
    async fn commit(&mut self, segment: &mut OpenSegment, parts: Vec<Part>) -> Result<(), (Vec<Part>, SpoolError)> {
        let began = Instant::now();
        let jobs = || parts.iter().flat_map(|part| &part.jobs);
        let longest_wait = jobs().next().map(|job| began.into_std().saturating_duration_since(job.queued_at));
        let count = jobs().count();
        let payloads = jobs().map(|job| job.lines.payloads).sum();
        let span = self.context.tracer.as_ref().and_then(|tracer| tracer.commit(jobs().filter_map(Job::trace)));
        let encoder = &mut self.encoder;
        let append = |out: &mut Vec<u8>| parts.iter().try_for_each(|part| part.append(encoder, out));
        let first = match segment.commit(count as u32, payloads, append).await {
            Ok(first) => first,
            Err(error) => return Err((parts, error)),
        };
        if let Some(span) = span {
            span.committed(segment.status.id(), &mut segment.trace, count, payloads);
        }
        let PipelineContext { health, metrics, .. } = &self.context;
        // Before the acknowledgement, so that a tenant never has more on disk than it is charged for.
        let sizes = parts.iter().flat_map(|part| part.sizes.iter().copied());
        segment.charge_tenants(jobs().map(Job::spool_share).zip(sizes));
        // Before the jobs can be stored.
        let (accepted_jobs, accepted_payloads) = jobs()
            .filter(|job| job.is_accepted_by_commit())
            .fold((0, 0), |(count, sum), job| (count + 1, sum + u64::from(job.lines.payloads)));
        metrics.ledger.accepted(accepted_jobs, accepted_payloads);
        metrics.frame_jobs.observe(count as f64);
        metrics.queue_wait_seconds.observe(longest_wait.unwrap_or_default().as_secs_f64());
        let took = began.elapsed();
        metrics.commit_seconds.observe(took.as_secs_f64());
        health.spool_succeeded();
        self.queue.record_drained(count);
        self.linger_policy.committed(count, began.into(), took);
        self.acknowledge(parts, &segment.status, first);
        Ok(())
    }

    /// Acknowledges the jobs of a committed frame, of which the first has the index `first`.
    fn acknowledge(&mut self, parts: Vec<Part>, segment: &Arc<SegmentStatus>, first: u32) {
        let jobs = parts.into_iter().flat_map(|part| part.jobs).zip(first..);
        let committed =
            jobs.filter_map(|(job, index)| job.committed(|| Receipt { segment: Arc::clone(segment), index }));
        let acknowledgements: Vec<_> = committed.collect();
        while self.acknowledging.try_join_next().is_some() {}
        if !acknowledgements.is_empty() {
            // In the runtime of the handlers, whose tasks wake each other without locks and system calls.
            let send = async { acknowledgements.into_iter().for_each(Acknowledgement::send) };
            self.acknowledging.spawn_on(send, &self.handlers);
        }
    }

    /// Rejects the jobs of `parts`.
    fn reject(&mut self, parts: Vec<Part>, error: &SpoolError) {
        self.context.metrics.commit_failures.inc();
        self.context.health.spool_failed(error);
        parts.into_iter().flat_map(|part| part.jobs).for_each(|job| job.reject(error.clone()));
    }
}
