//! The file system as the spool uses it: a handful of calls behind a trait, so that a test can make each of them fail.
//!
//! Every call blocks. Paths in errors are the caller's business: see [`naming`].

mod around;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use around::{is_unreadable, read_skipping_errors};

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the folder; names that are not UTF-8 are passed over, since none of ours is.
    pub name: String,
    /// Bytes, of a file.
    pub len: u64,
    /// Whether it is a folder itself.
    pub is_dir: bool,
}

/// Holds a lock until it is dropped, or the process ends however it ends.
pub type Lock = Box<dyn Send + Sync + Debug>;

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Creates a folder, for its owner alone, and those above it; one that is there already is left as it is.
    ///
    /// # Errors
    /// The system's.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder, for its owner alone, in one that is there. One that is there already is good; a symbolic link, even
    /// one to a folder, is not.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// What is in a folder, in no order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Creates a file that must not exist yet, for appending, and for its owner alone.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Reads a whole file into `buffer`, in place of what was in it.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<()>;

    /// Reads a file as [`read`](Self::read) does, with zeros in place of what the device cannot read; returns the ranges of
    /// the zeros.
    ///
    /// # Errors
    /// As [`read_skipping_errors`] has it.
    fn read_skipping_errors(&self, path: &Path, buffer: &mut Vec<u8>) -> io::Result<Vec<Range<usize>>>;

    /// Moves a file within the file system.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// The system's.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable (fsync).
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Locks a file, which is made if `create` says so; none when another process has it, or has removed it meanwhile.
    ///
    /// # Errors
    /// The system's.
    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>>;
}

/// A file that grows.
pub trait DiskFile: Send + Debug {
    /// Writes all of `bytes` at the end. After an error some of them may be there.
    ///
    /// # Errors
    /// The system's.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was appended durable (fdatasync), under the path that the file was created with: one that was removed or
    /// moved since is an error, since nobody would find it again. After an error nothing may be said of it any more, and the call must
    /// not be repeated: the kernel may have marked the pages clean.
    ///
    /// # Errors
    /// The system's.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    /// The system's.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

/// Mode of folders that hold accepted work.
const FOLDER_MODE: u32 = 0o700;
/// Mode of files that hold accepted work.
const FILE_MODE: u32 = 0o600;

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        // Those above may be for others, too: they get the mode of any new folder.
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
                let reason = "a symbolic link or a file, and not a folder";
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
                // Gone since: another process tidies its own.
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
            // One that was removed since it was opened is nobody's lock.
            Ok(()) => Ok(is_at(&file, path).then(|| Box::new(file) as Lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(FOLDER_MODE).create(path)?;
    // The umask may have taken a bit that the owner needs.
    let _: io::Result<()> = fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE));
    Ok(())
}

/// Sets the mode whatever the umask has made of it. A file system without modes refuses, and holds files all the same.
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

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

/// Whether `path` still names this very file.
fn is_at(file: &File, path: &Path) -> bool {
    let named = fs::metadata(path).ok().map(|named| (named.dev(), named.ino()));
    let open = file.metadata().ok().map(|open| (open.dev(), open.ino()));
    named.is_some() && named == open
}

/// Puts the path into an error of the file system's, which does not know it.
pub fn naming(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
