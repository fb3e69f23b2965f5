//! One folder under `SPOOL_DIR`, whose lock this process holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use crate::disk::{Disk, Lock};
use crate::segment::{Committed, Compression, SegmentId, SegmentName};

/// The version of the format of a folder and its files.
pub(super) const VERSION: u32 = 2;
/// The oldest version that is still read.
const OLDEST_VERSION: u32 = 1;
/// The file that is locked.
pub(super) const LOCK: &str = "lock";

/// A folder of this process, or an adopted one.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The segments in an adopted folder, plus one while it is being adopted; none for this process's own.
    segments: Option<AtomicUsize>,
    lock: Option<Lock>,
    /// Counts the adopted folders, this one included.
    adopted: Option<Arc<AtomicUsize>>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The lock's file is closed before another folder may be adopted.
        drop(self.lock.take());
        if let Some(adopted) = &self.adopted {
            adopted.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Folder {
    pub(super) fn own(path: PathBuf, lock: Lock) -> Self {
        Self { path, segments: None, lock: Some(lock), adopted: None }
    }

    pub(super) fn adopted(path: PathBuf, lock: Lock, adopted: &Arc<AtomicUsize>) -> Self {
        adopted.fetch_add(1, Ordering::AcqRel);
        let segments = Some(AtomicUsize::new(1));
        Self { path, segments, lock: Some(lock), adopted: Some(Arc::clone(adopted)) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn add_segments(&self, count: usize) {
        if let Some(segments) = &self.segments {
            segments.fetch_add(count, Ordering::AcqRel);
        }
    }

    /// Subtracts a segment. Returns whether it was the last one of an adopted folder.
    pub(super) fn remove_segment(&self) -> bool {
        self.segments.as_ref().is_some_and(|segments| segments.fetch_sub(1, Ordering::AcqRel) == 1)
    }

    /// The path of a segment that is open.
    pub(super) fn open_path(&self, id: SegmentId, compression: Compression) -> PathBuf {
        self.path.join(SegmentName { id, compression, committed: None }.to_string())
    }

    /// The path of a segment that is sealed; none in a folder of version 1, which has no names for them.
    pub(super) fn sealed_path(&self, id: SegmentId, compression: Compression, committed: Committed) -> Option<PathBuf> {
        let name = self.path.file_name()?.to_str()?;
        let sealed = SegmentName { id, compression, committed: Some(committed) };
        (version(name) == Some(VERSION)).then(|| self.path.join(sealed.to_string()))
    }

    /// The path of the segment's file, open or sealed.
    pub(super) fn find(&self, disk: &dyn Disk, id: SegmentId) -> Option<PathBuf> {
        let files = disk.list(&self.path).ok()?;
        let file = files.into_iter().find(|file| is_of_segment(&file.name, id))?;
        Some(self.path.join(file.name))
    }

    /// Whether the folder exists, with its lock, and does not contain the segment.
    pub(super) fn lacks(&self, disk: &dyn Disk, id: SegmentId) -> bool {
        disk.list(&self.path).is_ok_and(|files| {
            files.iter().any(|file| file.name == LOCK) && !files.iter().any(|file| is_of_segment(&file.name, id))
        })
    }
}

fn is_of_segment(name: &str, id: SegmentId) -> bool {
    SegmentName::parse(name).is_some_and(|name| name.id == id)
}

/// The version in the name of a folder.
pub(super) fn version(name: &str) -> Option<u32> {
    let (version, id) = name.strip_prefix('v')?.split_once('-')?;
    Uuid::try_parse(id).ok()?;
    version.parse().ok()
}

/// Whether the name is that of a folder that this version reads.
pub(super) fn is_readable(name: &str) -> bool {
    matches!(version(name), Some(OLDEST_VERSION..=VERSION))
}
