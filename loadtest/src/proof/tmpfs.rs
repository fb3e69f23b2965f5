//! A file system of a limited size.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// A tmpfs, mounted until this is dropped.
#[derive(Debug)]
pub(super) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one on the folder, which is made. It needs the right to mount.
    pub(super) fn mount(folder: &Path, bytes: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "millpond"]).arg(folder);
        let done = mount.stdin(Stdio::null()).output().context("running mount")?;
        ensure!(done.status.success(), "mount: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazy, since a server that is being killed may have files open in it for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).stdin(Stdio::null()).output();
    }
}
