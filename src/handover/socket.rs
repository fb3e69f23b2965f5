//! The socket file.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen as start_listening, socket_with,
};
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixStream};

use super::HandoverError;

/// Processes that may wait to be rejected.
const LISTEN_BACKLOG: i32 = 16;
/// Temporary names begin with this; eight hexadecimal digits follow.
const TEMPORARY: &str = ".handover-";
/// A temporary file that is older belongs to a process that was killed: it is renamed at once.
const TEMPORARY_MAX_AGE: Duration = Duration::from_secs(60);
/// Only the user of the server may connect.
const MODE: u32 = 0o600;

/// Connects to the process that listens at `path`; `None` if no process does.
///
/// # Errors
/// If the file is not a socket of this user, or no socket can be created in its folder.
pub(super) async fn connect(path: &Path) -> Result<Option<UnixStream>, HandoverError> {
    check(path).map_err(|problem| HandoverError::Path { path: path.to_owned(), problem })?;
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        // The process that created it has exited.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is wrong with the path, and what to do.
fn check(path: &Path) -> Result<(), String> {
    let folder = folder(path);
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        format!(
            "the server cannot create files in {}: {error}; create the folder, and make the server's user its owner",
            folder.display()
        )
    })?;
    let file = match path.symlink_metadata() {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !file.file_type().is_socket() {
        return Err("the file is not a socket: use another path, or remove the file".to_owned());
    }
    let (owner, user) = (file.uid(), geteuid().as_raw());
    if owner != user {
        return Err(format!(
            "the socket belongs to user id {owner}, but this process runs as {user}: run both processes as the same user, or use another path"
        ));
    }
    Ok(())
}

/// Listens at `path`, in place of a socket that is there.
///
/// # Errors
/// If the file cannot be created.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    let folder = folder(path);
    let opened = File::open(folder)?;
    remove_stale(folder);
    let name = format!("{TEMPORARY}{:08x}", fastrand::u32(..));
    // The path of the temporary file may be longer than an address allows.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd()))?;
    let temporary = folder.join(name);
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &address)?;
    let placed = place(&socket, &temporary, path);
    if placed.is_err() {
        let _: io::Result<()> = std::fs::remove_file(&temporary);
    }
    placed?;
    UnixListener::from_std(OwnedFd::into(socket))
}

/// Removes the temporary sockets of processes that were killed before the rename. An error only leaves a file there.
fn remove_stale(folder: &Path) {
    let Ok(entries) = folder.read_dir() else { return };
    for entry in entries.flatten() {
        let is_temporary = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(TEMPORARY))
            .is_some_and(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let is_stale = || {
            let file = entry.metadata().ok()?;
            Some(file.file_type().is_socket() && file.modified().ok()?.elapsed().ok()? > TEMPORARY_MAX_AGE)
        };
        if is_temporary && is_stale().unwrap_or(false) {
            let _: io::Result<()> = std::fs::remove_file(entry.path());
        }
    }
}

fn place(socket: &OwnedFd, temporary: &Path, path: &Path) -> io::Result<()> {
    // Before it listens, so that no other user can have connected.
    std::fs::set_permissions(temporary, Permissions::from_mode(MODE))?;
    start_listening(socket, LISTEN_BACKLOG)?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::*;

    #[tokio::test]
    async fn the_socket_belongs_to_the_user_alone_and_replaces_a_stale_one() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            folder.path().join("x".repeat(crate::config::SOCKET_PATH_MAX_BYTES - folder.path().as_os_str().len() - 1));
        assert!(connect(&path).await.unwrap().is_none(), "no file");
        let first = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, MODE);
        assert!(connect(&path).await.unwrap().is_some());
        drop(first);
        assert!(connect(&path).await.unwrap().is_none(), "stale");
        let _second = listen(&path).unwrap();
        assert!(connect(&path).await.unwrap().is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[tokio::test]
    async fn temporary_sockets_of_killed_processes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str, age: Duration| {
            let path = folder.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            let time = (std::time::SystemTime::now() - age).duration_since(std::time::UNIX_EPOCH).unwrap();
            let time = Timespec { tv_sec: time.as_secs().try_into().unwrap(), tv_nsec: 0 };
            utimensat(CWD, &path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty())
                .unwrap();
        };
        create(".handover-0123abcd", TEMPORARY_MAX_AGE * 2);
        create(".handover-89abcdef", Duration::ZERO);
        create(".handover-of-others", TEMPORARY_MAX_AGE * 2);
        let _listener = listen(&folder.path().join("socket")).unwrap();
        let mut names: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".handover-89abcdef", ".handover-of-others", "socket"]);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_and_a_missing_folder_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = connect(&path).await.unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("not a socket"), "{error}");
        let error = connect(&folder.path().join("missing/socket")).await.unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("create the folder"), "{error}");
    }
}
