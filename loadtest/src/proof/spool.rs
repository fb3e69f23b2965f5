//! What lies in a `SPOOL_DIR`: `v2-<uuid>/*.seg`, beside each process's `lock`, and `dead/`.

use std::collections::BTreeSet;
use std::fs::{DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

/// What is there at one moment. Files that come or go meanwhile are in it or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Remains {
    /// Segment files, by folder and name.
    pub segments: BTreeSet<String>,
    /// The bytes that all files take on disk, in whole blocks.
    pub bytes: u64,
    /// Folders of processes.
    pub folders: u64,
    /// Whether there is a folder for damaged segments.
    pub dead: bool,
    /// Whatever is neither a segment nor a lock.
    pub others: BTreeSet<String>,
}

impl Remains {
    /// A look at the folder, which need not exist.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn of(root: &Path) -> io::Result<Self> {
        let mut remains = Self::default();
        for entry in list(root)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "dead" {
                remains.dead = true;
            } else if !name.starts_with("v1-") && !name.starts_with("v2-") {
                remains.others.insert(name);
            } else {
                remains.folders += 1;
                remains.folder(&entry.path(), &name)?;
            }
        }
        Ok(remains)
    }

    fn folder(&mut self, path: &Path, folder: &str) -> io::Result<()> {
        for file in list(path)? {
            let name = file.file_name().to_string_lossy().into_owned();
            // One that is gone by now takes no space.
            self.bytes += file.metadata().as_ref().map(Metadata::blocks).unwrap_or_default() * 512;
            if name.ends_with(".seg") {
                self.segments.insert(format!("{folder}/{name}"));
            } else if name != "lock" {
                self.others.insert(format!("{folder}/{name}"));
            }
        }
        Ok(())
    }

    /// What a drained spool must not hold, in words; empty if all is well.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(first) = self.segments.first() {
            wrong.push(format!("{} segments are left in the spool, {first} the first", self.segments.len()));
        }
        if self.dead {
            wrong.push("there is a dead/ in the spool: a segment was found damaged".to_owned());
        }
        if let Some(first) = self.others.first() {
            wrong.push(format!(
                "{} things are left in the spool that are no segments, {first} the first",
                self.others.len()
            ));
        }
        wrong
    }
}

fn list(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(wrong) if wrong.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(wrong) => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_drained_spool_may_hold_empty_folders_and_locks_and_nothing_else() {
        let root = TempDir::new().unwrap();
        assert!(Remains::of(&root.path().join("none")).unwrap().wrong().is_empty());
        let folder = root.path().join("v1-a");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("lock"), "").unwrap();
        std::fs::create_dir(root.path().join("v2-b")).unwrap();
        let remains = Remains::of(root.path()).unwrap();
        assert_eq!((remains.folders, remains.bytes), (2, 0));
        assert!(remains.wrong().is_empty());

        std::fs::write(folder.join("x.ndjson.gz.seg"), [1; 5000]).unwrap();
        let remains = Remains::of(root.path()).unwrap();
        assert_eq!(remains.wrong().len(), 1, "{remains:?}");
        assert!(remains.segments.contains("v1-a/x.ndjson.gz.seg"));
        std::fs::create_dir(root.path().join("dead")).unwrap();
        std::fs::write(folder.join("probe"), "").unwrap();
        assert_eq!(Remains::of(root.path()).unwrap().wrong().len(), 3);
    }
}
