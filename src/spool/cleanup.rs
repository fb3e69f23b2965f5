//! What happens to a segment's file after the upload.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::Folder;
use super::space::SegmentCharge;
use crate::disk::{Disk, with_path};

/// The cleanup after one upload.
#[derive(Debug)]
pub(super) struct Cleanup {
    pub(super) path: PathBuf,
    pub(super) folder: Arc<Folder>,
    pub(super) charge: SegmentCharge,
    pub(super) action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Remove,
    MoveToDead,
    /// The file is missing.
    Forget,
}

impl Cleanup {
    pub(super) fn run(&self, disk: &dyn Disk, dead: &Path, root: &Path) -> io::Result<()> {
        let done = match self.action {
            Action::Forget => return Ok(()),
            Action::Remove => disk.remove(&self.path).map_err(with_path(&self.path)),
            Action::MoveToDead => move_to_dead(disk, &self.path, dead, root),
        };
        match done {
            // An earlier attempt failed after this step.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        disk.sync_dir(self.folder.path()).map_err(with_path(self.folder.path()))
    }
}

/// Releases the space of a file that was removed. A file that cannot be removed still takes its space.
pub(super) fn release(removed: io::Result<()>, charge: SegmentCharge) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            charge.keep();
            Err(error)
        }
        _ => Ok(()),
    }
}

fn move_to_dead(disk: &dyn Disk, path: &Path, dead: &Path, root: &Path) -> io::Result<()> {
    disk.create_dir(dead).map_err(with_path(dead))?;
    disk.sync_dir(root).map_err(with_path(root))?;
    let name = path.file_name().unwrap_or_default();
    disk.rename(path, &dead.join(name)).map_err(with_path(path))?;
    disk.sync_dir(dead).map_err(with_path(dead))
}
