//! Packing the parts of a frame beside each other, on the threads of the handlers.
//!
//! Packing is most of the dispatcher's work. While few jobs are queued, it packs them itself: handing them over would cost
//! more than it saves. From [`PARALLEL_MIN_BYTES`] on, tasks pack the next frame in parts while the dispatcher commits the
//! one before, so that its thread is not the limit of a machine with many cores. Parts keep the order of their jobs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::{io, vec};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::cores::cores;
use crate::queue::Job;
use crate::segment::{Compression, FrameEncoder};

/// With at least this many bytes of lines to pack, tasks pack them.
const PARALLEL_MIN_BYTES: usize = 128 * 1024;
/// The size of a part: smaller ones compress less. Packing it takes a fraction of a millisecond, in which its thread runs no
/// handler.
const PART_BYTES: usize = 64 * 1024;
/// A job with more lines is packed on a thread that may block: it would delay the handlers.
const LARGE_JOB_BYTES: usize = 4 * PART_BYTES;
/// The parts for each core: these delay the handlers by a millisecond at most.
const PARTS_PER_CORE: usize = 4;
/// The most lines in a frame that is packed in parts, unless one job has more.
const PARALLEL_MAX_BYTES: usize = 4 << 20;
/// Telemetry compresses to about one part in this many.
const USUAL_RATIO: usize = 4;

/// Jobs that are compressed together: one gzip member or zstd frame.
pub(super) struct Part {
    /// Without their lines if these are packed.
    pub(super) jobs: Vec<Job>,
    /// The sizes of the lines of each job.
    pub(super) sizes: Vec<usize>,
    /// Their packed lines; none if they are not packed yet.
    data: Option<Vec<u8>>,
}

impl Part {
    /// All of `jobs`.
    pub(super) fn of(jobs: Vec<Job>) -> Self {
        let sizes = jobs.iter().map(|job| job.lines.bytes.len()).collect();
        Self { jobs, sizes, data: None }
    }

    /// The first of `jobs`, at least one, whose lines have at most `max_bytes`.
    fn next(jobs: &mut vec::IntoIter<Job>, max_bytes: usize) -> Self {
        let mut bytes = 0;
        let fit = jobs.as_slice().iter().take_while(|job| {
            bytes += job.lines.bytes.len();
            bytes <= max_bytes
        });
        let count = fit.count().max(1);
        Self::of(jobs.by_ref().take(count).collect())
    }

    /// Takes the first of `jobs`, at least one, whose lines have at most `max_bytes`.
    pub(super) fn first_of(jobs: &mut Vec<Job>, max_bytes: usize) -> Self {
        let mut rest = std::mem::take(jobs).into_iter();
        let part = Self::next(&mut rest, max_bytes);
        *jobs = rest.collect();
        part
    }

    /// Appends the packed lines to `out`, and packs them first if they are not packed yet.
    pub(super) fn append(&self, encoder: &mut FrameEncoder, out: &mut Vec<u8>) -> io::Result<()> {
        match &self.data {
            Some(data) => out.extend_from_slice(data),
            None => encoder.pack(self.lines(), out)?,
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().sum()
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.jobs.iter().map(|job| job.lines.bytes.as_slice())
    }

    /// Packs the lines and frees them. If the codec fails, the part stays as it is, and the dispatcher gets the error.
    fn pack(&mut self, encoder: &mut FrameEncoder) {
        let mut data = Vec::with_capacity(self.bytes() / USUAL_RATIO);
        if encoder.pack(self.lines(), &mut data).is_ok() {
            self.data = Some(data);
            self.jobs.iter_mut().for_each(|job| drop(std::mem::take(&mut job.lines.bytes)));
        }
    }
}

/// The parts of the next frame, which are being packed.
pub(super) struct Packers {
    compression: Compression,
    /// The runtime of the handlers.
    runtime: Handle,
    /// The most lines in a frame, unless one job has more; 0 if nothing is packed here.
    max_bytes: usize,
    pending: VecDeque<AbortOnDropHandle<Part>>,
    /// Encoders that are not in use: at most one for each part that was packed at the same time.
    idle: Arc<Mutex<Vec<FrameEncoder>>>,
}

impl Packers {
    /// For frames of at most `max_bytes` of lines, unless one job has more.
    pub(super) fn new(compression: Compression, max_bytes: usize, runtime: Handle) -> Self {
        let cores = cores();
        let max_bytes = max_bytes.min(PARALLEL_MAX_BYTES).min(cores * PARTS_PER_CORE * PART_BYTES);
        // With one core, or for small segments, the dispatcher packs alone.
        let max_bytes = if cores > 1 && max_bytes >= PARALLEL_MIN_BYTES { max_bytes } else { 0 };
        Self { compression, runtime, max_bytes, pending: VecDeque::new(), idle: Arc::default() }
    }

    /// Whether a frame is being packed.
    pub(super) fn is_active(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Begins to pack the first of `jobs`, if they are many.
    pub(super) fn submit(&mut self, jobs: &mut Vec<Job>) {
        let bytes: usize = jobs.iter().map(|job| job.lines.bytes.len()).sum();
        if bytes < PARALLEL_MIN_BYTES || self.max_bytes == 0 {
            return;
        }
        let mut left = self.max_bytes;
        let mut rest = std::mem::take(jobs).into_iter();
        while rest.as_slice().first().is_some_and(|job| job.lines.bytes.len() <= left || !self.is_active()) {
            let part = Part::next(&mut rest, PART_BYTES.min(left));
            left = left.saturating_sub(part.bytes());
            self.pending.push_back(self.pack(part));
            if left == 0 {
                break;
            }
        }
        *jobs = rest.collect();
    }

    fn pack(&self, mut part: Part) -> AbortOnDropHandle<Part> {
        let (idle, compression) = (Arc::clone(&self.idle), self.compression);
        let is_large = part.bytes() > LARGE_JOB_BYTES;
        let pack = move || {
            let encoder = idle.lock().pop().map_or_else(|| FrameEncoder::new(compression), Ok);
            if let Ok(mut encoder) = encoder {
                part.pack(&mut encoder);
                idle.lock().push(encoder);
            }
            part
        };
        AbortOnDropHandle::new(match is_large {
            true => self.runtime.spawn_blocking(pack),
            false => self.runtime.spawn(async { pack() }),
        })
    }

    /// Waits for the submitted parts, and returns them in order.
    ///
    /// # Errors
    /// Packing panicked, or the runtime is shutting down. The jobs of all parts are dropped.
    pub(super) async fn take(&mut self) -> Result<Vec<Part>, JoinError> {
        let mut parts = Vec::with_capacity(self.pending.len());
        for pending in self.pending.drain(..) {
            parts.push(pending.await?);
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::decode::Lines;
    use crate::inflate::{Encoding, inflate};
    use crate::queue::queue;

    /// Queued jobs, each with `bytes` of lines that say its number.
    fn jobs(count: usize, bytes: usize) -> Vec<Job> {
        let (queue, mut receiver) = queue(count, count * bytes, Arc::default());
        for number in 0..count {
            let mut lines = number.to_string().into_bytes();
            lines.resize(bytes, b' ');
            queue.try_push(Lines { bytes: lines, payloads: 1 }, queue.reserve(None)).unwrap();
        }
        let mut jobs = Vec::new();
        receiver.try_recv_many(&mut jobs, count);
        jobs
    }

    fn packers() -> Packers {
        let max_bytes = PARALLEL_MAX_BYTES;
        Packers { max_bytes, ..Packers::new(Compression::Gzip, usize::MAX, Handle::current()) }
    }

    #[tokio::test]
    async fn few_jobs_are_left_to_the_dispatcher() {
        let mut packers = packers();
        let mut few = jobs(127, 1024);
        packers.submit(&mut few);
        assert_eq!((few.len(), packers.is_active()), (127, false));
        let mut enough = jobs(128, 1024);
        packers.submit(&mut enough);
        assert_eq!((enough.len(), packers.is_active()), (0, true));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parts_keep_the_order_of_their_jobs() {
        let mut packers = packers();
        let mut jobs = jobs(300, 1024);
        let expected: Vec<u8> = jobs.iter().flat_map(|job| job.lines.bytes.clone()).collect();
        packers.submit(&mut jobs);
        assert!(jobs.is_empty() && packers.is_active());
        let parts = packers.take().await.unwrap();
        assert_eq!(parts.len(), 5, "of 64 KiB at most");
        let mut encoder = FrameEncoder::new(Compression::Gzip).unwrap();
        let mut inflated = Vec::new();
        for part in &parts {
            let mut data = Vec::new();
            part.append(&mut encoder, &mut data).unwrap();
            inflated.extend(inflate(Encoding::Gzip, &data, usize::MAX).unwrap());
            assert!(part.jobs.iter().all(|job| job.lines.bytes.is_empty()), "their memory is released");
        }
        assert_eq!(inflated, expected);
        assert!(!packers.is_active());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_frame_has_a_limit_that_only_one_job_exceeds() {
        for (count, bytes, packed_jobs) in [
            (5000, 1024, PARALLEL_MAX_BYTES / 1024),
            (4, PARALLEL_MAX_BYTES + 1, 1),
            (4, PARALLEL_MAX_BYTES / 2 + 1, 1),
            (4, PARALLEL_MAX_BYTES / 2, 2),
        ] {
            let mut packers = packers();
            let mut jobs = jobs(count, bytes);
            packers.submit(&mut jobs);
            let packed: usize = packers.take().await.unwrap().iter().map(Part::bytes).sum();
            assert_eq!((packed, jobs.len()), (packed_jobs * bytes, count - packed_jobs), "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_frame_is_small_enough_for_the_segment_and_the_cores() {
        let packers = |max_bytes| Packers::new(Compression::Gzip, max_bytes, Handle::current()).max_bytes;
        assert_eq!(packers(PARALLEL_MIN_BYTES - 1), 0, "the dispatcher packs alone");
        assert!(packers(PARALLEL_MIN_BYTES) <= PARALLEL_MIN_BYTES && packers(usize::MAX) <= PARALLEL_MAX_BYTES);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_while_packing_is_an_error() {
        let mut packers = packers();
        let panics = packers.runtime.spawn(async { std::panic::resume_unwind(Box::new("a panic")) });
        packers.pending.push_back(AbortOnDropHandle::new(panics));
        assert!(packers.take().await.is_err_and(|error| error.is_panic()));
    }

    #[test]
    fn a_job_that_exceeds_a_part_is_one_of_its_own() {
        let mut jobs = jobs(2, 2 * PART_BYTES);
        assert_eq!(Part::first_of(&mut jobs, PART_BYTES).jobs.len(), 1);
        assert_eq!(jobs.len(), 1);
    }
}
