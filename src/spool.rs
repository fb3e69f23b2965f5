//! Where segments live from their opening until their object is stored: in memory, or in a folder.
//!
//! The dispatcher fills an [`OpenSegment`], one commit after the other, and hands it on sealed through the [`Backlog`],
//! from which idle workers take it. A worker has the spool [`load`](Spool::load) its bytes, and tells it when the store
//! has said yes ([`stored`](Spool::stored)): until then they are kept.
//!
//! On disk a segment is one file (its format: [`crate::segment::file`]), and a commit is one append and one fdatasync,
//! however many jobs it serves. Rules: what a commit returned `Ok` for is durable; a file that a write or a sync failed on
//! is never written to again; no more than `SPOOL_MAX_BYTES` are ever on disk.

mod attempts;
mod backlog;
mod buffers;
mod ended;
mod folders;
mod loaded;
mod names;
mod open;
mod packing;
mod share;
mod space;
mod status;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

pub use attempts::Attempts;
pub use backlog::{Backlog, Slot};
pub use folders::{ADOPTED_FOLDERS_MAX, Adopted, Unadopted};
use folders::{Folder, Folders};
use open::Appending;
pub use open::OpenSegment;
use packing::Packing;
pub use share::SpoolShare;
use space::Charge;
pub use space::Space;
pub use status::{SegmentStatus, Segments, State};

use crate::config::{ObjectSettings, SpoolSettings};
use crate::disk::{Disk, naming};
use crate::log_throttle::LogThrottle;
use crate::segment::file::{self, Salvage};
use crate::segment::{Compression, FrameSizes, SegmentId};
use buffers::Buffers;
use ended::{End, Ended, release};
use loaded::read;
pub use loaded::{LoadError, Loaded};

/// Each of them is tried again every few seconds.
static NOT_REMOVED: LogThrottle = LogThrottle::new(Duration::from_secs(60));

/// Why a commit failed. Its jobs are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// `SPOOL_MAX_BYTES` is reached, or the disk is full.
    #[error("the spool is full")]
    Full,
    /// The disk does not take it.
    #[error("the spool fails: {0}")]
    Failed(String),
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
    packing: Packing,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory,
    Disk(DiskSpool),
}

#[derive(Debug)]
struct DiskSpool {
    disk: Arc<dyn Disk>,
    folders: Folders,
    space: Arc<Space>,
    buffers: Arc<Buffers>,
    /// Files that could not be removed.
    left: Mutex<Vec<Ended>>,
}

/// A segment that waits for its upload, or is in it.
#[derive(Debug)]
pub struct SealedSegment {
    /// Names the object, and tells those who ask what became of it.
    pub status: Arc<SegmentStatus>,
    /// Bytes as they will be stored; of one that a dead process opened, a few more.
    pub len: usize,
    /// From its opening to its sealing; none if a process that is dead opened it.
    pub age: Option<Duration>,
    /// What was tried with it.
    pub attempts: Attempts,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory {
        body: Bytes,
        frames: Vec<usize>,
        jobs: u32,
        payloads: u32,
    },
    File {
        path: PathBuf,
        folder: Arc<Folder>,
        charge: Charge,
        len: usize,
        /// Jobs and payloads, if this process or the file's name says how many were committed.
        committed: Option<(u32, u32)>,
        /// Whether this process opened it.
        is_own: bool,
    },
}

impl Spool {
    /// A spool in memory.
    pub fn in_memory(compression: Compression) -> Self {
        Self { compression, segments: Arc::default(), packing: Packing::default(), place: Place::Memory }
    }

    /// Whether there is work in the folder, of this process's format.
    pub fn has_segments(settings: &SpoolSettings, disk: &dyn Disk) -> bool {
        folders::has_segments(&settings.dir, disk)
    }

    /// How many damaged files were set aside in the folder, and their bytes.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn dead_files(settings: &SpoolSettings, disk: &dyn Disk) -> io::Result<(usize, u64)> {
        folders::dead_files(&settings.dir, disk)
    }

    /// A spool in a folder, and the segments that dead processes have left there.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn on_disk(
        settings: &SpoolSettings,
        objects: &ObjectSettings,
        disk: Arc<dyn Disk>,
    ) -> io::Result<(Self, Vec<SealedSegment>)> {
        let space = Arc::new(Space::new(settings.max_bytes));
        let (folders, left) = Folders::open(&settings.dir, Arc::clone(&disk), &space)?;
        let buffers = Arc::new(Buffers::new(objects.max_bytes));
        let place = Place::Disk(DiskSpool { disk, folders, space, buffers, left: Mutex::default() });
        let spool =
            Self { compression: objects.compression, segments: Arc::default(), packing: Packing::default(), place };
        let mut left: Vec<_> = left.into_iter().map(|segment| spool.take_over(segment)).collect();
        left.extend(spool.adopt()?);
        Ok((spool, left))
    }

    /// Takes over what processes have left that died since the last look. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn adopt(&self) -> io::Result<Vec<SealedSegment>> {
        let Place::Disk(spool) = &self.place else { return Ok(Vec::new()) };
        let adopted = spool.folders.adopt(&spool.space)?;
        Ok(adopted.into_iter().map(|segment| self.take_over(segment)).collect())
    }

    fn take_over(&self, adopted: Adopted) -> SealedSegment {
        let Adopted { id, compression, committed, path, folder, charge } = adopted;
        // How many jobs one has that was not sealed is known when it is read.
        let status = self.segments.add(id, compression, committed.map_or(u32::MAX, |committed| committed.jobs));
        let len = committed.map_or(charge.bytes(), |committed| committed.bytes);
        let committed = committed.map(|committed| (committed.jobs, committed.payloads));
        let source = Source::File { path, folder, charge, len, committed, is_own: false };
        SealedSegment { status, len, age: None, attempts: Attempts::of_a_dead_process(), source }
    }

    /// The folders of dead processes that the last look did not take over.
    pub fn unadopted(&self) -> Unadopted {
        match &self.place {
            Place::Memory => Unadopted::default(),
            Place::Disk(spool) => spool.folders.unadopted(),
        }
    }

    /// What new segments are compressed with.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The segments of this process.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Bytes on disk and the most that there may be; none in memory.
    pub fn space(&self) -> Option<&Arc<Space>> {
        match &self.place {
            Place::Memory => None,
            Place::Disk(spool) => Some(&spool.space),
        }
    }

    /// A new segment, which is expected to grow to `expected_bytes`. Blocks.
    ///
    /// # Errors
    /// When its file cannot be created.
    pub fn open(&self, now: SystemTime, expected_bytes: usize) -> Result<OpenSegment, SpoolError> {
        let id = SegmentId::new(now);
        match &self.place {
            Place::Memory => Ok(OpenSegment::in_memory(self.add(id), expected_bytes)),
            Place::Disk(spool) => {
                let folder = spool.folders.own();
                let path = folder.segment(id, self.compression);
                let charge = spool.space.charge(file::FILE_HEADER_LEN).ok_or(SpoolError::Full)?;
                let file = spool.disk.create(&path).map_err(naming(&path))?;
                let appending = Appending::new(Arc::clone(&spool.disk), file, path, Arc::clone(folder), charge, id);
                Ok(OpenSegment::on_disk(self.add(id), appending))
            }
        }
    }

    fn add(&self, id: SegmentId) -> Arc<SegmentStatus> {
        self.segments.add(id, self.compression, 0)
    }

    /// Lets go of a segment that came to nothing. Blocks.
    pub fn discard(&self, segment: OpenSegment) {
        self.segments.forget(segment.id());
        let Place::Disk(spool) = &self.place else { return };
        let Source::File { path, charge, .. } = segment.seal().source else { return };
        if let Err(error) = release(spool.disk.remove(&path), charge) {
            tracing::warn!(path = %path.display(), %error, "an empty segment cannot be removed");
        }
    }

    /// Removes this process's folder if there is nothing in it any more. Blocks.
    pub fn close(&self) {
        if let Place::Disk(spool) = &self.place {
            spool.folders.close();
        }
    }

    /// Whether what is not stored yet survives this process.
    pub fn is_durable(&self) -> bool {
        matches!(self.place, Place::Disk(_))
    }

    /// Tries whether the disk takes writes again, after it did not. Blocks.
    ///
    /// # Errors
    /// What it still says.
    pub fn probe(&self) -> Result<(), SpoolError> {
        match &self.place {
            Place::Memory => Ok(()),
            Place::Disk(spool) => Ok(spool.folders.probe(&*spool.disk)?),
        }
    }

    /// Reads a segment for its upload, finds what is good in it, and packs its small frames anew. Waits for memory, if it is
    /// large. After several reads that failed with EIO it reads around what the disk cannot read.
    ///
    /// # Errors
    /// [`LoadError`]; the segment may be loaded again.
    pub async fn load(&self, segment: &mut SealedSegment) -> Result<Loaded, LoadError> {
        let loaded = self.load_once(segment).await;
        if let Err(error) = &loaded {
            segment.attempts.load_failed(error);
        }
        loaded
    }

    async fn load_once(&self, segment: &mut SealedSegment) -> Result<Loaded, LoadError> {
        let compression = segment.status.compression();
        let is_packed = !segment.attempts.is_packing_off;
        match (&self.place, &mut segment.source) {
            (Place::Disk(spool), Source::File { path, folder, len, committed, .. }) => {
                let (buffer, room) = spool.buffers.take(*len).await;
                let (disk, named, folder) = (Arc::clone(&spool.disk), path.clone(), Arc::clone(folder));
                let (id, good, reading) = (segment.status.id(), *len, segment.attempts.reading());
                let read = tokio::task::spawn_blocking(move || match read(&*disk, &named, id, good, reading, buffer) {
                    Err(error @ LoadError::Unreadable { is_missing: true, .. }) => {
                        let found = folder.find(&*disk, id).ok_or(error)?;
                        Ok((read(&*disk, &found, id, good, reading, Vec::new())?, found))
                    }
                    done => Ok((done?, named)),
                });
                let (read, found) = read.await.unwrap_or_else(|error| Err(LoadError::Failed(error.to_string())))?;
                *path = found;
                let (mut bytes, frames, salvage) = read;
                if committed.is_none() {
                    let places = salvage.possibly_lost.map_or(salvage.total_jobs, |lost| lost.indexes().end);
                    segment.status.committed(places);
                }
                let len = bytes.len();
                if is_packed && FrameSizes::of(compression, &bytes, &frames).are_small() {
                    bytes = self.packing.pack(compression, frames, || bytes).await?;
                }
                let saved = len - bytes.len();
                Ok(Loaded { body: Bytes::from(bytes), salvage, saved, room, is_gone: false })
            }
            (_, Source::Memory { body, frames, jobs, payloads }) => {
                let (places, jobs, payloads) = (*jobs, u64::from(*jobs), u64::from(*payloads));
                let salvage = Salvage { total_jobs: places, jobs, payloads, ..Salvage::default() };
                let len = body.len();
                if is_packed && FrameSizes::of(compression, body, frames).are_small() {
                    let (frames, packed) = (std::mem::take(frames), body.clone());
                    *body = Bytes::from(self.packing.pack(compression, frames, || Vec::from(packed)).await?);
                }
                Ok(Loaded { body: body.clone(), salvage, saved: len - body.len(), room: None, is_gone: false })
            }
            (Place::Memory, Source::File { .. }) => Err(LoadError::Failed("the spool is in memory".to_owned())),
        }
    }

    /// Whether the segment's file is not coming back: its folder is there, and the file is not in it. A folder that is away
    /// may be back in a moment, with all that is in it.
    pub async fn is_gone(&self, segment: &SealedSegment) -> bool {
        let (Place::Disk(spool), Source::File { folder, .. }) = (&self.place, &segment.source) else {
            return false;
        };
        let (disk, id, folder) = (Arc::clone(&spool.disk), segment.status.id(), Arc::clone(folder));
        let looked = on_blocking_thread(move || Ok(folder.is_there_without(&*disk, id))).await;
        looked.unwrap_or(false)
    }

    /// The store has the segment, as far as it was good: removes it, or sets it aside if it was damaged.
    ///
    /// # Errors
    /// When it cannot be removed yet: [`retry_cleanups`](Self::retry_cleanups) tries again, and after a crash it is stored once more, under the
    /// same key.
    pub async fn stored(&self, segment: SealedSegment, salvage: &Salvage, is_gone: bool) -> io::Result<()> {
        // The object may have more than the file had, or show that nothing is missing at the end.
        if salvage.possibly_lost.is_none() && salvage.total_jobs > 0 {
            segment.status.committed(salvage.total_jobs);
        }
        let is_dead = salvage.jobs == 0 && salvage.payloads == 0;
        let state = if is_dead { State::Dead } else { State::Stored { dead: salvage.lost_indexes().into() } };
        if let Some(lost) = salvage.possibly_lost {
            segment.status.doubt(lost.indexes());
        }
        self.segments.settle(&segment.status, state);
        let (Place::Disk(spool), Source::File { path, folder, charge, .. }) = (&self.place, segment.source) else {
            return Ok(());
        };
        let end = match (is_gone, salvage.is_suspect()) {
            (true, _) => End::Gone,
            (false, true) => End::SetAside,
            (false, false) => End::Remove,
        };
        spool.end(Ended { path, folder, charge, end }).await
    }

    /// Tries again to remove what could not be removed. Blocks on nothing but the disk's own threads.
    pub async fn retry_cleanups(&self) {
        let Place::Disk(spool) = &self.place else { return };
        let left = std::mem::take(&mut *spool.left.lock().unwrap_or_else(PoisonError::into_inner));
        for ended in left {
            let path = ended.path.clone();
            if let Err(error) = spool.end(ended).await
                && let Some(suppressed) = NOT_REMOVED.permit()
            {
                tracing::warn!(path = %path.display(), %error, suppressed, "a stored segment still cannot be removed from the spool");
            }
        }
    }
}

impl DiskSpool {
    /// Removes the file or sets it aside. If that fails it is kept in mind, with the lock on its folder and the space that
    /// it takes, so that nobody takes it for a dead process's.
    async fn end(&self, ended: Ended) -> io::Result<()> {
        let (disk, dead, root) = (Arc::clone(&self.disk), self.folders.dead(), self.folders.root().to_owned());
        let (ended, done) = on_blocking_thread(move || {
            let done = ended.carry_out(&*disk, &dead, &root);
            Ok((ended, done))
        })
        .await?;
        if done.is_err() {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
            return done;
        }
        if ended.end == End::SetAside {
            // It still takes its space.
            ended.charge.keep();
        }
        self.folders.let_go(&ended.folder);
        Ok(())
    }
}

impl SealedSegment {
    /// What `salvage` says of it is in the ledger: a later read that finds less of it finds damage.
    pub fn booked(&mut self, salvage: &Salvage) {
        let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let counts = (number(salvage.jobs + salvage.dead_jobs()), number(salvage.payloads + salvage.dead_payloads));
        let (jobs, payloads) = self.attempts.booked.unwrap_or_default();
        self.attempts.booked = Some((counts.0.max(jobs), counts.1.max(payloads)));
    }

    /// The jobs and payloads that this process committed to it; unknown if a dead process did.
    pub fn known(&self) -> Option<(u32, u32)> {
        match &self.source {
            Source::Memory { jobs, payloads, .. } => Some((*jobs, *payloads)),
            Source::File { committed, is_own, .. } => committed.filter(|_| *is_own),
        }
    }

    /// The jobs and payloads that were committed to it; unknown if a process died before it sealed it.
    pub fn committed(&self) -> Option<(u32, u32)> {
        match &self.source {
            Source::Memory { jobs, payloads, .. } => Some((*jobs, *payloads)),
            Source::File { committed, .. } => *committed,
        }
    }
}

async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
