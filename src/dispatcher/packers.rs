//! Packing the parts of a frame beside each other, on the threads of the handlers.
//!
//! Packing is most of the dispatcher's work. While few jobs are queued, it packs them itself: handing them over would cost
//! more than it saves. From [`PARALLEL_MIN_BYTES`] on, tasks pack the next frame in parts while the dispatcher commits the
//! one before, so that its thread is not the limit of a machine with many cores. Parts keep the order of their jobs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::queue::Job;
use crate::segment::{Compression, FrameEncoder};

/// With at least this many bytes of lines to pack, tasks pack them.
const PARALLEL_MIN_BYTES: usize = 128 * 1024;
/// The size of a part: smaller ones compress less. Packing it takes a fraction of a millisecond, in which its thread runs no
/// handler.
const PART_BYTES: usize = 64 * 1024;
/// A job with more lines is packed on a thread that may block: it would delay the handlers.
const LARGE_JOB_BYTES: usize = 4 * PART_BYTES;
/// The most lines that are packed at a time, unless one job has more.
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
    data: Option<io::Result<Vec<u8>>>,
}

impl Part {
    /// All of `jobs`.
    pub(super) fn of(jobs: Vec<Job>) -> Self {
        let sizes = jobs.iter().map(|job| job.lines.bytes.len()).collect();
        Self { jobs, sizes, data: None }
    }

    /// The first jobs of `jobs`, at least one, whose lines have at most `max_bytes`.
    pub(super) fn first_of(jobs: &mut Vec<Job>, max_bytes: usize) -> Self {
        let mut bytes = 0;
        let fit = jobs.iter().take_while(|job| {
            bytes += job.lines.bytes.len();
            bytes <= max_bytes
        });
        let count = fit.count().max(1).min(jobs.len());
        Self::of(jobs.drain(..count).collect())
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().sum()
    }

    /// Appends the packed lines to `out`, and packs them first if they are not packed yet.
    pub(super) fn append(&self, encoder: &mut FrameEncoder, out: &mut Vec<u8>) -> io::Result<()> {
        match &self.data {
            None => encoder.pack(self.lines(), out),
            Some(Ok(data)) => {
                out.extend_from_slice(data);
                Ok(())
            }
            Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.jobs.iter().map(|job| job.lines.bytes.as_slice())
    }

    fn pack(&mut self, encoder: &mut FrameEncoder) {
        let mut data = Vec::with_capacity(self.bytes() / USUAL_RATIO);
        let packed = encoder.pack(self.lines(), &mut data);
        self.data = Some(packed.map(|()| data));
        // Freed here, and not by the dispatcher.
        self.jobs.iter_mut().for_each(|job| drop(std::mem::take(&mut job.lines.bytes)));
    }
}

/// The parts of the next frame, which are being packed.
pub(super) struct Packers {
    compression: Compression,
    /// The runtime of the handlers.
    runtime: Handle,
    /// The most lines that are packed at a time, unless one job has more.
    max_bytes: usize,
    pending: VecDeque<Receiver<Part>>,
    idle: Arc<Mutex<Vec<FrameEncoder>>>,
}

/// A packing task panicked, or the runtime is shutting down. The jobs of its part are not committed.
#[derive(Debug)]
pub(super) struct PackerFailed;

impl Packers {
    /// For segments of `segment_bytes`: a frame is never much larger.
    pub(super) fn new(compression: Compression, segment_bytes: usize, runtime: Handle) -> Self {
        let max_bytes = PARALLEL_MAX_BYTES.min(segment_bytes);
        Self { compression, runtime, max_bytes, pending: VecDeque::new(), idle: Arc::default() }
    }

    /// Whether parts are being packed.
    pub(super) fn is_active(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Begins to pack the first of `jobs`, if they are many.
    pub(super) fn submit(&mut self, jobs: &mut Vec<Job>) {
        let bytes: usize = jobs.iter().map(|job| job.lines.bytes.len()).sum();
        let mut left = if bytes < PARALLEL_MIN_BYTES { 0 } else { self.max_bytes };
        while left > 0 && jobs.first().is_some_and(|job| job.lines.bytes.len() <= left || !self.is_active()) {
            let part = Part::first_of(jobs, PART_BYTES.min(left));
            left = left.saturating_sub(part.bytes());
            self.pending.push_back(self.pack(part));
        }
    }

    fn pack(&self, mut part: Part) -> Receiver<Part> {
        let (idle, compression) = (Arc::clone(&self.idle), self.compression);
        let (packed, pending) = channel();
        let is_large = part.bytes() > LARGE_JOB_BYTES;
        let pack = move || {
            let encoder = idle.lock().pop().map_or_else(|| FrameEncoder::new(compression), Ok);
            match encoder {
                Ok(mut encoder) => {
                    part.pack(&mut encoder);
                    idle.lock().push(encoder);
                }
                Err(error) => part.data = Some(Err(error)),
            }
            // Without a receiver the dispatcher has exited.
            let _: Result<_, _> = packed.send(part);
        };
        if is_large {
            drop(self.runtime.spawn_blocking(pack));
        } else {
            drop(self.runtime.spawn(async { pack() }));
        }
        pending
    }

    /// Waits for the submitted parts, and returns them in order. Blocks.
    pub(super) fn take(&mut self) -> Result<Vec<Part>, PackerFailed> {
        self.pending.drain(..).map(|packed| packed.recv().map_err(|_| PackerFailed)).collect()
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
        Packers::new(Compression::Gzip, usize::MAX, Handle::current())
    }

    #[tokio::test]
    async fn few_jobs_are_left_to_the_dispatcher() {
        let mut packers = packers();
        let mut jobs = jobs(127, 1024);
        packers.submit(&mut jobs);
        assert_eq!((jobs.len(), packers.is_active()), (127, false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parts_keep_the_order_of_their_jobs() {
        let mut packers = packers();
        let mut jobs = jobs(300, 1024);
        let expected: Vec<u8> = jobs.iter().flat_map(|job| job.lines.bytes.clone()).collect();
        packers.submit(&mut jobs);
        assert!(jobs.is_empty() && packers.is_active());
        let parts = packers.take().unwrap();
        assert_eq!(parts.len(), 5, "of 64 KiB at most");
        let mut inflated = Vec::new();
        for part in &parts {
            let data = part.data.as_ref().unwrap().as_ref().unwrap();
            inflated.extend(inflate(Encoding::Gzip, data, usize::MAX).unwrap());
            assert!(part.jobs.iter().all(|job| job.lines.bytes.is_empty()), "their memory is released");
        }
        assert_eq!(inflated, expected);
        assert!(!packers.is_active());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_packed_at_a_time_has_a_limit() {
        let mut packers = packers();
        let mut small = jobs(5000, 1024);
        packers.submit(&mut small);
        let packed = |packers: &mut Packers| packers.take().unwrap().iter().map(Part::bytes).sum::<usize>();
        assert_eq!((packed(&mut packers), small.len()), (PARALLEL_MAX_BYTES, 5000 - PARALLEL_MAX_BYTES / 1024));
        for (bytes, packed_jobs) in
            [(PARALLEL_MAX_BYTES + 1, 1), (PARALLEL_MAX_BYTES / 2 + 1, 1), (PARALLEL_MAX_BYTES / 2, 2)]
        {
            let mut large = jobs(4, bytes);
            packers.submit(&mut large);
            assert_eq!((packed(&mut packers), large.len()), (packed_jobs * bytes, 4 - packed_jobs), "{bytes}");
        }
        packers.max_bytes = 100 * 1024;
        let mut jobs = jobs(300, 1024);
        packers.submit(&mut jobs);
        assert_eq!(packed(&mut packers), 100 * 1024, "no more than a segment takes");
    }

    #[test]
    fn a_job_that_exceeds_a_part_is_one_of_its_own() {
        let mut jobs = jobs(2, 2 * PART_BYTES);
        assert_eq!(Part::first_of(&mut jobs, PART_BYTES).jobs.len(), 1);
        assert_eq!(jobs.len(), 1);
    }
}
