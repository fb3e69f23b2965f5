//! The file system as the spool uses it: a few calls behind a trait, so that a test can make each of them fail.
//!
//! Every call blocks. The errors are those of the operating system and do not name the path: see [`with_path`].

mod bad_sectors;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use bad_sectors::{is_unreadable, read_skipping_errors};

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the folder. Names that are not UTF-8 are skipped, since the spool creates none.
    pub name: String,
    /// Bytes, of a file.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A lock, which is released on drop and when the process ends.
pub type Lock = Box<dyn Send + Sync + Debug>;

/// A file system. Every error is one of the operating system, unless the method says more.
pub trait Disk: Send + Sync + Debug {
    /// Creates a folder with mode 0700, and the missing folders above it. An existing folder is left unchanged.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder with mode 0700 in an existing one. An existing folder is left unchanged; a symbolic link, even to a
    /// folder, is an error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The entries of a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Creates a file with mode 0600, for appending. An existing file is an error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Reads a whole file into `buffer`, and replaces its content.
    fn read(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<()>;

    /// Reads a file as [`read`](Self::read) does, with zeros in place of what the device cannot read. Returns the ranges of
    /// the zeros. The errors are those of [`read_skipping_errors`].
    fn read_skipping_errors(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>>;

    /// Moves a file within the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable (fsync).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Locks a file, and creates it first if `create` is set. None if another process holds the lock, or removed the file
    /// meanwhile.
    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>>;
}

/// A file that is appended to. Every error is one of the operating system.
pub trait DiskFile: Send + Debug {
    /// Appends all of `bytes`. After an error some of them may be in the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content durable (fdatasync) under the path that the file was created with. If the file was removed or moved
    /// since, that is an error, since recovery would not find it. After an error the state of the content is unknown, and the
    /// call must not be repeated: the kernel may have marked the pages clean.
    fn sync(&mut self) -> io::Result<()>;

    /// Truncates the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        // Other programs may use the folders above: they get the default mode.
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        match create_private_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match create_private_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_dir = fs::symlink_metadata(path)?.is_dir();
                let reason = "this is a symbolic link or a file; a folder is required";
                if is_dir { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotADirectory, reason)) }
            }
            other => other,
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(metadata) => entries.push(Entry { name, len: metadata.len(), is_dir: metadata.is_dir() }),
                // Removed meanwhile by another process.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().append(true).create_new(true).mode(FILE_MODE).open(path)?;
        set_mode(&file, FILE_MODE);
        Ok(Box::new(RealFile { file, path: path.to_owned() }))
    }

    fn read(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        File::open(path)?.read_to_end(buffer).map(drop)
    }

    fn read_skipping_errors(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>> {
        let file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        read_skipping_errors(len, buffer, |part, at| file.read_at(part, at))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().read(true).append(true).create(create).mode(FILE_MODE).open(path)?;
        if create {
            set_mode(&file, FILE_MODE);
        }
        match file.try_lock() {
            // A file that was removed after it was opened locks nothing.
            Ok(()) => Ok(is_at(&file, path).then(|| Box::new(file) as Lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(FOLDER_MODE).create(path)?;
    // The umask may have cleared a bit of the owner.
    let _: io::Result<()> = fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE));
    Ok(())
}

/// Sets the mode, whatever the umask. An error is ignored: a file system without modes can still hold the file.
fn set_mode(file: &File, mode: u32) {
    let is_other = |is: fs::Metadata| is.mode() & 0o777 != mode;
    if file.metadata().is_ok_and(is_other) {
        let _: io::Result<()> = file.set_permissions(Permissions::from_mode(mode));
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if is_at(&self.file, &self.path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// Whether `path` still names this file.
fn is_at(file: &File, path: &Path) -> bool {
    let named = fs::metadata(path).ok().map(|named| (named.dev(), named.ino()));
    let open = file.metadata().ok().map(|open| (open.dev(), open.ino()));
    named.is_some() && named == open
}

/// Adds the path to an error of the operating system.
pub fn with_path(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Runs work that blocks on a thread of the runtime that may block.
pub(crate) async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
