//! The disk of a node: an ext4 file system on a loop device.
//!
//! A power cut loses what the file system has in its page cache. What has reached the device survives, also without a flush of the device: its
//! own cache is not simulated.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::proof::command::{need_root, run};

const SIZE: u64 = 4 << 30;

/// A file system, mounted until this is dropped.
#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    /// Mounts a new one on the folder, which is made.
    /// Errors: this process is not root's, or has no loop devices.
    pub(super) fn mount(folder: &Path) -> anyhow::Result<Self> {
        need_root("loop devices")?;
        let this = Self { image: folder.with_extension("img"), folder: folder.to_owned() };
        std::fs::create_dir(folder)?;
        File::create(&this.image)?.set_len(SIZE)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&this.image))?;
        this.mount_image()?;
        Ok(this)
    }

    /// From now on nothing reaches the device: the transactions in memory are dropped, and write-back fails.
    pub(super) fn cut_power(&self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(&self.folder))
    }

    /// Mounts a copy of what the device has, which the end of the old mount cannot change.
    pub(super) fn restore(&self) -> anyhow::Result<()> {
        let copy = self.image.with_extension("copy");
        run(Command::new("cp").arg("--sparse=always").args([&self.image, &copy]))?;
        run(Command::new("umount").arg(&self.folder))?;
        std::fs::rename(&copy, &self.image).context("replacing a disk")?;
        self.mount_image()
    }

    fn mount_image(&self) -> anyhow::Result<()> {
        // The loop device is detached when the file system is unmounted.
        run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.folder]))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazy, since a node that is being killed may have files open in it for a moment.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.folder));
    }
}
