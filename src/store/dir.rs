//! The directory store: an object is a file under the root, named by its key.
//!
//! A file appears whole or not at all: it is written under a temporary name in its folder, fsynced and renamed, and then
//! the folder is fsynced. A crash leaves at most a temporary file, whose name begins with a dot, so that readers skip it. The
//! folders above a new folder are fsynced too.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::NamedTempFile;

use super::{ErrorClass, StoreError, StoredObject, Upload, lines};
use crate::disk::{on_blocking_thread, with_path};

/// The most folders whose durability is remembered. A new folder appears every hour.
const DURABLE_MAX: usize = 1024;

/// Objects as files.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    pub(super) location: String,
    durable: Arc<Durable>,
}

impl DirStore {
    pub(super) fn new(root: PathBuf) -> Self {
        let location = root.display().to_string();
        Self { root, location, durable: Arc::default() }
    }

    pub(super) async fn put(&self, upload: &Upload<'_>) -> Result<Option<StoredObject>, StoreError> {
        let (root, path, durable) = (self.root.clone(), self.root.join(upload.key), Arc::clone(&self.durable));
        let (body, payloads, may_exist) = (upload.body.clone(), upload.payloads, upload.may_exist);
        blocking(move || {
            let stored = if may_exist { count(&path)? } else { None };
            match stored.filter(|stored| *stored >= payloads) {
                // Its bytes are durable, but its name may not be.
                Some(stored) => sync_folder(path.parent().unwrap_or(&root)).map(|()| Some(counted(stored))),
                None => write(&root, &path, &body, &durable).map(|()| None),
            }
        })
        .await
    }

    pub(super) async fn count(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let path = self.root.join(key);
        blocking(move || Ok(count(&path)?.map(counted))).await
    }

    pub(super) async fn find(&self, key: &str) -> Result<Option<StoredObject>, StoreError> {
        let path = self.root.join(key);
        blocking(move || Ok(path.try_exists().map_err(with_path(&path))?.then(StoredObject::default))).await
    }

    pub(super) async fn find_any(&self, keys: &[String]) -> Result<Option<(String, StoredObject)>, StoreError> {
        for key in keys {
            if let Some(found) = self.find(key).await? {
                return Ok(Some((key.clone(), found)));
            }
        }
        Ok(None)
    }

    pub(super) async fn check_reachable(&self) -> Result<(), StoreError> {
        let root = self.root.clone();
        blocking(move || {
            fs::create_dir_all(&root).map_err(with_path(&root))?;
            NamedTempFile::new_in(&root).map(drop).map_err(with_path(&root))
        })
        .await
    }

    pub(super) async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        let path = self.root.join(key);
        blocking(move || fs::read(&path).map(Bytes::from).map_err(with_path(&path))).await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.root.join(key);
        blocking(move || fs::remove_file(&path).map_err(with_path(&path))).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, StoreError> {
    on_blocking_thread(work).await.map_err(|error| {
        use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        let is_permanent = matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | NotADirectory);
        let class = if is_permanent { ErrorClass::Permanent } else { ErrorClass::Transient };
        StoreError { class, message: error.to_string() }
    })
}

/// The number of lines of the object at `path`; none if there is no object that can be read to its end.
fn count(path: &Path) -> io::Result<Option<u64>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(with_path(path)(error)),
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
    // The usual mode of a new file, less the umask: readers are other users.
    #[cfg(unix)]
    temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = temporary.tempfile_in(folder).map_err(with_path(folder))?;
    file.write_all(body).map_err(with_path(path))?;
    file.as_file().sync_all().map_err(with_path(path))?;
    file.persist(path).map_err(|error| with_path(path)(error.error))?;
    sync_folder(folder)
}

/// Creates `folder` and the missing folders above it, and makes each name durable in the folder that holds it. Also if the
/// folder exists: another worker may have created it and not synced it yet.
fn create_folder(folder: &Path, durable: &Durable) -> io::Result<()> {
    if folder.as_os_str().is_empty() || durable.contains(folder) && folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    create_folder(above, durable)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        other => other.map_err(with_path(folder))?,
    }
    // This process may have no right to open the folders above the root.
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
    fn contains(&self, folder: &Path) -> bool {
        self.0.lock().contains(folder)
    }

    fn add(&self, folder: &Path) {
        let mut folders = self.0.lock();
        if folders.len() >= DURABLE_MAX {
            folders.clear();
        }
        folders.insert(folder.to_owned());
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|handle| handle.sync_all()).map_err(with_path(folder))
}
