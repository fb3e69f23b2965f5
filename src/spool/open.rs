//! A segment that takes commits.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::folder::Folder;
use super::remote::{EndedRemote, RemoteSegment};
use super::sealed::Source;
use super::share::SpoolShare;
use super::space::SegmentCharge;
use super::status::SegmentStatus;
use super::{Attempts, SealedSegment, SpoolError};
use crate::disk::{Disk, DiskFile, with_path};
use crate::log_throttle::LogThrottle;
use crate::segment::file::{FrameCounts, append_frame};
use crate::segment::{Committed, Compression, SegmentId};
use crate::trace::SegmentTrace;

/// The most memory that is reserved for a new segment, so that its growth causes no copies. Untouched pages cost nothing.
const INITIAL_CAPACITY_MAX: usize = 16 << 20;

/// A failing disk fails for every segment.
static NOT_SEALED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// A segment that takes commits.
#[derive(Debug)]
pub struct OpenSegment {
    /// Its id and state.
    pub status: Arc<SegmentStatus>,
    /// When it was opened.
    pub opened: Instant,
    /// Its commits that have a span.
    pub trace: SegmentTrace,
    jobs: u32,
    payloads: u32,
    body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Memory {
        bytes: Vec<u8>,
        /// The lengths of its frames.
        frames: Vec<usize>,
    },
    File(SegmentFile),
    Remote(RemoteSegment),
}

/// The file of an open segment.
#[derive(Debug)]
pub(super) struct SegmentFile {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    folder: Arc<Folder>,
    charge: SegmentCharge,
    id: SegmentId,
    /// The next append. Kept for its capacity.
    buffer: Vec<u8>,
    /// The durable bytes of the file.
    len: usize,
    /// The bytes of the object among them.
    data_len: usize,
}

impl OpenSegment {
    pub(super) fn in_memory(status: Arc<SegmentStatus>, expected_bytes: usize) -> Self {
        // The last frame exceeds the size at which a segment is sealed.
        let capacity = expected_bytes.saturating_add(expected_bytes / 8).min(INITIAL_CAPACITY_MAX);
        Self::new(status, Body::Memory { bytes: Vec::with_capacity(capacity), frames: Vec::new() })
    }

    pub(super) fn new(status: Arc<SegmentStatus>, body: Body) -> Self {
        Self { status, opened: Instant::now(), trace: SegmentTrace::default(), jobs: 0, payloads: 0, body }
    }

    /// Adds a frame of `jobs` jobs and `payloads` payloads, which `pack` appends to its buffer. On disk and in the broker it is
    /// durable then. Returns the index of the first job. Blocks, and is not cancel safe.
    ///
    /// # Errors
    /// [`SpoolError`]; none of the jobs is accepted. The segment must be sealed, and ends with the last commit that succeeded.
    pub async fn commit(
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
            Body::Remote(segment) => segment.commit(counts, pack).await?,
        }
        self.jobs = self.jobs.saturating_add(jobs);
        self.payloads = self.payloads.saturating_add(payloads);
        self.status.set_jobs(self.jobs);
        Ok(first_job)
    }

    /// Charges the space of the last commit to the tenants of its jobs, in proportion to the bytes of their lines.
    pub fn charge_tenants<'a>(&mut self, jobs: impl Iterator<Item = (Option<&'a SpoolShare>, usize)> + Clone) {
        match &mut self.body {
            Body::Memory { .. } => {}
            Body::File(file) => file.charge.charge_tenants(jobs),
            Body::Remote(segment) => segment.charge_tenants(jobs),
        }
    }

    /// The bytes of the object.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Memory { bytes, .. } => bytes.len(),
            Body::File(file) => file.data_len,
            Body::Remote(segment) => segment.len(),
        }
    }

    /// Whether nothing was committed.
    pub fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// Seals the segment. On disk its file is renamed to carry what was committed to it. One in the broker is returned as ended.
    /// Blocks.
    pub(super) fn seal(self) -> Result<SealedSegment, Box<EndedRemote>> {
        let (jobs, payloads) = (self.jobs, self.payloads);
        let (len, age, opened) = (self.len(), Some(self.opened.elapsed()), Some(self.opened));
        let source = match self.body {
            Body::Remote(mut segment) => {
                segment.seal();
                let Self { status, opened, trace, .. } = self;
                return Err(Box::new(EndedRemote { segment, status, opened, trace, counts: (jobs, payloads) }));
            }
            Body::Memory { bytes, frames } => Source::Memory { body: Bytes::from(bytes), frames },
            Body::File(mut file) => {
                if jobs > 0 {
                    let committed = Committed { jobs, payloads, bytes: file.len };
                    file.seal(committed, self.status.compression());
                }
                file.charge.seal();
                let SegmentFile { path, folder, charge, len, .. } = file;
                Source::File { path, folder, charge, len }
            }
        };
        let committed = Some((jobs, payloads));
        let (status, trace) = (self.status, self.trace);
        Ok(SealedSegment { status, len, age, opened, committed, attempts: Attempts::default(), trace, source })
    }
}

impl SegmentFile {
    pub(super) fn create(
        disk: &Arc<dyn Disk>,
        folder: &Arc<Folder>,
        charge: SegmentCharge,
        id: SegmentId,
        compression: Compression,
    ) -> io::Result<Self> {
        let path = folder.open_path(id, compression);
        let file = disk.create(&path).map_err(with_path(&path))?;
        let (disk, folder) = (Arc::clone(disk), Arc::clone(folder));
        Ok(Self { disk, file, path, folder, charge, id, buffer: Vec::new(), len: 0, data_len: 0 })
    }

    fn commit(
        &mut self,
        counts: FrameCounts,
        pack: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<(), SpoolError> {
        self.buffer.clear();
        let data_len = append_frame(&mut self.buffer, self.id, self.len == 0, counts, pack)?;
        let (len, data_len) = (self.len + self.buffer.len(), self.data_len + data_len);
        if !self.charge.grow_to(len) {
            return Err(SpoolError::Full);
        }
        if let Err(error) = self.write() {
            // Best effort: bytes after the last commit that succeeded are ignored by every reader.
            let _: io::Result<()> = self.file.truncate(self.len as u64);
            return Err(with_path(&self.path)(error).into());
        }
        (self.len, self.data_len) = (len, data_len);
        Ok(())
    }

    /// Renames the file to carry what was committed, all of which is durable. If that fails, the segment counts as open after
    /// a crash, and no job is lost.
    fn seal(&mut self, committed: Committed, compression: Compression) {
        let Some(sealed) = self.folder.sealed_path(self.id, compression, committed) else { return };
        let renamed = self.disk.rename(&self.path, &sealed).map_err(with_path(&self.path));
        let synced = renamed.and_then(|()| {
            self.path = sealed;
            self.disk.sync_dir(self.folder.path()).map_err(with_path(self.folder.path()))
        });
        if let Err(error) = synced
            && let Some(suppressed) = NOT_SEALED.permit()
        {
            tracing::warn!(segment = %self.id, %error, suppressed, "cannot seal a segment durably; after a crash, damage to its end may go undetected");
        }
    }

    /// Appends the buffer and makes it durable; the first time also the name of the file.
    fn write(&mut self) -> io::Result<()> {
        self.file.append(&self.buffer)?;
        self.file.sync()?;
        if self.len == 0 { self.disk.sync_dir(self.folder.path()) } else { Ok(()) }
    }
}
