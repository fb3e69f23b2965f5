//! What becomes of a segment's file when its upload is over.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folders::Folder;
use super::space::Charge;
use crate::disk::{Disk, naming};

/// A segment whose upload is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) path: PathBuf,
    pub(super) folder: Arc<Folder>,
    pub(super) charge: Charge,
    pub(super) end: End,
}

/// What becomes of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Remove,
    SetAside,
    Gone,
}

impl Ended {
    pub(super) fn carry_out(&self, disk: &dyn Disk, dead: &Path, root: &Path) -> io::Result<()> {
        let done = match self.end {
            End::Gone => return Ok(()),
            End::Remove => disk.remove(&self.path).map_err(naming(&self.path)),
            End::SetAside => set_aside(disk, &self.path, dead, root),
        };
        match done {
            // An attempt before this one went so far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        disk.sync_dir(self.folder.path()).map_err(naming(self.folder.path()))
    }
}

/// Gives a file's space back if it was removed: what could not be removed still takes it.
pub(super) fn release(removed: io::Result<()>, charge: Charge) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            charge.keep();
            Err(error)
        }
        _ => Ok(()),
    }
}

fn set_aside(disk: &dyn Disk, path: &Path, dead: &Path, root: &Path) -> io::Result<()> {
    disk.create_dir(dead).map_err(naming(dead))?;
    disk.sync_dir(root).map_err(naming(root))?;
    let name = path.file_name().unwrap_or_default();
    disk.rename(path, &dead.join(name)).map_err(naming(path))?;
    disk.sync_dir(dead).map_err(naming(dead))
}
