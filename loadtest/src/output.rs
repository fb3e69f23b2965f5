//! The files that a command is asked to leave behind.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// Makes the file, if one is asked for, and leaves one that is there as it is: that it cannot be written has to be known
/// before the work, and not after it.
pub(crate) fn check(path: &Option<PathBuf>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let made = OpenOptions::new().append(true).create(true).open(path);
    made.map(drop).with_context(|| format!("making {}", path.display()))
}

pub(crate) fn write_json(path: &Option<PathBuf>, value: &impl Serialize) -> anyhow::Result<()> {
    match path {
        Some(path) => write(path, &serde_json::to_vec_pretty(value)?),
        None => Ok(()),
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_path_that_cannot_be_written_is_known_at_once_and_what_is_there_stays_until_it_is_written_over() {
        let folder = TempDir::new().unwrap();
        let (bad, good) = (Some(folder.path().join("none/a.json")), Some(folder.path().join("a.json")));
        assert!(check(&bad).unwrap_err().to_string().contains("none/a.json"));
        check(&None).unwrap();
        let text = || std::fs::read_to_string(folder.path().join("a.json")).unwrap();
        check(&good).unwrap();
        assert_eq!(text(), "");
        write_json(&good, &"from before").unwrap();
        check(&good).unwrap();
        assert_eq!(text(), "\"from before\"");
        write_json(&good, &1).unwrap();
        assert_eq!(text(), "1");
    }
}
