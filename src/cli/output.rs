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
    /// A device, a FIFO or a symbolic link is left alone, because the file would replace it and not be written through it.
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        if std::fs::symlink_metadata(path).is_ok_and(|existing| !existing.is_file()) {
            return Err(CliError::Failed(format!("{}: this is no regular file: choose another name", path.display())));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_a_folder_or_a_socket_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [link, socket, file] = ["link", "socket", "file"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink("target", &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&link, &socket, &folder.path().to_owned()] {
            let error = OutputFile::write(path, b"new").unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
        std::fs::write(&file, "old").unwrap();
        OutputFile::write(&file, b"new").unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "new");
        assert_eq!(std::fs::read_link(link).unwrap(), Path::new("target"));
    }
}
