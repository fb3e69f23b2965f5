//! A sealed segment, which waits for its upload or is being uploaded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::attempts::Attempts;
use super::folder::Folder;
use super::space::SegmentCharge;
use super::status::SegmentStatus;
use crate::broker::WorkItem;
use crate::trace::SegmentTrace;

/// A sealed segment.
#[derive(Debug)]
pub struct SealedSegment {
    /// Its id and state.
    pub status: Arc<SegmentStatus>,
    /// Its size as an object, in bytes; if it was adopted, that of its file.
    pub len: usize,
    /// The time from its opening to its sealing; none if it was adopted.
    pub age: Option<Duration>,
    /// When it was opened; none if it was adopted.
    pub opened: Option<Instant>,
    /// The jobs and payloads that were committed to it; none if it was adopted and had not been sealed.
    pub committed: Option<(u32, u32)>,
    /// Earlier attempts to upload it.
    pub attempts: Attempts,
    /// Its commits that have a span.
    pub trace: SegmentTrace,
    pub(super) source: Source,
}

/// The bytes of a segment.
#[derive(Debug)]
pub(super) enum Source {
    Memory {
        body: Bytes,
        /// The lengths of its frames.
        frames: Vec<usize>,
    },
    File {
        path: PathBuf,
        folder: Arc<Folder>,
        charge: SegmentCharge,
        /// The length of the file up to the last commit that succeeded.
        len: usize,
    },
    Broker(Arc<WorkItem>),
}

impl SealedSegment {
    /// Whether another process has it if this one gives it back.
    pub fn is_from_broker(&self) -> bool {
        matches!(self.source, Source::Broker(_))
    }

    /// Whether a exited process opened it.
    pub fn is_adopted(&self) -> bool {
        self.age.is_none()
    }
}
