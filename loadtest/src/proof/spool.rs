//! The contents of a `SPOOL_DIR`: `v2-<uuid>/*.seg`, beside each process's `lock`, and `dead/`.

use std::collections::BTreeSet;
use std::fs::{DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

/// The contents at one moment. Files that are made or removed meanwhile are in it or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpoolContents {
    /// Segment files, by folder and name.
    pub segments: BTreeSet<String>,
    /// Bytes of all files on disk, in whole blocks.
    pub bytes: u64,
    /// Folders of processes.
    pub folders: u64,
    /// Whether there is a folder for damaged segments.
    pub dead: bool,
    /// Files that are neither a segment nor a lock.
    pub others: BTreeSet<String>,
}

impl SpoolContents {
    /// The contents of the directory, which need not exist.
    /// Errors: it cannot be read.
    pub fn of(root: &Path) -> io::Result<Self> {
        let mut contents = Self::default();
        for entry in list(root)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "dead" {
                contents.dead = true;
            } else if !name.starts_with("v1-") && !name.starts_with("v2-") {
                contents.others.insert(name);
            } else {
                contents.folders += 1;
                contents.folder(&entry.path(), &name)?;
            }
        }
        Ok(contents)
    }

    fn folder(&mut self, path: &Path, folder: &str) -> io::Result<()> {
        for file in list(path)? {
            let name = file.file_name().to_string_lossy().into_owned();
            // One that was removed meanwhile takes no space.
            self.bytes += file.metadata().as_ref().map(Metadata::blocks).unwrap_or_default() * 512;
            if name.ends_with(".seg") {
                self.segments.insert(format!("{folder}/{name}"));
            } else if name != "lock" {
                self.others.insert(format!("{folder}/{name}"));
            }
        }
        Ok(())
    }

    /// What a drained spool must not contain, in words.
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
                "{} files other than segments are left in the spool, {first} the first",
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
    fn a_drained_spool_contains_empty_folders_and_locks_and_nothing_else() {
        let root = TempDir::new().unwrap();
        assert!(SpoolContents::of(&root.path().join("none")).unwrap().wrong().is_empty());
        let folder = root.path().join("v1-a");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("lock"), "").unwrap();
        std::fs::create_dir(root.path().join("v2-b")).unwrap();
        let contents = SpoolContents::of(root.path()).unwrap();
        assert_eq!((contents.folders, contents.bytes), (2, 0));
        assert!(contents.wrong().is_empty());

        std::fs::write(folder.join("x.ndjson.gz.seg"), [1; 5000]).unwrap();
        let contents = SpoolContents::of(root.path()).unwrap();
        assert_eq!(contents.wrong().len(), 1, "{contents:?}");
        assert!(contents.segments.contains("v1-a/x.ndjson.gz.seg"));
        std::fs::create_dir(root.path().join("dead")).unwrap();
        std::fs::write(folder.join("probe"), "").unwrap();
        assert_eq!(SpoolContents::of(root.path()).unwrap().wrong().len(), 3);
    }
}
