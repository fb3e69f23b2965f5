//! The directory store: an object is a file under the root, named by its key.
//!
//! A file appears whole or not at all: it is written under a temporary name beside its place, fsynced, renamed, and then
//! the folder is fsynced, so that a crash leaves at most a temporary file, which begins with a dot as readers expect of
//! what they should pass over. The folders above a new folder are fsynced too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;

use super::{ErrorClass, Found, StoreError};
use crate::disk::naming;

/// Objects as files.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    location: String,
}

impl DirStore {
    pub(super) fn new(root: PathBuf) -> Self {
        let location = root.display().to_string();
        Self { root, location }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let (root, path) = (self.root.clone(), self.root.join(key));
        on_blocking_thread(move || write(&root, &path, &body)).await
    }

    pub(super) async fn find(&self, key: &str) -> Result<Option<Found>, StoreError> {
        let path = self.root.join(key);
        on_blocking_thread(move || Ok(path.try_exists().map_err(naming(&path))?.then(Found::default))).await
    }

    pub(super) async fn reach(&self) -> Result<(), StoreError> {
        let root = self.root.clone();
        on_blocking_thread(move || {
            fs::create_dir_all(&root).map_err(naming(&root))?;
            NamedTempFile::new_in(&root).map(drop).map_err(naming(&root))
        })
        .await
    }

    pub(super) async fn prove(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.put(key, body.clone()).await.map_err(|error| error.while_doing("write"))?;
        let path = self.root.join(key);
        on_blocking_thread(move || {
            let read = fs::read(&path).map_err(naming(&path))?;
            fs::remove_file(&path).map_err(naming(&path))?;
            if read == body { Ok(()) } else { Err(io::Error::other("what was read back is not what was written")) }
        })
        .await
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| {
        use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        let permanent = matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | NotADirectory);
        let class = if permanent { ErrorClass::Permanent } else { ErrorClass::Transient };
        StoreError { class, message: error.to_string() }
    })
}

fn write(root: &Path, path: &Path, body: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(root);
    create_folder(folder)?;
    let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(folder).map_err(naming(folder))?;
    file.write_all(body).map_err(naming(path))?;
    file.as_file().sync_all().map_err(naming(path))?;
    // Readable as any other new file would be; a temporary one is its owner's alone.
    let file = file.persist(path).map_err(|error| naming(path)(error.error))?;
    make_readable(&file).map_err(naming(path))?;
    sync_folder(folder)
}

/// Creates `folder` and the missing folders above it, and makes each new name durable in the folder that holds it.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    create_folder(above)?;
    match fs::create_dir(folder) {
        // Another worker was here first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        other => other.map_err(naming(folder))?,
    }
    sync_folder(above)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|handle| handle.sync_all()).map_err(naming(folder))
}

#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_file: &File) -> io::Result<()> {
    Ok(())
}
