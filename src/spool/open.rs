//! A segment that takes commits.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::folders::Folder;
use super::names::Committed;
use super::share::SpoolShare;
use super::space::Charge;
use super::status::SegmentStatus;
use super::{Attempts, SealedSegment, Source, SpoolError};
use crate::disk::{Disk, DiskFile, naming};
use crate::log_throttle::LogThrottle;
use crate::segment::file::{FRAME_HEADER_LEN, FrameCounts, file_header, frame_header};
use crate::segment::{Compression, SegmentId};

/// Room in memory that a new segment is given at once, so that a full one has not been copied as it grew. Untouched pages
/// cost nothing.
const INITIAL_CAPACITY_MAX: usize = 16 << 20;

/// A disk that fails does so for each segment.
static NOT_SEALED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// A segment that takes commits.
#[derive(Debug)]
pub struct OpenSegment {
    status: Arc<SegmentStatus>,
    opened: Instant,
    jobs: u32,
    payloads: u32,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Memory {
        bytes: Vec<u8>,
        /// How long each of its frames is.
        frames: Vec<usize>,
    },
    File(Appending),
}

/// A segment's file.
#[derive(Debug)]
pub(super) struct Appending {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    folder: Arc<Folder>,
    charge: Charge,
    id: SegmentId,
    /// For building what is appended; kept for its capacity.
    buffer: Vec<u8>,
    /// Bytes that are durable.
    len: usize,
    /// Of those, the ones that will be stored.
    data_len: usize,
}

impl OpenSegment {
    pub(super) fn in_memory(status: Arc<SegmentStatus>, expected_bytes: usize) -> Self {
        // The frame that fills a segment goes some way over.
        let capacity = expected_bytes.saturating_add(expected_bytes / 8).min(INITIAL_CAPACITY_MAX);
        Self::new(status, Body::Memory { bytes: Vec::with_capacity(capacity), frames: Vec::new() })
    }

    pub(super) fn on_disk(status: Arc<SegmentStatus>, appending: Appending) -> Self {
        Self::new(status, Body::File(appending))
    }

    fn new(status: Arc<SegmentStatus>, body: Body) -> Self {
        Self { status, opened: Instant::now(), jobs: 0, payloads: 0, body }
    }

    /// Names the segment.
    pub fn id(&self) -> SegmentId {
        self.status.id()
    }

    /// For receipts.
    pub fn status(&self) -> &Arc<SegmentStatus> {
        &self.status
    }

    /// Adds the frame that `pack` appends to the buffer it is given, which holds so many jobs and payloads, and makes it
    /// durable if the spool is on disk. Returns the place of the first of the jobs. Blocks.
    ///
    /// # Errors
    /// [`SpoolError`], when none of the jobs is accepted. The segment must then be sealed: it ends with the last commit
    /// that succeeded.
    pub fn commit(
        &mut self,
        jobs: u32,
        payloads: u32,
        pack: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<u32, SpoolError> {
        let first_job = self.jobs;
        let counts = FrameCounts { first_job, jobs, first_payload: self.payloads, payloads };
        match &mut self.body {
            Body::Memory { bytes, frames } => {
                let start = bytes.len();
                pack(bytes)?;
                frames.push(bytes.len() - start);
            }
            Body::File(file) => file.commit(counts, pack)?,
        }
        self.jobs = self.jobs.saturating_add(jobs);
        self.payloads = self.payloads.saturating_add(payloads);
        self.status.committed(self.jobs);
        Ok(first_job)
    }

    /// Charges the space that the last commit has taken on disk to the senders of its jobs, each with the bytes of its lines.
    pub fn pass_on<'a>(&mut self, jobs: impl Iterator<Item = (Option<&'a SpoolShare>, usize)> + Clone) {
        if let Body::File(file) = &mut self.body {
            file.charge.pass_on(jobs);
        }
    }

    /// Bytes as they will be stored.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Memory { bytes, .. } => bytes.len(),
            Body::File(file) => file.data_len,
        }
    }

    /// Whether nothing was committed yet.
    pub fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// When the segment was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Ends the segment: from now on its bytes do not change. On disk the name of its file says so, and how much was
    /// committed to it. Blocks.
    pub fn seal(self) -> SealedSegment {
        let (jobs, payloads) = (self.jobs, self.payloads);
        let (len, age) = (self.len(), Some(self.opened.elapsed()));
        let source = match self.body {
            Body::Memory { bytes, frames } => Source::Memory { body: Bytes::from(bytes), frames, jobs, payloads },
            Body::File(mut file) => {
                if jobs > 0 {
                    let committed = Committed { jobs, payloads, bytes: file.len };
                    file.seal(committed, self.status.compression());
                }
                file.charge.seal();
                let Appending { path, folder, charge, len, .. } = file;
                Source::File { path, folder, charge, len, committed: Some((jobs, payloads)), is_own: true }
            }
        };
        SealedSegment { status: self.status, len, age, attempts: Attempts::default(), source }
    }
}

impl Appending {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        file: Box<dyn DiskFile>,
        path: PathBuf,
        folder: Arc<Folder>,
        charge: Charge,
        id: SegmentId,
    ) -> Self {
        Self { disk, file, path, folder, charge, id, buffer: Vec::new(), len: 0, data_len: 0 }
    }

    fn commit(
        &mut self,
        counts: FrameCounts,
        pack: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<(), SpoolError> {
        self.buffer.clear();
        if self.len == 0 {
            self.buffer.extend_from_slice(&file_header(self.id));
        }
        let header_at = self.buffer.len();
        let data_at = header_at + FRAME_HEADER_LEN;
        self.buffer.resize(data_at, 0);
        pack(&mut self.buffer)?;
        let (front, data) = self.buffer.split_at_mut(data_at);
        if let Some(place) = front.get_mut(header_at..) {
            place.copy_from_slice(&frame_header(self.id, counts, data));
        }
        let (len, data_len) = (self.len + data_at + data.len(), self.data_len + data.len());
        if !self.charge.grow_to(len) {
            return Err(SpoolError::Full);
        }
        if let Err(error) = self.write() {
            // For tidiness: what is beyond the last good commit is not read again, and is cut when it is adopted.
            let _: io::Result<()> = self.file.cut(self.len as u64);
            return Err(naming(&self.path)(error).into());
        }
        (self.len, self.data_len) = (len, data_len);
        Ok(())
    }

    /// Renames the file, so that its name says what was committed. All of that is durable already. Where the disk does not do
    /// it, the segment counts as open after a crash, and nothing is lost by that.
    fn seal(&mut self, committed: Committed, compression: Compression) {
        let Some(sealed) = self.folder.sealed(self.id, compression, committed) else { return };
        let renamed = self.disk.rename(&self.path, &sealed).map_err(naming(&self.path));
        let synced = renamed.and_then(|()| {
            self.path = sealed;
            self.disk.sync_dir(self.folder.path()).map_err(naming(self.folder.path()))
        });
        if let Err(error) = synced
            && let Some(suppressed) = NOT_SEALED.permit()
        {
            tracing::warn!(segment = %self.id, %error, suppressed, "the seal of a segment is not durable; after a crash damage to its end may not be recognized as damage");
        }
    }

    /// Appends the buffer and makes it durable, and with the first of them the file's name.
    fn write(&mut self) -> io::Result<()> {
        self.file.append(&self.buffer)?;
        self.file.sync()?;
        if self.len == 0 { self.disk.sync_dir(self.folder.path()) } else { Ok(()) }
    }
}
