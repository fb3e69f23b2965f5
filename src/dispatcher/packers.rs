//! Packing frames beside each other, on the threads of the handlers.
//!
//! Packing is most of the dispatcher's work. While few jobs are queued, it packs them itself: handing them over would cost
//! more than it saves. From [`PARALLEL_MIN_BYTES`] on, tasks pack the next frames while the dispatcher commits the ones
//! before, so that its thread is not the limit of a machine with many cores. Frames keep the order of their jobs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::queue::Job;
use crate::segment::{Compression, FRAME_MAX_BYTES, FrameEncoder};

/// With at least so many bytes of lines to pack, tasks pack them.
const PARALLEL_MIN_BYTES: usize = 128 * 1024;
/// The least lines of a frame that is packed beside others: smaller ones compress less. Packing it takes a fraction of a
/// millisecond, in which its thread runs no handler.
const PARALLEL_FRAME_MIN_BYTES: usize = 64 * 1024;
/// The most lines that are packed at a time, unless one job has more: each commit copies their packed bytes once.
const PARALLEL_MAX_BYTES: usize = 8 * FRAME_MAX_BYTES;
/// Telemetry compresses to about one part in this many.
const USUAL_RATIO: usize = 4;

/// The jobs of a frame.
pub(super) struct Frame {
    /// Without their lines if these are packed.
    pub(super) jobs: Vec<Job>,
    /// The sizes of the lines of each job.
    pub(super) sizes: Vec<usize>,
    /// Their packed lines; none if they are not packed yet.
    pub(super) data: Option<io::Result<Vec<u8>>>,
}

impl Frame {
    /// All of `jobs`.
    pub(super) fn of(jobs: Vec<Job>) -> Self {
        let sizes = jobs.iter().map(|job| job.lines.bytes.len()).collect();
        Self { jobs, sizes, data: None }
    }

    /// The first jobs of `jobs`, at least one, whose lines fit into a frame of `max_bytes`.
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

    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
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

/// Frames that are being packed.
pub(super) struct Packers {
    compression: Compression,
    /// The runtime of the handlers.
    runtime: Handle,
    /// The most frames that are packed at a time.
    max: usize,
    pending: VecDeque<Receiver<Frame>>,
    idle: Arc<Mutex<Vec<FrameEncoder>>>,
}

/// A packing task panicked, or the runtime is shutting down. The jobs of its frame are not committed.
#[derive(Debug)]
pub(super) struct PackerFailed;

impl Packers {
    pub(super) fn new(compression: Compression, runtime: Handle) -> Self {
        let max = thread::available_parallelism().map_or(1, usize::from);
        Self { compression, runtime, max, pending: VecDeque::new(), idle: Arc::default() }
    }

    /// Whether frames are being packed.
    pub(super) fn is_active(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Begins to pack the first of `jobs`, if they are many: a frame for each core.
    pub(super) fn submit(&mut self, jobs: &mut Vec<Job>) {
        let bytes: usize = jobs.iter().map(|job| job.lines.bytes.len()).sum();
        if bytes < PARALLEL_MIN_BYTES {
            return;
        }
        let max_bytes = bytes.div_ceil(self.max).clamp(PARALLEL_FRAME_MIN_BYTES, FRAME_MAX_BYTES);
        let mut left = PARALLEL_MAX_BYTES;
        while self.pending.len() < self.max && left > 0 && !jobs.is_empty() {
            let mut frame = Frame::first_of(jobs, max_bytes);
            left = left.saturating_sub(frame.bytes());
            let (idle, compression) = (Arc::clone(&self.idle), self.compression);
            let (packed, pending) = channel();
            self.runtime.spawn(async move {
                let encoder = idle.lock().pop().map_or_else(|| FrameEncoder::new(compression), Ok);
                match encoder {
                    Ok(mut encoder) => {
                        frame.pack(&mut encoder);
                        idle.lock().push(encoder);
                    }
                    Err(error) => frame.data = Some(Err(error)),
                }
                // Without a receiver the dispatcher has exited.
                let _: Result<_, _> = packed.send(frame);
            });
            self.pending.push_back(pending);
        }
    }

    /// Waits for the submitted frames, and returns them in order. Blocks.
    pub(super) fn take(&mut self) -> Result<Vec<Frame>, PackerFailed> {
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

    fn packers(max: usize) -> Packers {
        Packers { max, ..Packers::new(Compression::Gzip, Handle::current()) }
    }

    #[tokio::test]
    async fn few_jobs_are_left_to_the_dispatcher() {
        let mut packers = packers(2);
        let mut jobs = jobs(127, 1024);
        packers.submit(&mut jobs);
        assert_eq!((jobs.len(), packers.is_active()), (127, false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn frames_keep_the_order_of_their_jobs() {
        let mut packers = packers(3);
        let mut jobs = jobs(300, 1024);
        let expected: Vec<u8> = jobs.iter().flat_map(|job| job.lines.bytes.clone()).collect();
        packers.submit(&mut jobs);
        assert!(jobs.is_empty() && packers.is_active());
        let frames = packers.take().unwrap();
        assert_eq!(frames.len(), 3);
        let mut inflated = Vec::new();
        for frame in &frames {
            let data = frame.data.as_ref().unwrap().as_ref().unwrap();
            inflated.extend(inflate(Encoding::Gzip, data, usize::MAX).unwrap());
            assert!(frame.jobs.iter().all(|job| job.lines.bytes.is_empty()), "their memory is released");
        }
        assert_eq!(inflated, expected);
        assert!(!packers.is_active());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_frame_for_each_core_is_packed_at_a_time() {
        let mut packers = packers(2);
        let mut jobs = jobs(1200, 1024);
        packers.submit(&mut jobs);
        let frames = packers.take().unwrap();
        let sizes: Vec<usize> = frames.iter().map(Frame::bytes).collect();
        assert_eq!((sizes, jobs.len()), (vec![FRAME_MAX_BYTES; 2], 1200 - 2 * FRAME_MAX_BYTES / 1024));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_packed_at_a_time_has_a_limit_whatever_the_number_of_cores() {
        let mut packers = packers(1000);
        let mut jobs = jobs(20, FRAME_MAX_BYTES);
        packers.submit(&mut jobs);
        let packed: usize = packers.take().unwrap().iter().map(Frame::bytes).sum();
        assert_eq!((packed, jobs.len()), (PARALLEL_MAX_BYTES, 20 - PARALLEL_MAX_BYTES / FRAME_MAX_BYTES));
    }

    #[test]
    fn a_job_that_exceeds_a_frame_is_a_frame_of_its_own() {
        let mut jobs = jobs(2, 2 * FRAME_MAX_BYTES);
        assert_eq!(Frame::first_of(&mut jobs, FRAME_MAX_BYTES).jobs.len(), 1);
        assert_eq!(jobs.len(), 1);
    }
}
