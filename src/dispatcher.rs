//! Drains the queue, packs what waits into frames, commits each to the open segment, acknowledges its jobs, and seals the
//! segment when it is full or old enough.
//!
//! Compressing blocks, so [`Dispatcher::run`] belongs on a thread of its own.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::sleep_until;

use crate::config::ObjectSettings;
use crate::metrics::{Metrics, SealReason};
use crate::queue::{Job, JobReceiver};
use crate::segment::FrameEncoder;
use crate::spool::{Backlog, OpenSegment};

/// Jobs are taken out of the queue by so many at most.
const DRAIN_MAX_JOBS: usize = 1024;
/// A frame is closed when it holds this many bytes of lines: enough for the codec to do well, little beside an object.
const FRAME_MAX_BYTES: usize = 512 * 1024;

/// The one that drains the queue.
pub struct Dispatcher {
    queue: JobReceiver,
    /// Taken out of the queue and not packed yet.
    drained: Vec<Job>,
    encoder: FrameEncoder,
    limits: ObjectSettings,
    backlog: Arc<Backlog>,
    metrics: Arc<Metrics>,
}

impl Dispatcher {
    /// A dispatcher between `queue` and `backlog`.
    ///
    /// # Errors
    /// When the codec cannot be set up.
    pub fn new(
        queue: JobReceiver,
        limits: ObjectSettings,
        backlog: Arc<Backlog>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let encoder = FrameEncoder::new(limits.compression)?;
        Ok(Self { queue, drained: Vec::new(), encoder, limits, backlog, metrics })
    }

    /// Runs until the queue is closed and all that was in it is in sealed segments; then closes the backlog.
    ///
    /// # Errors
    /// When the codec fails.
    pub async fn run(mut self) -> io::Result<()> {
        let backlog = Arc::clone(&self.backlog);
        loop {
            // A segment that is open has a place to be sealed into; without a place, no job is taken.
            let slot = backlog.slot().await;
            if !self.drain().await {
                break;
            }
            let mut segment = OpenSegment::open(SystemTime::now(), self.limits.max_bytes);
            let reason = self.fill(&mut segment).await?;
            let sealed = segment.seal();
            self.metrics.sealed(reason);
            self.metrics.segment_bytes.observe(sealed.body.len() as f64);
            self.metrics.segment_age_seconds.observe(sealed.age.as_secs_f64());
            slot.fill(sealed);
        }
        backlog.close();
        Ok(())
    }

    /// Waits until there are jobs to pack; false when the queue is closed and empty.
    async fn drain(&mut self) -> bool {
        !self.drained.is_empty() || self.queue.recv_many(&mut self.drained, DRAIN_MAX_JOBS).await > 0
    }

    /// Commits jobs to `segment` until it has to be sealed.
    async fn fill(&mut self, segment: &mut OpenSegment) -> io::Result<SealReason> {
        let deadline = segment.opened() + self.limits.max_age;
        loop {
            while !self.drained.is_empty() {
                self.commit(segment)?;
                if segment.len() >= self.limits.max_bytes {
                    return Ok(SealReason::Size);
                }
            }
            tokio::select! {
                // Due is due, also while jobs keep coming.
                biased;
                () = sleep_until(deadline) => return Ok(SealReason::Age),
                more = self.drain() => if !more {
                    return Ok(SealReason::Shutdown);
                }
            }
        }
    }

    /// Packs the first of the drained jobs as one frame, commits it, and acknowledges them.
    fn commit(&mut self, segment: &mut OpenSegment) -> io::Result<()> {
        let count = frame_jobs(&self.drained);
        let batch = self.drained.get(..count).unwrap_or_default();
        let payloads = batch.iter().map(|job| u64::from(job.lines.payloads)).sum();
        let lines = batch.iter().map(|job| job.lines.bytes.as_slice());
        let encoder = &mut self.encoder;
        segment.commit(count as u64, payloads, |out| encoder.pack(lines, out))?;
        self.metrics.frame_jobs.observe(count as f64);
        self.queue.drained(count);
        self.drained.drain(..count).for_each(Job::packed);
        Ok(())
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
