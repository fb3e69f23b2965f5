//! The permissions of files that only their owner should read.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Read permission of the group and of all users.
const OTHERS_READ: u32 = 0o044;

/// Whether users other than the owner may read the file. Symbolic links are followed.
///
/// # Errors
/// If the permissions cannot be read.
pub fn is_readable_by_others(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & OTHERS_READ != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn read_permission_of_the_group_or_of_all_users_is_detected() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [(0o600, false), (0o711, false), (0o640, true), (0o604, true), (0o644, true)] {
            std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_others(file.path()).unwrap(), expected, "{mode:o}");
        }
        assert!(is_readable_by_others(&file.path().join("none")).is_err());
    }
}
