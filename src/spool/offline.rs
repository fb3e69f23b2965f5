//! A spool as operators' tools use it, beside running processes: lists it, reads segments, and requeues dead ones.
//!
//! The rules of adoption hold: a folder whose lock is taken belongs to a running process and is not opened. The lock of any
//! other folder is held while its segments are read, so that no process adopts and removes them meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LoadError;
use super::attempts::ReadMode;
use super::folder::{Folder, LOCK, is_readable, version};
use super::folders::{DEAD, create, dead_files};
use super::load::examine;
use crate::disk::{Disk, Entry, Lock, with_path};
use crate::segment::file::{Frame, frames};
use crate::segment::salvage::Salvage;
use crate::segment::{Compression, SegmentId, SegmentName};

/// No segment is larger: an object has at most 5 GiB, and what a crash leaves after it is small.
const FILE_MAX_BYTES: u64 = 6 << 30;
/// After the last commit of a sealed segment, its file may hold the frame of a commit that failed.
const UNCOMMITTED_MAX_BYTES: u64 = 256 << 20;

/// `SPOOL_DIR`, for tools.
#[derive(Debug)]
pub struct OfflineSpool {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

/// The owner of a folder, as its lock shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderState {
    /// A running process holds the lock.
    InUse,
    /// No process holds the lock: the next process adopts the folder.
    Exited,
    /// A version of millpond that this one does not know wrote the folder.
    OtherVersion,
    /// No process can adopt the folder, for this reason.
    Failing(String),
}

/// A folder of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolFolder {
    /// Its name under `SPOOL_DIR`.
    pub name: String,
    /// Its owner.
    pub state: FolderState,
    /// Its segments, oldest first. Empty if the folder cannot be listed or is of another version.
    pub segments: Vec<SegmentEntry>,
}

/// The file of a segment, as its name describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its name in its folder.
    pub name: String,
    /// The segment.
    pub id: SegmentId,
    /// The codec of its frames.
    pub compression: Compression,
    /// The jobs and payloads of a sealed segment. An open one was not sealed before its process exited, or still grows.
    pub committed: Option<(u32, u32)>,
    /// The size of the file.
    pub bytes: u64,
    /// The length up to the last commit of a sealed segment.
    committed_bytes: Option<usize>,
}

/// A file under `dead/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The segment that its name describes; none if it is not the name of a segment.
    pub segment: Option<SegmentEntry>,
}

/// A segment that was found. While this lives, no process adopts its folder.
#[derive(Debug)]
pub struct FoundSegment {
    /// The file.
    pub file: SegmentEntry,
    /// The name of its folder under `SPOOL_DIR`.
    pub folder: String,
    /// Its path; none if its folder must be left alone, because of its state.
    path: Result<PathBuf, FolderState>,
    _lock: Option<Lock>,
}

/// What a segment's file holds.
#[derive(Debug)]
pub struct SegmentContent {
    file: Vec<u8>,
    /// What is readable, and what is lost.
    pub salvage: Salvage,
    /// The valid frames.
    pub frames: Vec<Frame>,
}

/// The result of [`OfflineSpool::requeue`].
#[derive(Debug, Default)]
pub struct Requeued {
    /// The files that were moved.
    pub moved: Vec<String>,
    /// The path of the folder that holds them.
    pub folder: PathBuf,
    /// Files that were not moved, and why.
    pub failed: Vec<(String, String)>,
}

impl OfflineSpool {
    /// The spool in the folder `root`.
    pub fn new(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { root, disk }
    }

    /// The folders of processes, by name, which is by age.
    ///
    /// # Errors
    /// `SPOOL_DIR` cannot be listed.
    pub fn folders(&self) -> io::Result<Vec<SpoolFolder>> {
        let mut folders: Vec<_> = self.entries()?.iter().map(|entry| self.folder(&entry.name)).collect();
        folders.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(folders)
    }

    /// The entries of `SPOOL_DIR` that are folders of processes.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = self.disk.list(&self.root).map_err(with_path(&self.root))?;
        entries.retain(|entry| entry.is_dir && version(&entry.name).is_some());
        Ok(entries)
    }

    fn folder(&self, name: &str) -> SpoolFolder {
        let path = self.root.join(name);
        // The lock is released at once: a process that tries to adopt the folder meanwhile tries again.
        let (state, _) = self.lock(name);
        let readable = state != FolderState::OtherVersion;
        let listed = if readable { self.disk.list(&path).map_err(with_path(&path)) } else { Ok(Vec::new()) };
        match listed {
            Ok(files) => SpoolFolder { name: name.to_owned(), state, segments: segments(&files) },
            Err(error) => SpoolFolder {
                name: name.to_owned(),
                state: FolderState::Failing(error.to_string()),
                segments: Vec::new(),
            },
        }
    }

    /// Takes the lock of a folder as adoption does.
    fn lock(&self, name: &str) -> (FolderState, Option<Lock>) {
        if !is_readable(name) {
            return (FolderState::OtherVersion, None);
        }
        let path = self.root.join(name).join(LOCK);
        match self.disk.lock(&path, false) {
            Ok(Some(lock)) => (FolderState::Exited, Some(lock)),
            Ok(None) => (FolderState::InUse, None),
            Err(error) => (FolderState::Failing(with_path(&path)(error).to_string()), None),
        }
    }

    /// The files under `dead/`, by name, which is by age.
    ///
    /// # Errors
    /// `dead/` exists and cannot be listed, or is no folder.
    pub fn dead(&self) -> io::Result<Vec<DeadFile>> {
        let entries = self.disk.list(&self.root).map_err(with_path(&self.root))?;
        if entries.iter().any(|entry| entry.name == DEAD && !entry.is_dir) {
            let reason = "this is a symbolic link or a file; remove it";
            return Err(with_path(&self.root.join(DEAD))(io::Error::new(io::ErrorKind::NotADirectory, reason)));
        }
        let mut files = dead_files(&self.root, &*self.disk)?;
        files.retain(|file| !file.is_dir);
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let dead = |file: Entry| DeadFile { segment: segment(&file), bytes: file.len, name: file.name };
        Ok(files.into_iter().map(dead).collect())
    }

    /// The path of `dead/`.
    pub fn dead_path(&self) -> PathBuf {
        self.root.join(DEAD)
    }

    /// Finds a segment in the folders and under `dead/`, and takes the lock of its folder.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub fn find(&self, id: SegmentId) -> io::Result<Option<FoundSegment>> {
        for entry in self.entries()? {
            let folder = self.root.join(&entry.name);
            let listed = || self.disk.list(&folder).map(|files| segments(&files)).unwrap_or_default();
            if !is_readable(&entry.name) || !listed().iter().any(|file| file.id == id) {
                continue;
            }
            let (state, lock) = self.lock(&entry.name);
            // Listed again under the lock: a running process may have renamed or removed the file.
            let Some(file) = listed().into_iter().find(|file| file.id == id) else { continue };
            let path = if lock.is_some() { Ok(folder.join(&file.name)) } else { Err(state) };
            return Ok(Some(FoundSegment { file, folder: entry.name, path, _lock: lock }));
        }
        let file = self.dead()?.into_iter().filter_map(|file| file.segment).find(|file| file.id == id);
        Ok(file.map(|file| {
            let path = Ok(self.dead_path().join(&file.name));
            FoundSegment { file, folder: DEAD.to_owned(), path, _lock: None }
        }))
    }

    /// Reads a segment that was found. Sectors that cannot be read are skipped.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn read(&self, found: &FoundSegment) -> Result<SegmentContent, OfflineError> {
        let path = found.path.as_ref().map_err(|state| OfflineError::NotReadable {
            folder: found.folder.clone(),
            reason: match state {
                FolderState::InUse => "in use by a running process".to_owned(),
                FolderState::Failing(reason) => reason.clone(),
                state => format!("{state:?}"),
            },
        })?;
        self.read_file(path, &found.file)
    }

    /// Reads a file under `dead/`.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub fn read_dead(&self, file: &SegmentEntry) -> Result<SegmentContent, OfflineError> {
        self.read_file(&self.dead_path().join(&file.name), file)
    }

    fn read_file(&self, path: &Path, file: &SegmentEntry) -> Result<SegmentContent, OfflineError> {
        let found = std::fs::symlink_metadata(path)
            .map_err(|error| OfflineError::NoSegment(with_path(path)(error).to_string()))?;
        let named = file.committed_bytes.map(|bytes| bytes as u64 + UNCOMMITTED_MAX_BYTES);
        let max = named.unwrap_or(FILE_MAX_BYTES);
        if !found.is_file() || found.len() > max {
            let reason = format!("{}: this is no regular file of at most {max} bytes", path.display());
            return Err(OfflineError::NoSegment(reason));
        }
        let len = file.committed_bytes.unwrap_or(usize::MAX);
        let examine = |mode| examine(&*self.disk, path, file.id, len, mode, Vec::new());
        let (bytes, mut salvage) = match examine(ReadMode::Whole) {
            Err(LoadError::Unreadable { is_sector: true, .. }) => examine(ReadMode::SkipErrors),
            other => other,
        }?;
        if let Some((jobs, payloads)) = file.committed {
            salvage.complete(jobs, payloads);
        }
        let frames = frames(file.id, &bytes).collect();
        Ok(SegmentContent { file: bytes, salvage, frames })
    }

    /// Moves files from `dead/` to a new folder without an owner, which the next process adopts, or a running one within
    /// seconds. A crash leaves each file in one of the two places.
    ///
    /// # Errors
    /// The new folder cannot be created. A file that cannot be moved is listed in the result.
    pub fn requeue(&self, names: &[String]) -> io::Result<Requeued> {
        // The lock is held until everything is durable, so that no process adopts a part.
        let target = create(&self.root, &*self.disk)?;
        self.disk.sync_dir(&self.root).map_err(with_path(&self.root))?;
        let mut requeued = Requeued { folder: target.path().to_owned(), ..Requeued::default() };
        let dead = self.dead_path();
        for name in names {
            match self.disk.rename(&dead.join(name), &target.path().join(name)) {
                Ok(()) => requeued.moved.push(name.clone()),
                Err(error) => requeued.failed.push((name.clone(), error.to_string())),
            }
        }
        if requeued.moved.is_empty() {
            self.remove_empty(&target);
            return Ok(requeued);
        }
        // The new names first: after a power loss a file may have both names, but not none.
        self.disk.sync_dir(target.path()).map_err(with_path(target.path()))?;
        self.disk.sync_dir(&dead).map_err(with_path(&dead))?;
        Ok(requeued)
    }

    /// Best effort: the next process removes an empty folder as well.
    fn remove_empty(&self, folder: &Folder) {
        let removed = self.disk.remove(&folder.path().join(LOCK));
        let _: io::Result<()> = removed.and_then(|()| self.disk.remove_dir(folder.path()));
    }
}

/// Why a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Its folder must be left alone.
    #[error("the folder {folder} is {reason}")]
    NotReadable {
        /// The folder.
        folder: String,
        /// Why.
        reason: String,
    },
    /// It has the name of a segment, but is none.
    #[error("{0}")]
    NoSegment(String),
    /// The file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl SegmentContent {
    /// The data of the readable frames, in order: the object, before small frames are joined.
    pub fn data(&self) -> impl Iterator<Item = &[u8]> {
        self.salvage.data.iter().filter_map(|range| self.file.get(range.clone()))
    }

    /// The length of the file up to the last commit, if that is known.
    pub fn len(&self) -> usize {
        self.file.len()
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.file.is_empty()
    }
}

fn segments(files: &[Entry]) -> Vec<SegmentEntry> {
    let mut found: Vec<_> = files.iter().filter_map(segment).collect();
    found.sort_by_key(|segment| segment.id);
    found
}

fn segment(file: &Entry) -> Option<SegmentEntry> {
    let SegmentName { id, compression, committed } = SegmentName::parse(&file.name)?;
    Some(SegmentEntry {
        name: file.name.clone(),
        id,
        compression,
        committed: committed.map(|committed| (committed.jobs, committed.payloads)),
        committed_bytes: committed.map(|committed| committed.bytes),
        bytes: file.len,
    })
}
