//! The directory store: an object is a file under the root, named by its key.
//!
//! A file appears whole or not at all: it is written under a temporary name beside its place, fsynced, renamed, and then
//! the folder is fsynced, so that a crash leaves at most a temporary file, which begins with a dot as readers expect of
//! what they should pass over. The folders above a new folder are fsynced too.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tempfile::NamedTempFile;

use super::{ErrorClass, ObjectInfo, StoreError, StoredObject, lines};
use crate::disk::naming;

/// Folders are remembered up to this many; there is a new one every hour.
const DURABLE_MAX: usize = 1024;

/// Objects as files.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    location: String,
    durable: Arc<Durable>,
}

impl DirStore {
    pub(super) fn new(root: PathBuf) -> Self {
        let location = root.display().to_string();
        Self { root, location, durable: Arc::default() }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) async fn put(
        &self,
        key: &str,
        body: Bytes,
        info: &ObjectInfo,
        may_be_there: bool,
    ) -> Result<Option<StoredObject>, StoreError> {
        let (root, path, durable) = (self.root.clone(), self.root.join(key), Arc::clone(&self.durable));
        let payloads = info.payloads;
        on_blocking_thread(move || {
            let there = if may_be_there { count(&path)? } else { None };
            match there.filter(|there| *there >= payloads) {
                // Its bytes are durable, and its name may not be yet.
                Some(there) => sync_folder(path.parent().unwrap_or(&root)).map(|()| Some(counted(there))),
                None => write(&root, &path, &body, &durable).map(|()| None),
            }
        })
        .await
    }

    pub(super) async fn count(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let path = self.root.join(key);
        on_blocking_thread(move || Ok(count(&path)?.map(counted))).await
    }

    pub(super) async fn find(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let path = self.root.join(key);
        on_blocking_thread(move || Ok(path.try_exists().map_err(naming(&path))?.then(StoredObject::default))).await
    }

    pub(super) async fn check_reachable(&self) -> Result<(), StoreError> {
        let root = self.root.clone();
        on_blocking_thread(move || {
            fs::create_dir_all(&root).map_err(naming(&root))?;
            NamedTempFile::new_in(&root).map(drop).map_err(naming(&root))
        })
        .await
    }

    pub(super) async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let path = self.root.join(key);
        on_blocking_thread(move || fs::read(&path).map(Bytes::from).map_err(naming(&path))).await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.root.join(key);
        on_blocking_thread(move || fs::remove_file(&path).map_err(naming(&path))).await
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

/// The lines of the object at `path`; none if there is none that can be read to its end.
fn count(path: &Path) -> io::Result<Option<u64>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(naming(path)(error)),
        Ok(file) => Ok(lines::count(path, file).ok()),
    }
}

fn counted(payloads: u64) -> StoredObject {
    StoredObject { payloads: Some(payloads), ..StoredObject::default() }
}

fn write(root: &Path, path: &Path, body: &[u8], durable: &Durable) -> io::Result<()> {
    let folder = path.parent().unwrap_or(root);
    create_folder(folder, durable)?;
    let mut temporary = tempfile::Builder::new();
    temporary.prefix(".").suffix(".tmp");
    // As any other new file: readers are let in by the umask, and not by us.
    #[cfg(unix)]
    temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = temporary.tempfile_in(folder).map_err(naming(folder))?;
    file.write_all(body).map_err(naming(path))?;
    file.as_file().sync_all().map_err(naming(path))?;
    file.persist(path).map_err(|error| naming(path)(error.error))?;
    sync_folder(folder)
}

/// Creates `folder` and the missing folders above it, and makes each name durable in the folder that holds it. One that is
/// there already may be another worker's, who has not come to that yet.
fn create_folder(folder: &Path, durable: &Durable) -> io::Result<()> {
    if folder.as_os_str().is_empty() || durable.has(folder) && folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    create_folder(above, durable)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        other => other.map_err(naming(folder))?,
    }
    // The folders above the store's own may not be ours to open.
    match sync_folder(above) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        other => other?,
    }
    durable.add(folder);
    Ok(())
}

/// Folders whose names are durable.
#[derive(Debug, Default)]
struct Durable(Mutex<HashSet<PathBuf>>);

impl Durable {
    fn has(&self, folder: &Path) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    fn add(&self, folder: &Path) {
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.len() >= DURABLE_MAX {
            folders.clear();
        }
        folders.insert(folder.to_owned());
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|handle| handle.sync_all()).map_err(naming(folder))
}
