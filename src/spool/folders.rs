//! The folders under `SPOOL_DIR`: each process has one, and holds its lock while it lives.
//!
//! ```text
//! SPOOL_DIR/v2-<uuid>/lock    locked by the process; the version is in the folder's name
//! SPOOL_DIR/v2-<uuid>/*.seg   segments (their names: segment/name.rs)
//! SPOOL_DIR/dead/*.seg        damaged segments, whose valid part is stored
//! ```
//!
//! Several processes can share `SPOOL_DIR`. If the lock of a folder is free, its process is dead, and the process that takes
//! the lock adopts its segments. A folder of a newer version is left unchanged and logged. Version 1 had no names for sealed
//! segments; its folders are adopted.
//!
//! An adopted folder keeps its lock file open until its last segment is stored. So at most [`ADOPTED_FOLDERS_MAX`] are adopted
//! at the same time, and the others wait.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use uuid::Uuid;

use super::folder::{Folder, LOCK, VERSION, is_readable, version};
use super::space::{SegmentCharge, Space};
use crate::disk::{Disk, Entry, with_path};
use crate::segment::SegmentName;

/// The most folders of exited processes that are adopted at the same time. Each takes an open file.
pub const ADOPTED_FOLDERS_MAX: usize = 64;
/// Adopted folders may take the process's limit of open files divided by this.
const FILES_PART: u64 = 8;
pub(super) const DEAD: &str = "dead";
const PROBE: &str = "probe";
/// The attempts to create this process's folder. Another process may remove a new folder before it is locked.
const CREATE_ATTEMPTS: usize = 3;

/// A segment that a exited process has left.
#[derive(Debug)]
pub(super) struct AdoptedSegment {
    pub(super) name: SegmentName,
    pub(super) path: PathBuf,
    pub(super) folder: Arc<Folder>,
    pub(super) charge: SegmentCharge,
}

/// Folders of exited processes that are not adopted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unadopted {
    /// Folders that wait until others are done.
    pub waiting: usize,
    /// Folders that cannot be adopted until an operator acts.
    pub failing: usize,
    /// One of those, and why.
    pub reason: Option<String>,
}

/// The folders under `SPOOL_DIR`.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    own: Arc<Folder>,
    /// The number of adopted folders.
    adopted: Arc<AtomicUsize>,
    unadopted: Mutex<Unadopted>,
    /// The names of folders that were logged.
    logged: Mutex<Vec<String>>,
}

/// The result of an attempt to adopt a folder.
enum Adoption {
    Adopted(Vec<AdoptedSegment>),
    /// Too many folders are adopted already.
    Waits,
    /// The process lives, or the folder is gone.
    Skipped,
}

impl Folders {
    /// Creates this process's folder and checks that it can be written to. On a full disk the process reuses the folder of a
    /// dead one, whose segments are returned: it has to start, since only uploads free space.
    pub(super) fn open(
        root: &Path,
        disk: Arc<dyn Disk>,
        space: &Arc<Space>,
    ) -> io::Result<(Self, Vec<AdoptedSegment>)> {
        create_root(root, &*disk)?;
        let (own, is_reused) = match create(root, &*disk) {
            Err(error) if is_full(&error) => (reuse(root, &*disk)?.ok_or(error)?, true),
            created => (created?, false),
        };
        let folders = Self {
            root: root.to_owned(),
            disk,
            own: Arc::new(own),
            adopted: Arc::default(),
            unadopted: Mutex::default(),
            logged: Mutex::default(),
        };
        match folders.disk.sync_dir(root).map_err(with_path(root)).and_then(|()| folders.probe()) {
            Err(error) if is_full(&error) => {
                tracing::error!(%error, "the disk is full; batches are rejected until there is space");
            }
            other => other?,
        }
        let left = if is_reused { folders.segments(&folders.own, space)? } else { Vec::new() };
        let dead = folders.dead();
        let entries = folders.disk.list(root).map_err(with_path(root))?;
        if entries.iter().any(|entry| entry.name == DEAD && !entry.is_dir) {
            // Otherwise damaged segments would be moved to the target of the link.
            let reason = "this is a symbolic link or a file; remove it, and the server creates a folder";
            return Err(with_path(&dead)(io::Error::new(io::ErrorKind::NotADirectory, reason)));
        }
        // Damaged files take space until an operator removes them.
        dead_files(root, &*folders.disk)?.iter().for_each(|file| space.count(bytes(file.len)).keep());
        Ok((folders, left))
    }

    /// The segments in a folder, oldest first.
    fn segments(&self, folder: &Arc<Folder>, space: &Arc<Space>) -> io::Result<Vec<AdoptedSegment>> {
        let files = self.disk.list(folder.path()).map_err(with_path(folder.path()))?;
        let segment = |file: Entry| {
            let name = SegmentName::parse(&file.name)?;
            let (path, charge) = (folder.path().join(&file.name), space.count(bytes(file.len)));
            Some(AdoptedSegment { name, path, folder: Arc::clone(folder), charge })
        };
        let mut found: Vec<_> = files.into_iter().filter_map(segment).collect();
        found.sort_by_key(|segment| segment.name.id);
        Ok(found)
    }

    /// This process's own folder.
    pub(super) fn own(&self) -> &Arc<Folder> {
        &self.own
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn dead(&self) -> PathBuf {
        self.root.join(DEAD)
    }

    /// Writes, syncs and removes a file in this process's folder. A missing folder is not created again: it may be on a mount
    /// that comes back, and would hide what was written meanwhile.
    pub(super) fn probe(&self) -> io::Result<()> {
        let path = self.own.path().join(PROBE);
        // Left by a process that died during a probe.
        let _: io::Result<()> = self.disk.remove(&path);
        let written = self.disk.create(&path).and_then(|mut file| file.append(b"probe").and_then(|()| file.sync()));
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(with_path(&path)(error)),
            _ => written.map_err(with_path(&path)),
        }
    }

    /// Adopts the folders of exited processes, up to the limit.
    pub(super) fn adopt(&self, space: &Arc<Space>) -> io::Result<Vec<AdoptedSegment>> {
        let adopted_max = adopted_max();
        // Until an adopted folder is done, the others would have to wait again.
        if self.unadopted().waiting > 0 && self.adopted.load(Ordering::Acquire) >= adopted_max {
            return Ok(Vec::new());
        }
        let (mut adopted, mut unadopted) = (Vec::new(), Unadopted::default());
        for entry in self.disk.list(&self.root).map_err(with_path(&self.root))? {
            let path = self.root.join(&entry.name);
            if !entry.is_dir || entry.name == DEAD || path == self.own.path() {
                continue;
            }
            if !is_readable(&entry.name) {
                let is_version = version(&entry.name).is_some();
                let writer = if is_version { "another version of millpond" } else { "another program" };
                self.log_once(&entry.name, &format!("this folder was written by {writer}; it is left alone"));
                continue;
            }
            match self.adopt_folder(&path, space, adopted_max) {
                Ok(Adoption::Adopted(mut segments)) => adopted.append(&mut segments),
                Ok(Adoption::Waits) => unadopted.waiting += 1,
                Ok(Adoption::Skipped) => {}
                // The other folders are adopted anyway, and the next call retries this one.
                Err(error) => {
                    let reason = format!("cannot be adopted: {error}");
                    self.log_once(&entry.name, &format!("the folder of a exited process {reason}"));
                    unadopted.failing += 1;
                    unadopted.reason.get_or_insert_with(|| format!("folder {} {reason}", entry.name));
                }
            }
        }
        *self.unadopted.lock() = unadopted;
        Ok(adopted)
    }

    /// The folders of exited processes that the last call of [`adopt`](Self::adopt) did not adopt.
    pub(super) fn unadopted(&self) -> Unadopted {
        self.unadopted.lock().clone()
    }

    fn adopt_folder(&self, path: &Path, space: &Arc<Space>, adopted_max: usize) -> io::Result<Adoption> {
        let lock = match self.disk.lock(&path.join(LOCK), false) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(Adoption::Skipped),
            // The folder is being created or removed, or a process died during that. Then it is empty, and is removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.disk.remove_dir(path).is_err() && self.disk.list(path).is_ok_and(|files| !files.is_empty()) {
                    let reason = "it has no lock file; create an empty one to have the folder adopted";
                    return Err(io::Error::new(io::ErrorKind::NotFound, reason));
                }
                return Ok(Adoption::Skipped);
            }
            Err(error) => return Err(with_path(path)(error)),
        };
        if self.adopted.load(Ordering::Acquire) >= adopted_max {
            return Ok(Adoption::Waits);
        }
        let folder = Arc::new(Folder::adopted(path.to_owned(), lock, &self.adopted));
        let segments = match self.segments(&folder, space) {
            // Another process has adopted and removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Adoption::Skipped),
            segments => segments?,
        };
        folder.add_segments(segments.len());
        if !segments.is_empty() {
            tracing::info!(folder = %path.display(), segments = segments.len(), "adopted the segments of a exited process");
        }
        // Ends the adoption: a folder without segments is removed.
        self.segment_removed(&folder);
        Ok(Adoption::Adopted(segments))
    }

    /// A segment was removed from `folder`. An adopted folder is removed with its last segment.
    pub(super) fn segment_removed(&self, folder: &Folder) {
        if folder.remove_segment() {
            self.remove_empty(folder);
        }
    }

    /// Removes this process's own folder, if it is empty.
    pub(super) fn close(&self) {
        self.remove_empty(&self.own);
    }

    /// Best effort: the next process adopts what remains. The lock is removed last, since a folder without one is not adopted.
    fn remove_empty(&self, folder: &Folder) {
        let path = folder.path();
        let _: io::Result<()> = self.disk.remove(&path.join(PROBE));
        let removed = self.disk.list(path).and_then(|files| match files.as_slice() {
            [only] if only.name == LOCK => {
                self.disk.remove(&path.join(LOCK))?;
                self.disk.remove_dir(path)
            }
            _ => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(folder = %path.display(), %error, "cannot remove an empty folder");
        }
    }

    fn log_once(&self, name: &str, message: &str) {
        let mut logged = self.logged.lock();
        if !logged.iter().any(|known| known == name) {
            tracing::warn!(folder = %self.root.join(name).display(), "{message}");
            logged.push(name.to_owned());
        }
    }
}

/// Creates `SPOOL_DIR` and the missing folders above it, and makes their names durable.
fn create_root(root: &Path, disk: &dyn Disk) -> io::Result<()> {
    let is_missing = |path: &&Path| disk.list(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let missing: Vec<&Path> =
        root.ancestors().filter(|path| !path.as_os_str().is_empty()).take_while(is_missing).collect();
    disk.create_dir_all(root).map_err(with_path(root))?;
    for new in missing {
        let above = new.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(above).map_err(with_path(above))?;
    }
    Ok(())
}

/// Creates a folder for a process, and locks it.
pub(super) fn create(root: &Path, disk: &dyn Disk) -> io::Result<Folder> {
    let mut attempts = CREATE_ATTEMPTS;
    loop {
        let path = root.join(format!("v{VERSION}-{}", Uuid::now_v7()));
        disk.create_dir(&path).map_err(with_path(&path))?;
        attempts -= 1;
        match disk.lock(&path.join(LOCK), true) {
            Ok(Some(lock)) => return Ok(Folder::own(path, lock)),
            Ok(None) if attempts > 0 => {}
            Err(error) if attempts > 0 && error.kind() == io::ErrorKind::NotFound => {}
            Ok(None) => return Err(with_path(&path)(io::ErrorKind::WouldBlock.into())),
            Err(error) => return Err(with_path(&path)(error)),
        }
    }
}

/// The first folder of a exited process.
fn reuse(root: &Path, disk: &dyn Disk) -> io::Result<Option<Folder>> {
    for entry in disk.list(root).map_err(with_path(root))? {
        let path = root.join(&entry.name);
        if entry.is_dir
            && is_readable(&entry.name)
            && let Ok(Some(lock)) = disk.lock(&path.join(LOCK), false)
        {
            return Ok(Some(Folder::own(path, lock)));
        }
    }
    Ok(None)
}

/// Whether the disk is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a folder under `root` holds a segment.
pub(super) fn has_segments(root: &Path, disk: &dyn Disk) -> bool {
    let folders = disk.list(root).unwrap_or_default();
    let readable = folders.iter().filter(|folder| is_readable(&folder.name));
    readable
        .filter_map(|folder| disk.list(&root.join(&folder.name)).ok())
        .any(|files| files.iter().any(|file| SegmentName::parse(&file.name).is_some()))
}

/// The files under `dead/`.
pub(super) fn dead_files(root: &Path, disk: &dyn Disk) -> io::Result<Vec<Entry>> {
    let dead = root.join(DEAD);
    match disk.list(&dead) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(with_path(&dead)),
    }
}

/// The most adopted folders, so that enough open files are left for connections and uploads.
fn adopted_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / FILES_PART).unwrap_or(ADOPTED_FOLDERS_MAX).clamp(1, ADOPTED_FOLDERS_MAX)
}

fn bytes(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
