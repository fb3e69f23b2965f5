//! The log of a scenario's server, whose last lines are shown when it has gone wrong.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempPath;

/// What is shown of it at most, in lines and in bytes.
const LINES: usize = 20;
const BYTES: u64 = 8 << 10;

/// A file that the log goes to.
#[derive(Debug)]
pub(super) enum Log {
    Kept(PathBuf),
    /// It goes when this is dropped.
    Temporary(TempPath),
}

impl Log {
    pub(super) fn at(path: PathBuf) -> Self {
        Self::Kept(path)
    }

    pub(super) fn temporary() -> anyhow::Result<Self> {
        let file = tempfile::Builder::new().prefix("loadtest-").suffix(".log").tempfile();
        Ok(Self::Temporary(file.context("making a file for the server's log")?.into_temp_path()))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(path) => path,
        }
    }

    /// Its last lines, with a line before them that says so.
    pub(super) fn tail(&self) -> String {
        match read_end(self.path()) {
            Err(wrong) => format!("the server's log cannot be read: {wrong}"),
            Ok(text) if text.trim().is_empty() => "the server has logged nothing".to_owned(),
            Ok(text) => {
                let lines: Vec<_> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(LINES)..];
                format!("the end of the server's log:\n  {}", last.join("\n  "))
            }
        }
    }
}

/// The last bytes, from the beginning of a line if there is one among them.
fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, whole)) if from > 0 => whole.to_owned(),
        _ => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_lines_are_shown_and_nothing_more() {
        let log = Log::temporary().unwrap();
        assert_eq!(log.tail(), "the server has logged nothing");
        std::fs::write(log.path(), "one\ntwo\n").unwrap();
        assert_eq!(log.tail(), "the end of the server's log:\n  one\n  two");
        let long: String = (0..1_000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(log.path(), long).unwrap();
        let tail = log.tail();
        assert!(tail.contains("  line 980\n") && tail.ends_with("  line 999") && !tail.contains("line 979"), "{tail}");
        std::fs::write(log.path(), format!("{}\nlast\n", "x".repeat(10_000))).unwrap();
        assert_eq!(log.tail(), "the end of the server's log:\n  last");
    }
}
