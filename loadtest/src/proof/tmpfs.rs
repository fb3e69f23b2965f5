//! A file system of a limited size.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::command::run;

/// A tmpfs, mounted until this is dropped.
#[derive(Debug)]
pub(super) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one on the folder, which is made. It needs the right to mount.
    pub(super) fn mount(folder: &Path, bytes: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "millpond"]).arg(folder))?;
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazy, since a server that is being killed may have files open in it for a moment.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}
