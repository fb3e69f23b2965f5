//! The folders under `SPOOL_DIR`: one of each process, which holds its lock for as long as it lives.
//!
//! ```text
//! SPOOL_DIR/v2-<uuid>/lock    held by its process; its version is in its name
//! SPOOL_DIR/v2-<uuid>/*.seg   segments; their names: names.rs
//! SPOOL_DIR/dead/*.seg        damaged, and stored as far as they were good
//! ```
//!
//! Two processes can share `SPOOL_DIR`. A folder whose lock can be taken is that of a dead process, and the process that
//! takes the lock owns its segments. A folder of a newer version is left alone and named in the log. Version 1 had no names
//! for sealed segments; its folders are taken over.
//!
//! A folder that was taken over holds its lock open until its last segment is stored. So only [`ADOPTED_FOLDERS_MAX`] are held at once,
//! and the others wait for their turn.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};
use uuid::Uuid;

use super::names::{Committed, SegmentName};
use super::space::{Charge, Space};
use crate::disk::{Disk, Lock, naming};
use crate::segment::{Compression, SegmentId};

/// The format of a folder and all that is in it.
const VERSION: u32 = 2;
/// The oldest that is still read.
const OLDEST_VERSION: u32 = 1;
/// Folders of dead processes that are held at once, each with an open file.
pub const ADOPTED_FOLDERS_MAX: usize = 64;
/// Of the files that this process may open, at most this share is for folders of dead processes.
const FILES_SHARE: u64 = 8;
const LOCK: &str = "lock";
const DEAD: &str = "dead";
const PROBE: &str = "probe";
/// A folder of ours that somebody takes away between its creation and its lock is created again, so often at most.
const CREATE_TRIES: usize = 3;

/// A folder whose lock this process holds.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Segments of a dead process that are still there.
    left: AtomicUsize,
    is_own: bool,
    lock: Option<Lock>,
    /// How many folders of dead processes are held, this one among them; none for this process's own.
    held: Option<Arc<AtomicUsize>>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The file is closed before another may be opened in its place.
        drop(self.lock.take());
        if let Some(held) = &self.held {
            held.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Folder {
    fn own(path: PathBuf, lock: Lock) -> Self {
        Self { path, left: AtomicUsize::new(0), is_own: true, lock: Some(lock), held: None }
    }

    fn adopted(path: PathBuf, lock: Lock, held: &Arc<AtomicUsize>) -> Self {
        held.fetch_add(1, Ordering::AcqRel);
        Self { path, left: AtomicUsize::new(1), is_own: false, lock: Some(lock), held: Some(Arc::clone(held)) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a segment that is open.
    pub(super) fn segment(&self, id: SegmentId, compression: Compression) -> PathBuf {
        self.path.join(SegmentName { id, compression, committed: None }.to_string())
    }

    /// The file of a segment that is sealed; none in a folder of a version that has no names for them.
    pub(super) fn sealed(&self, id: SegmentId, compression: Compression, committed: Committed) -> Option<PathBuf> {
        let name = self.path.file_name()?.to_str()?;
        let sealed = SegmentName { id, compression, committed: Some(committed) };
        (version(name) == Some(VERSION)).then(|| self.path.join(sealed.to_string()))
    }

    /// Where the segment's file is, under whatever name: a rename that failed may have happened all the same.
    pub(super) fn find(&self, disk: &dyn Disk, id: SegmentId) -> Option<PathBuf> {
        let files = disk.list(&self.path).ok()?;
        let file = files.into_iter().find(|file| SegmentName::parse(&file.name).is_some_and(|name| name.id == id));
        file.map(|file| self.path.join(file.name))
    }

    /// Whether the folder is there, lock and all, and this segment is not in it.
    pub(super) fn is_there_without(&self, disk: &dyn Disk, id: SegmentId) -> bool {
        let is_segment = |name: &str| SegmentName::parse(name).is_some_and(|name| name.id == id);
        let listed = disk.list(&self.path);
        listed.is_ok_and(|files| {
            files.iter().any(|file| file.name == LOCK) && !files.iter().any(|file| is_segment(&file.name))
        })
    }
}

/// A segment that a dead process has left.
#[derive(Debug)]
pub struct Adopted {
    pub(super) id: SegmentId,
    pub(super) compression: Compression,
    /// What its name says of it, if it was sealed.
    pub(super) committed: Option<Committed>,
    pub(super) path: PathBuf,
    pub(super) folder: Arc<Folder>,
    pub(super) charge: Charge,
}

/// Folders of dead processes that are not taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unadopted {
    /// Folders that wait until others are done.
    pub waiting: usize,
    /// Folders that cannot be taken over until a person does something.
    pub failing: usize,
    /// One of those, and why.
    pub reason: Option<String>,
}

impl Unadopted {
    /// Whether every folder of a dead process is taken over.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0 && self.failing == 0
    }
}

/// How many files were set aside as damaged under `root`, and their bytes.
pub(super) fn dead_files(root: &Path, disk: &dyn Disk) -> io::Result<(usize, u64)> {
    let dead = root.join(DEAD);
    match disk.list(&dead) {
        Ok(files) => Ok((files.len(), files.iter().map(|file| file.len).sum())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, 0)),
        Err(error) => Err(naming(&dead)(error)),
    }
}

/// The folders under `SPOOL_DIR` as this process sees them.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    own: Arc<Folder>,
    held: Arc<AtomicUsize>,
    unadopted: Mutex<Unadopted>,
    /// Names that were reported already.
    reported: Mutex<Vec<String>>,
}

/// What a look at a folder came to.
enum Look {
    /// Its process is dead, and this one has taken it over.
    Adopted(Vec<Adopted>),
    /// Its process is dead, and too many are held to take it over now.
    Waits,
    /// Nothing is to be done.
    Passed,
}

impl Folders {
    /// Creates this process's folder and tries it out. On a disk that is full the process makes do with a dead one's, whose
    /// segments are returned: it has to start, since to upload what is there is what makes room.
    pub(super) fn open(root: &Path, disk: Arc<dyn Disk>, space: &Arc<Space>) -> io::Result<(Self, Vec<Adopted>)> {
        create_root(root, &*disk)?;
        let (own, is_reused) = match create(root, &*disk) {
            Err(error) if is_full(&error) => (reuse(root, &*disk)?.ok_or(error)?, true),
            created => (created?, false),
        };
        let folders = Self {
            root: root.to_owned(),
            disk,
            own: Arc::new(own),
            held: Arc::default(),
            unadopted: Mutex::default(),
            reported: Mutex::default(),
        };
        let tried = folders.disk.sync_dir(root).map_err(naming(root)).and_then(|()| folders.probe(&*folders.disk));
        match tried {
            Err(error) if is_full(&error) => {
                tracing::error!(%error, "the disk is full: no work is taken until it is not")
            }
            other => other?,
        }
        let left = if is_reused { folders.segments(&folders.own, space)? } else { Vec::new() };
        // What was set aside takes space until a person looks at it and removes it.
        let dead = folders.dead();
        let root_entries = folders.disk.list(root).map_err(naming(root))?;
        if root_entries.iter().any(|entry| entry.name == DEAD && !entry.is_dir) {
            // Damaged files would be moved to where the link leads.
            let reason =
                "a symbolic link or a file, and not a folder: remove it, and the server makes a folder of its own";
            return Err(naming(&dead)(io::Error::new(io::ErrorKind::NotADirectory, reason)));
        }
        match folders.disk.list(&dead) {
            Ok(files) => files.iter().for_each(|file| space.count(bytes(file.len)).keep()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(naming(&dead)(error)),
        }
        Ok((folders, left))
    }

    /// The segments in a folder, the oldest first.
    fn segments(&self, folder: &Arc<Folder>, space: &Arc<Space>) -> io::Result<Vec<Adopted>> {
        let files = self.disk.list(&folder.path).map_err(naming(&folder.path))?;
        let mut found: Vec<_> = files
            .into_iter()
            .filter_map(|file| Some((SegmentName::parse(&file.name)?, file)))
            .map(|(SegmentName { id, compression, committed }, file)| Adopted {
                id,
                compression,
                committed,
                path: folder.path.join(&file.name),
                folder: Arc::clone(folder),
                charge: space.count(bytes(file.len)),
            })
            .collect();
        found.sort_by_key(|segment| segment.id);
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

    /// Writes, syncs and removes a file in this process's folder. A folder that is away is not made anew: it may be a mount
    /// that comes back, and what is written in its place would be hidden then.
    pub(super) fn probe(&self, disk: &dyn Disk) -> io::Result<()> {
        let path = self.own.path.join(PROBE);
        // One of a process that died over it.
        let _: io::Result<()> = disk.remove(&path);
        let tried = disk.create(&path).and_then(|mut file| file.append(b"probe").and_then(|()| file.sync()));
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(naming(&path)(error)),
            _ => tried.map_err(naming(&path)),
        }
    }

    /// Takes the folders of processes that are dead, as many as may be held.
    pub(super) fn adopt(&self, space: &Arc<Space>) -> io::Result<Vec<Adopted>> {
        let held_max = held_max();
        // Until one of those that are held is done, a look at the others would find the same.
        if self.unadopted().waiting > 0 && self.held.load(Ordering::Acquire) >= held_max {
            return Ok(Vec::new());
        }
        let (mut adopted, mut unadopted) = (Vec::new(), Unadopted::default());
        for entry in self.disk.list(&self.root).map_err(naming(&self.root))? {
            let path = self.root.join(&entry.name);
            if !entry.is_dir || entry.name == DEAD || path == self.own.path {
                continue;
            }
            match version(&entry.name) {
                Some(OLDEST_VERSION..=VERSION) => match self.look(&path, space, held_max) {
                    Ok(Look::Adopted(mut segments)) => adopted.append(&mut segments),
                    Ok(Look::Waits) => unadopted.waiting += 1,
                    Ok(Look::Passed) => {}
                    // It is looked at again the next time, and must not keep the others waiting.
                    Err(error) => {
                        let reason = format!("cannot be taken over: {error}");
                        self.report(&entry.name, &reason);
                        unadopted.failing += 1;
                        unadopted.reason.get_or_insert_with(|| format!("folder {} {reason}", entry.name));
                    }
                },
                Some(_) => self.report(&entry.name, "written by another version of millpond, and left alone"),
                None => self.report(&entry.name, "not one of millpond's folders, and left alone"),
            }
        }
        *self.unadopted.lock().unwrap_or_else(PoisonError::into_inner) = unadopted;
        Ok(adopted)
    }

    /// The folders of dead processes that the last look did not take over.
    pub(super) fn unadopted(&self) -> Unadopted {
        self.unadopted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self, path: &Path, space: &Arc<Space>, held_max: usize) -> io::Result<Look> {
        let lock = match self.disk.lock(&path.join(LOCK), false) {
            Ok(Some(lock)) => lock,
            // Its process lives.
            Ok(None) => return Ok(Look::Passed),
            // Being created, or left half created or half removed: then it is empty, and this removes it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.disk.remove_dir(path).is_err() && self.disk.list(path).is_ok_and(|files| !files.is_empty()) {
                    let missing = "it has no lock file: put an empty one there to have it taken over";
                    return Err(io::Error::new(io::ErrorKind::NotFound, missing));
                }
                return Ok(Look::Passed);
            }
            Err(error) => return Err(naming(path)(error)),
        };
        if self.held.load(Ordering::Acquire) >= held_max {
            return Ok(Look::Waits);
        }
        let folder = Arc::new(Folder::adopted(path.to_owned(), lock, &self.held));
        let adopted = match self.segments(&folder, space) {
            // Removed by another who adopted it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Passed),
            adopted => adopted?,
        };
        folder.left.fetch_add(adopted.len(), Ordering::AcqRel);
        if !adopted.is_empty() {
            tracing::info!(folder = %path.display(), segments = adopted.len(), "found segments of a dead process");
        }
        // The one on top of the segments: a folder that had none goes now.
        self.let_go(&folder);
        Ok(Look::Adopted(adopted))
    }

    /// A segment of `folder` is gone from it. A dead process's folder goes with its last segment.
    pub(super) fn let_go(&self, folder: &Folder) {
        if folder.is_own || folder.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.remove_empty(folder);
    }

    /// Removes this process's own folder, if it is empty.
    pub(super) fn close(&self) {
        self.remove_empty(&self.own);
    }

    /// Best effort: what stays is adopted by the next process. The lock goes last, since without it nobody would.
    fn remove_empty(&self, folder: &Folder) {
        let _: io::Result<()> = self.disk.remove(&folder.path.join(PROBE));
        let removed = self.disk.list(&folder.path).and_then(|files| match files.as_slice() {
            [only] if only.name == LOCK => {
                self.disk.remove(&folder.path.join(LOCK))?;
                self.disk.remove_dir(&folder.path)
            }
            _ => Ok(()),
        });
        if let Err(error) = removed {
            tracing::warn!(folder = %folder.path.display(), %error, "an empty folder cannot be removed");
        }
    }

    fn report(&self, name: &str, what: &str) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if !reported.iter().any(|known| known == name) {
            tracing::warn!(folder = %self.root.join(name).display(), "{what}");
            reported.push(name.to_owned());
        }
    }
}

/// Creates `SPOOL_DIR` and what is missing above it, and makes each new name durable.
fn create_root(root: &Path, disk: &dyn Disk) -> io::Result<()> {
    let is_missing = |path: &&Path| disk.list(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let missing: Vec<&Path> =
        root.ancestors().filter(|path| !path.as_os_str().is_empty()).take_while(is_missing).collect();
    disk.create_dir_all(root).map_err(naming(root))?;
    for new in missing {
        let above = new.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(above).map_err(naming(above))?;
    }
    Ok(())
}

fn create(root: &Path, disk: &dyn Disk) -> io::Result<Folder> {
    let mut tries = CREATE_TRIES;
    loop {
        let path = root.join(format!("v{VERSION}-{}", Uuid::now_v7()));
        disk.create_dir(&path).map_err(naming(&path))?;
        tries -= 1;
        match disk.lock(&path.join(LOCK), true) {
            Ok(Some(lock)) => return Ok(Folder::own(path, lock)),
            Ok(None) if tries > 0 => {}
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::NotFound => {}
            Ok(None) => return Err(naming(&path)(io::ErrorKind::WouldBlock.into())),
            Err(error) => return Err(naming(&path)(error)),
        }
    }
}

/// The first folder of a dead process.
fn reuse(root: &Path, disk: &dyn Disk) -> io::Result<Option<Folder>> {
    for entry in disk.list(root).map_err(naming(root))? {
        let path = root.join(&entry.name);
        if entry.is_dir
            && matches!(version(&entry.name), Some(OLDEST_VERSION..=VERSION))
            && let Ok(Some(lock)) = disk.lock(&path.join(LOCK), false)
        {
            return Ok(Some(Folder::own(path, lock)));
        }
    }
    Ok(None)
}

/// Whether the disk has no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether any folder under `root` has a segment in it.
pub(super) fn has_segments(root: &Path, disk: &dyn Disk) -> bool {
    let folders = disk.list(root).unwrap_or_default();
    let ours = folders.iter().filter(|folder| matches!(version(&folder.name), Some(OLDEST_VERSION..=VERSION)));
    ours.filter_map(|folder| disk.list(&root.join(&folder.name)).ok())
        .any(|files| files.iter().any(|file| SegmentName::parse(&file.name).is_some()))
}

/// How many folders of dead processes may be held, so that enough files are left for connections and uploads.
fn held_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / FILES_SHARE).unwrap_or(ADOPTED_FOLDERS_MAX).clamp(1, ADOPTED_FOLDERS_MAX)
}

/// The version in a folder's name.
fn version(name: &str) -> Option<u32> {
    let (version, id) = name.strip_prefix('v')?.split_once('-')?;
    Uuid::try_parse(id).ok()?;
    version.parse().ok()
}

fn bytes(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
