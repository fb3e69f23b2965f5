//! A file that a command writes. It appears whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::CliError;
use crate::disk::with_path;

/// A file under a temporary name, with mode 0600: payloads and profiles are not for every user.
pub(super) struct OutputFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(parent).map_err(with_path(parent))?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(super) fn writer(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Replaces a file of this name.
    pub(super) fn finish(mut self) -> Result<(), CliError> {
        let written = self.file.flush().and_then(|()| self.file.as_file().sync_all());
        written.map_err(with_path(&self.path))?;
        self.file.persist(&self.path).map_err(|error| with_path(&self.path)(error.error))?;
        Ok(())
    }

    /// Writes a whole file.
    pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
        let mut file = Self::create(path)?;
        let written: io::Result<()> = file.writer().write_all(bytes);
        written.map_err(with_path(path))?;
        file.finish()
    }
}
