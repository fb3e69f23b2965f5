//! Who else on this machine may read a file that should be its owner's alone.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Read permission of the group and of everyone.
const OTHERS_READ: u32 = 0o044;

/// Whether other users than the owner may read the file. A link is followed: the modes of what it leads to hold.
///
/// # Errors
/// The system's.
pub fn is_readable_by_others(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & OTHERS_READ != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn a_file_is_readable_by_others_if_its_group_or_everyone_may_read_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [(0o600, false), (0o711, false), (0o640, true), (0o604, true), (0o644, true)] {
            std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_others(file.path()).unwrap(), expected, "{mode:o}");
        }
        assert!(is_readable_by_others(&file.path().join("none")).is_err());
    }
}
