//! Where segments live from their opening until their object is stored: in memory.
//!
//! The dispatcher fills an [`OpenSegment`], one commit after the other, and hands it on sealed through the [`Backlog`],
//! from which idle workers take it. The bytes of a sealed segment are kept until the store has said yes.

mod backlog;

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

pub use backlog::{Backlog, Slot};

use crate::segment::SegmentId;

/// Room that a new segment is given at once, so that a full one has not been copied as it grew. Untouched pages cost
/// nothing.
const INITIAL_CAPACITY_MAX: usize = 16 << 20;

/// A segment that takes commits.
#[derive(Debug)]
pub struct OpenSegment {
    id: SegmentId,
    opened: Instant,
    bytes: Vec<u8>,
    jobs: u64,
    payloads: u64,
}

impl OpenSegment {
    /// A new segment, which is expected to grow to `expected_bytes`.
    pub fn open(now: SystemTime, expected_bytes: usize) -> Self {
        // The frame that fills a segment goes some way over.
        let capacity = expected_bytes.saturating_add(expected_bytes / 8).min(INITIAL_CAPACITY_MAX);
        let bytes = Vec::with_capacity(capacity);
        Self { id: SegmentId::new(now), opened: Instant::now(), bytes, jobs: 0, payloads: 0 }
    }

    /// Adds the frame that `pack` appends, which holds so many jobs and payloads.
    ///
    /// # Errors
    /// Those of `pack`; the segment then ends where it did.
    pub fn commit(
        &mut self,
        jobs: u64,
        payloads: u64,
        pack: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        pack(&mut self.bytes)?;
        self.jobs += jobs;
        self.payloads += payloads;
        Ok(())
    }

    /// Bytes as they will be stored.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was committed yet.
    pub fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// When the segment was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Ends the segment: from now on its bytes do not change.
    pub fn seal(self) -> SealedSegment {
        let age = self.opened.elapsed();
        SealedSegment { id: self.id, body: Bytes::from(self.bytes), jobs: self.jobs, payloads: self.payloads, age }
    }
}

/// A segment that waits for its upload, or is in it.
#[derive(Debug)]
pub struct SealedSegment {
    /// Names the object.
    pub id: SegmentId,
    /// The object's bytes.
    pub body: Bytes,
    /// Jobs in it.
    pub jobs: u64,
    /// Payloads in it.
    pub payloads: u64,
    /// From its opening to its sealing.
    pub age: Duration,
}
