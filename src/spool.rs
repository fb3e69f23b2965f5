//! Keeps segments from their opening until their object is stored: in memory, in a folder, or in the broker.
//!
//! The dispatcher commits frames to an [`OpenSegment`], seals it, and passes it through the [`Backlog`] to an idle worker. The
//! worker [`load`](Spool::load)s its bytes, and reports when they are [`stored`](Spool::stored). Until then they are kept.
//!
//! On disk a segment is one file (see [`crate::segment::file`]), and a commit is one append and one fdatasync, for any number
//! of jobs. Invariants: when a commit returns `Ok`, it is durable; a file is never written to again after a failed write or
//! sync; the files never take more than `SPOOL_MAX_BYTES`.

mod attempts;
mod backlog;
mod broker_share;
mod buffers;
mod cleanup;
mod folder;
mod folders;
mod load;
mod offline;
mod open;
mod remote;
mod repacking;
mod sealed;
mod share;
mod space;
mod status;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

pub use attempts::{Attempts, LoadError};
pub use backlog::{Backlog, Slot};
pub use folders::{ADOPTED_FOLDERS_MAX, Unadopted};
pub use load::Loaded;
pub use offline::{
    DeadFile, FolderState, FoundSegment, OfflineError, OfflineSpool, Requeued, SegmentContent, SegmentEntry,
    SpoolFolder,
};
pub use open::OpenSegment;
pub use sealed::SealedSegment;
pub use share::{SpoolLimit, SpoolShare};
pub use space::Space;
pub use status::{SegmentState, SegmentStatus, Segments};

use crate::bound::part;
use crate::config::{ObjectSettings, SpoolSettings};
use crate::disk::{Disk, Entry, on_blocking_thread};
use crate::log_throttle::LogThrottle;
use crate::segment::salvage::Salvage;
use crate::segment::{Compression, SegmentId, file};
use crate::trace::SegmentTrace;
use buffers::Buffers;
use cleanup::{Action, Cleanup, release};
use folders::{AdoptedSegment, Folders};
use open::{Body, SegmentFile};
use remote::RemoteSpool;
pub(crate) use remote::{DELIVERIES_MIN, EndedSegment, EndedSegments, SettledSegment};
use repacking::Repacking;
use sealed::Source;

/// Every cleanup that fails is retried every few seconds.
static CLEANUP_FAILED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// Why a commit failed. Its jobs are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// `SPOOL_MAX_BYTES` is reached, or the disk is full.
    #[error("the spool is full")]
    Full,
    /// An I/O error.
    #[error("the spool fails: {0}")]
    Failed(String),
    /// The broker is away, or rejects commits.
    #[error("{0}")]
    Broker(String),
    /// The broker did not say in time whether the jobs are committed.
    #[error("the broker did not confirm a commit: {0}")]
    Unknown(String),
    /// Another process has ended the segment. The jobs are not in it, and can be committed to another one.
    #[error("the segment has ended")]
    Superseded,
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> Self {
        if folders::is_full(&error) { Self::Full } else { Self::Failed(error.to_string()) }
    }
}

/// The spool.
#[derive(Debug)]
pub struct Spool {
    compression: Compression,
    segments: Arc<Segments>,
    repacking: Repacking,
    /// None if segments are kept in memory. With a broker, it holds only segments of earlier processes.
    disk: Option<DiskSpool>,
    /// New segments go to the broker, if there is one.
    remote: Option<RemoteSpool>,
}

#[derive(Debug)]
struct DiskSpool {
    disk: Arc<dyn Disk>,
    folders: Folders,
    space: Arc<Space>,
    buffers: Arc<Buffers>,
    failed_cleanups: Mutex<Vec<Cleanup>>,
}

impl Spool {
    /// A spool in memory.
    pub fn in_memory(compression: Compression) -> Self {
        Self::new(compression, None)
    }

    fn new(compression: Compression, disk: Option<DiskSpool>) -> Self {
        Self { compression, segments: Arc::default(), repacking: Repacking::default(), disk, remote: None }
    }

    /// Whether the folder holds segments, in a format that this version reads.
    pub fn has_segments(settings: &SpoolSettings, disk: &dyn Disk) -> bool {
        folders::has_segments(&settings.dir, disk)
    }

    /// The number of damaged files under `dead/`, and their bytes.
    pub fn dead_files(settings: &SpoolSettings, disk: &dyn Disk) -> io::Result<(usize, u64)> {
        Ok(count(&folders::dead_files(&settings.dir, disk)?))
    }

    /// The number of damaged files under `dead/` of this spool, and their bytes. Blocks.
    pub fn damaged_files(&self) -> io::Result<(usize, u64)> {
        let Some(DiskSpool { disk, folders, .. }) = &self.disk else { return Ok((0, 0)) };
        Ok(count(&folders::dead_files(folders.root(), &**disk)?))
    }

    /// Its directory; none in memory.
    pub fn dir(&self) -> Option<&Path> {
        self.disk.as_ref().map(|disk| disk.folders.root())
    }

    /// A spool in a folder, and the segments that exited processes have left there.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn on_disk(
        settings: &SpoolSettings,
        objects: &ObjectSettings,
        disk: Arc<dyn Disk>,
    ) -> io::Result<(Self, Vec<SealedSegment>)> {
        let space = Arc::new(Space::new(settings.max_bytes));
        let (folders, left) = Folders::open(&settings.dir, Arc::clone(&disk), &space)?;
        let buffers = Arc::new(Buffers::new(objects.max_bytes));
        let disk = DiskSpool { disk, folders, space, buffers, failed_cleanups: Mutex::default() };
        let spool = Self::new(objects.compression, Some(disk));
        let mut left: Vec<_> = left.into_iter().map(|segment| spool.adopt_segment(segment)).collect();
        left.extend(spool.adopt()?);
        Ok((spool, left))
    }

    /// Adopts the segments of processes that have died since the last call. Blocks.
    pub fn adopt(&self) -> io::Result<Vec<SealedSegment>> {
        let Some(disk) = &self.disk else { return Ok(Vec::new()) };
        let adopted = disk.folders.adopt(&disk.space)?;
        Ok(adopted.into_iter().map(|segment| self.adopt_segment(segment)).collect())
    }

    fn adopt_segment(&self, adopted: AdoptedSegment) -> SealedSegment {
        let committed = adopted.name.committed;
        // The jobs of a segment that was not sealed are unknown until it is read.
        let jobs = committed.map_or(u32::MAX, |committed| committed.jobs);
        let len = committed.map_or(adopted.charge.bytes(), |committed| committed.bytes);
        SealedSegment {
            status: self.segments.add(adopted.name.id, adopted.name.compression, jobs),
            len,
            age: None,
            opened: None,
            committed: committed.map(|committed| (committed.jobs, committed.payloads)),
            attempts: Attempts::of_exited_process(),
            trace: SegmentTrace::default(),
            source: Source::File { path: adopted.path, folder: adopted.folder, charge: adopted.charge, len },
        }
    }

    /// The folders of exited processes that the last call of [`adopt`](Self::adopt) did not adopt.
    pub fn unadopted(&self) -> Unadopted {
        self.disk.as_ref().map(|disk| disk.folders.unadopted()).unwrap_or_default()
    }

    /// The codec of new segments.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The segments that this process knows.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// The space on disk for new segments; none in memory and in the broker.
    pub fn space(&self) -> Option<&Arc<Space>> {
        self.disk.as_ref().filter(|_| self.remote.is_none()).map(|disk| &disk.space)
    }

    /// What one tenant may use: `percent` of `max_bytes` on disk, or of the room in the broker; none if that is everything.
    pub fn tenant_limit(&self, percent: usize, max_bytes: usize) -> Option<SpoolLimit> {
        let is_limited = percent < 100;
        is_limited.then(|| match &self.remote {
            Some(remote) => SpoolLimit::Broker(remote.share(percent)),
            None => SpoolLimit::Bytes(part(max_bytes, percent)),
        })
    }

    /// Whether new batches should be rejected until uploads free space.
    pub fn is_nearly_full(&self) -> bool {
        match &self.remote {
            Some(remote) => remote.broker.is_full(),
            None => self.space().is_some_and(|space| space.is_nearly_full()),
        }
    }

    /// Opens a new segment, which is expected to grow to `expected_bytes`. Blocks.
    pub fn open(&self, now: SystemTime, expected_bytes: usize) -> Result<OpenSegment, SpoolError> {
        let id = SegmentId::new(now);
        let status = || self.segments.add(id, self.compression, 0);
        if let Some(remote) = &self.remote {
            let segment = remote.open(id, self.compression)?;
            return Ok(OpenSegment::new(status(), Body::Remote(segment)));
        }
        let Some(disk) = &self.disk else { return Ok(OpenSegment::in_memory(status(), expected_bytes)) };
        let charge = disk.space.charge(file::FILE_HEADER_LEN).ok_or(SpoolError::Full)?;
        let file = SegmentFile::create(&disk.disk, disk.folders.own(), charge, id, self.compression)?;
        Ok(OpenSegment::new(status(), Body::File(file)))
    }

    /// Seals a segment. One in the broker goes to the work queue of all workers; any other is returned. One that nothing was
    /// committed to is removed. Blocks.
    pub fn seal(&self, segment: OpenSegment) -> Option<SealedSegment> {
        let is_empty = segment.is_empty();
        match segment.seal() {
            Ok(sealed) if is_empty => self.discard(sealed),
            Ok(sealed) => return Some(sealed),
            Err(ended) => self.end(*ended),
        }
        None
    }

    /// Removes a segment without storing it. Blocks.
    pub fn discard(&self, segment: SealedSegment) {
        self.segments.forget(segment.status.id());
        let Some(disk) = &self.disk else { return };
        let Source::File { path, charge, .. } = segment.source else { return };
        if let Err(error) = release(disk.disk.remove(&path), charge) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a discarded segment");
        }
    }

    /// Removes the folder of this process if it is empty. Blocks.
    pub fn close(&self) {
        if let Some(disk) = &self.disk {
            disk.folders.close();
        }
    }

    /// Whether segments survive this process.
    pub fn is_durable(&self) -> bool {
        self.disk.is_some() || self.remote.is_some()
    }

    /// Checks whether a commit can succeed. Blocks.
    pub fn probe(&self) -> Result<(), SpoolError> {
        if let Some(remote) = &self.remote {
            let failure = remote.broker.append_failure();
            return remote.check().and_then(|()| failure.map_or(Ok(()), |reason| Err(SpoolError::Broker(reason))));
        }
        self.disk.as_ref().map_or(Ok(()), |disk| Ok(disk.folders.probe()?))
    }

    /// Reads a segment for its upload, finds its valid frames, and repacks small ones. Waits for memory if the segment is
    /// large. After several reads that failed with EIO it skips what the disk cannot read.
    /// The call may be repeated after an error.
    pub async fn load(&self, segment: &mut SealedSegment) -> Result<Loaded, LoadError> {
        let loaded = self.load_once(segment).await;
        if let Err(error) = &loaded {
            segment.attempts.load_failed(error);
        }
        loaded
    }

    /// Whether the segment's file is missing from a folder that exists. The content of a folder that is away may come back.
    pub async fn is_missing(&self, segment: &SealedSegment) -> bool {
        let (Some(disk), Source::File { folder, .. }) = (&self.disk, &segment.source) else { return false };
        let (disk, id, folder) = (Arc::clone(&disk.disk), segment.status.id(), Arc::clone(folder));
        on_blocking_thread(move || Ok(folder.lacks(&*disk, id))).await.unwrap_or(false)
    }

    /// The valid part of the segment is stored: removes its file, or moves it to `dead/` if it is damaged.
    ///
    /// # Errors
    /// The file cannot be removed yet. [`retry_cleanups`](Self::retry_cleanups) tries again. After a crash the segment is
    /// stored once more, under the same key.
    pub async fn stored(&self, segment: SealedSegment, salvage: &Salvage, is_missing: bool) -> io::Result<()> {
        // The object may hold more jobs than the file did.
        if salvage.possibly_lost.is_none() && salvage.total_jobs > 0 {
            segment.status.set_jobs(salvage.total_jobs);
        }
        let is_dead = salvage.jobs == 0 && salvage.payloads == 0;
        let state =
            if is_dead { SegmentState::Dead } else { SegmentState::Stored { dead: salvage.lost_indexes().into() } };
        if let Some(lost) = salvage.possibly_lost {
            segment.status.set_possibly_lost(lost.indexes());
        }
        self.segments.settle(&segment.status, state);
        if let Source::Broker(item) = &segment.source {
            return self.settle_work(item, salvage.is_suspect()).await;
        }
        let (Some(disk), Source::File { path, folder, charge, .. }) = (&self.disk, segment.source) else {
            return Ok(());
        };
        let action = match (is_missing, salvage.is_suspect()) {
            (true, _) => Action::Forget,
            (false, true) => Action::MoveToDead,
            (false, false) => Action::Remove,
        };
        disk.clean_up(Cleanup { path, folder, charge, action }).await
    }

    /// Retries cleanups that have failed.
    pub async fn retry_cleanups(&self) {
        let Some(disk) = &self.disk else { return };
        let failed = std::mem::take(&mut *disk.failed_cleanups.lock());
        for cleanup in failed {
            let path = cleanup.path.clone();
            if let Err(error) = disk.clean_up(cleanup).await
                && let Some(suppressed) = CLEANUP_FAILED.permit()
            {
                tracing::warn!(path = %path.display(), %error, suppressed, "still cannot remove a stored segment from the spool; will retry");
            }
        }
    }
}

/// The number of files, and their bytes.
fn count(files: &[Entry]) -> (usize, u64) {
    (files.len(), files.iter().map(|file| file.len).sum())
}

impl DiskSpool {
    /// Runs a cleanup. One that fails is kept, with its charge and with the lock of its folder, so that no other process
    /// adopts the segment.
    async fn clean_up(&self, cleanup: Cleanup) -> io::Result<()> {
        let (disk, dead, root) = (Arc::clone(&self.disk), self.folders.dead(), self.folders.root().to_owned());
        let (cleanup, done) = on_blocking_thread(move || {
            let done = cleanup.run(&*disk, &dead, &root);
            Ok((cleanup, done))
        })
        .await?;
        if done.is_err() {
            self.failed_cleanups.lock().push(cleanup);
            return done;
        }
        if cleanup.action == Action::MoveToDead {
            // The file still takes its space.
            cleanup.charge.keep();
        }
        self.folders.segment_removed(&cleanup.folder);
        Ok(())
    }
}
